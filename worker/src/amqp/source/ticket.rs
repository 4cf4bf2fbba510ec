//! Consumers: for one message, or for as long as a connection lives; and looks at queues.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{
        BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::time::timeout;

use crate::amqp::declare::short;

/// How long a ticket waits for a message that was said to be there; others may have taken it.
const TICKET_PATIENCE: Duration = Duration::from_millis(150);

/// Fetches at most one message. The channel's prefetch must be 1, so that there is never a second. Not cancel safe:
/// a message may be fetched and stay unsettled until the channel closes.
pub(super) async fn ticket(channel: &Channel, queue: String) -> Result<Option<Box<Delivery>>, lapin::Error> {
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume(short(&queue), "".into(), options, FieldTable::default()).await?;
    let first = timeout(TICKET_PATIENCE, consumer.next()).await;
    let mut found = match first {
        Ok(Some(delivery)) => Some(delivery?),
        // The queue is gone.
        Ok(None) => return Ok(None),
        Err(_) => None,
    };
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    // It may have come while the cancel was on its way.
    for delivery in rest(consumer).await? {
        found.get_or_insert(delivery);
    }
    Ok(found.map(Box::new))
}

/// Ends a consumer; what it had fetched and nobody has seen.
pub(super) async fn cancel(channel: &Channel, consumer: Consumer) -> Result<Vec<Delivery>, lapin::Error> {
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    rest(consumer).await
}

/// What is left in a cancelled consumer.
async fn rest(mut consumer: Consumer) -> Result<Vec<Delivery>, lapin::Error> {
    let mut rest = Vec::new();
    while let Some(delivery) = consumer.next().await {
        rest.push(delivery?);
    }
    Ok(rest)
}

/// What is in a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub messages: u32,
    pub consumers: u32,
}

/// Looks at a queue. The channel is closed by the broker when the queue is not there.
pub(super) async fn look(channel: Channel, queue: String) -> Result<Seen, lapin::Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(short(&queue), options, FieldTable::default()).await?;
    Ok(Seen { messages: queue.message_count(), consumers: queue.consumer_count() })
}

/// A consumer with a prefetch of its own: a channel's applies to the consumers that come after it.
pub(super) async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> Result<Consumer, lapin::Error> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    channel.basic_consume(short(queue), "".into(), options, FieldTable::default()).await
}

/// What is told to all workers, in a queue of our own that goes with the connection.
pub(super) async fn control(channel: &Channel, exchange: &str) -> Result<Consumer, lapin::Error> {
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    let bound = QueueBindOptions::default();
    channel
        .queue_bind(queue.name().clone(), short(exchange), "".into(), bound, FieldTable::default())
        .await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_qos(0, BasicQosOptions::default()).await?;
    channel.basic_consume(queue.name().clone(), "".into(), options, FieldTable::default()).await
}
