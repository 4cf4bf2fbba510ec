//! Makes a broker have what Hearth needs, or says what it lacks.

use futures_util::future::try_join_all;
use lapin::{
    Channel, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use super::{
    link::{Link, LinkError},
    topology::{Argument, Binding, Exchange, Kind, Queue, Topology},
};

/// A declaration that the broker refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct DeclareError {
    /// What was declared.
    pub what: String,
    /// What the broker says.
    #[source]
    pub source: lapin::Error,
}

/// Declares everything; what is there already stays. The channel is closed by the broker when it refuses.
///
/// # Errors
/// Something is there with other arguments, or may not be declared by this user.
pub async fn apply(channel: &Channel, topology: &Topology) -> Result<(), DeclareError> {
    for exchange in &topology.exchanges {
        let declared = declare_exchange(channel, exchange, false).await;
        declared.map_err(|source| DeclareError { what: format!("exchange {}", exchange.name), source })?;
    }
    // The broker answers in order, so they may all be asked for at once.
    try_join_all(topology.queues.iter().map(|queue| async {
        let declared = declare_queue(channel, queue, false).await;
        declared.map_err(|source| DeclareError { what: format!("queue {}", queue.name), source })
    }))
    .await?;
    for Binding { exchange, queue, key } in &topology.bindings {
        let bound = channel
            .queue_bind(
                short(queue),
                short(exchange),
                short(key),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await;
        bound.map_err(|source| DeclareError { what: format!("binding {exchange} -> {queue}"), source })?;
    }
    Ok(())
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What.
    pub what: String,
    /// Whether it is absent; else it is there with other arguments.
    pub absent: bool,
    /// What the broker says.
    pub message: String,
}

/// Says what is absent or different, and changes nothing. Bindings cannot be asked for over AMQP.
///
/// # Errors
/// The broker cannot be reached.
pub async fn check(link: &Link, topology: &Topology) -> Result<Vec<Lack>, LinkError> {
    let mut lacks = Vec::new();
    for passive in [true, false] {
        // A refusal closes the channel; what is absent is not declared in the second round.
        let absent = |lacks: &[Lack], what: &str| lacks.iter().any(|lack| lack.what == what);
        let mut channel = link.channel().await?;
        for exchange in &topology.exchanges {
            let what = format!("exchange {}", exchange.name);
            if absent(&lacks, &what) {
                continue;
            }
            let declared = declare_exchange(&channel, exchange, passive).await;
            note(link, &mut channel, declared, what, passive, &mut lacks).await?;
        }
        for queue in &topology.queues {
            let what = format!("queue {}", queue.name);
            if absent(&lacks, &what) {
                continue;
            }
            let declared = declare_queue(&channel, queue, passive).await;
            note(link, &mut channel, declared, what, passive, &mut lacks).await?;
        }
    }
    Ok(lacks)
}

async fn note(
    link: &Link,
    channel: &mut Channel,
    declared: Result<(), lapin::Error>,
    what: String,
    absent: bool,
    lacks: &mut Vec<Lack>,
) -> Result<(), LinkError> {
    let Err(error) = declared else { return Ok(()) };
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => {
            lacks.push(Lack { what, absent, message: refusal.get_message().to_string() });
            *channel = link.channel().await?;
            Ok(())
        }
        _ => Err(link.error(error)),
    }
}

async fn declare_exchange(channel: &Channel, exchange: &Exchange, passive: bool) -> Result<(), lapin::Error> {
    let kind = match exchange.kind {
        Kind::Fanout => ExchangeKind::Fanout,
        Kind::Topic => ExchangeKind::Topic,
    };
    let mut arguments = FieldTable::default();
    if let Some(alternate) = &exchange.alternate {
        arguments.insert("alternate-exchange".into(), long(alternate));
    }
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(short(&exchange.name), kind, options, arguments).await
}

async fn declare_queue(channel: &Channel, queue: &Queue, passive: bool) -> Result<(), lapin::Error> {
    let mut arguments = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => long(text),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        arguments.insert((*name).into(), value);
    }
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(short(&queue.name), options, arguments).await.map(drop)
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

/// A name as AMQP takes it: 255 bytes at most, which our names never exceed; longer ones are cut.
pub(super) fn short(name: &str) -> ShortString {
    ShortString::try_new(name).unwrap_or_else(|_| {
        let end = (0..=255).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
        name.get(..end).unwrap_or_default().into()
    })
}
