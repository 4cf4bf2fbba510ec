//! A producer: jobs out, results in.

use bytes::Bytes;
use futures_util::StreamExt;
use hearth_schemas::event::Event;
use lapin::{
    Acker, BasicProperties, Channel, Confirmation, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};

use super::{
    declare::short,
    headers,
    link::{Endpoint, Link, LinkError},
    names::Names,
};
use crate::{ledger::unix_ms, trace::TraceContext};

/// Live events that may wait in the broker for who follows a job, in bytes.
const EVENTS_MAX_BYTES: i32 = 16 * 1024 * 1024;
/// Results, or events, that may wait to be read.
const PREFETCH: u16 = 256;

/// A connection of a producer, with a queue for its results that goes with it.
pub struct JobClient {
    link: Link,
    publishing: Channel,
    names: Names,
    replies: Replies,
}

/// The queue of results.
pub struct Replies {
    queue: String,
    consumer: Consumer,
    // Keeps the consumer's channel.
    _channel: Channel,
}

/// A result as it came.
#[derive(Clone, Debug)]
pub struct Reply {
    /// What the job was sent under.
    pub id: String,
    /// The result as JSON.
    pub body: Bytes,
    acker: Acker,
}

impl Reply {
    /// It need not come again. When that cannot be said, it does, and is a repeat. Not cancel safe: results that were not
    /// seen keep others from coming.
    pub async fn seen(&self) {
        let _ = self.acker.ack(BasicAckOptions::default()).await;
    }
}

/// A job that was not sent, or results that do not come any more.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no broker, or not any more.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Nobody takes jobs there.
    #[error("the broker has no {0}: no worker has been there yet, and `hearth topology --apply` was not run")]
    NoIntake(String),
    /// The broker is full.
    #[error("the broker did not take the job")]
    Refused,
    /// The broker has deleted the queue of live events.
    #[error("the queue of live events is gone")]
    EventsGone,
    /// The broker has deleted the queue of results.
    #[error("the queue of results is gone")]
    RepliesGone,
}

/// The live events of one job.
pub struct Followed {
    consumer: Consumer,
    /// Of the event that was given last.
    seen: Option<Acker>,
    // Keeps the consumer's channel.
    _channel: Channel,
}

impl Followed {
    /// The next event. What is none, or of a kind that we do not know, is passed over. Cancel safe: once a delivery is here
    /// nothing is waited for, and it is acknowledged when the next one is asked for.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(acker) = self.seen.take() {
                // With all before it, should one of those have been cut off. When it cannot be said, the connection is broken.
                let _ = acker.ack(BasicAckOptions { multiple: true }).await;
            }
            let Some(Ok(delivery)) = self.consumer.next().await else { return Err(ClientError::EventsGone) };
            let event = serde_json::from_slice(&delivery.data);
            self.seen = Some(delivery.acker);
            if let Ok(event) = event {
                return Ok(event);
            }
        }
    }
}

impl JobClient {
    /// Connects and makes a queue for results.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub async fn connect(endpoint: &Endpoint, names: &Names) -> Result<Self, ClientError> {
        let link = Link::open(endpoint, "hearth submit").await?;
        let (publishing, replying) = (link.channel().await?, link.channel().await?);
        let broke = |error| link.error(error);
        publishing.confirm_select(ConfirmSelectOptions::default()).await.map_err(broke)?;
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = replying.queue_declare("".into(), options, FieldTable::default()).await.map_err(broke)?;
        replying.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(broke)?;
        let consumer = replying
            .basic_consume(
                queue.name().clone(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(broke)?;
        let replies = Replies { queue: queue.name().to_string(), consumer, _channel: replying };
        Ok(Self { link, publishing, names: names.clone(), replies })
    }

    /// Binds a queue of its own for the live events of a job that is not sent yet. What waits there to be read is bounded:
    /// the broker drops the oldest.
    ///
    /// # Errors
    /// The broker has no exchange of events, or is away.
    pub async fn follow(&self, id: &str) -> Result<Followed, ClientError> {
        let channel = self.link.channel().await?;
        let exchange = self.names.events();
        let broke = |error: lapin::Error| match error.to_string().contains("NOT_FOUND") {
            true => ClientError::NoIntake(exchange.clone()),
            false => self.link.error(error).into(),
        };
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length-bytes".into(), AMQPValue::LongInt(EVENTS_MAX_BYTES));
        let queue = channel.queue_declare("".into(), options, arguments).await.map_err(broke)?;
        let (queue, key) = (queue.name().clone(), short(&format!("{id}.*")));
        let none = FieldTable::default;
        let bind = QueueBindOptions::default();
        channel.queue_bind(queue.clone(), short(&exchange), key, bind, none()).await.map_err(broke)?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(broke)?;
        let consume = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue, "".into(), consume, none()).await.map_err(broke)?;
        Ok(Followed { consumer, seen: None, _channel: channel })
    }

    /// What sends jobs, and what reads results; the connection lives as long as the first.
    pub fn split(self) -> (JobSender, Replies) {
        let Self { link, publishing, names, replies } = self;
        let (reply_to, user) = (replies.queue.clone(), link.endpoint().user());
        (JobSender { link, publishing, jobs: names.jobs(), reply_to, user, trace: None }, replies)
    }
}

/// Sends jobs.
pub struct JobSender {
    link: Link,
    publishing: Channel,
    jobs: String,
    reply_to: String,
    user: Option<String>,
    trace: Option<TraceContext>,
}

impl JobSender {
    /// The same, for jobs that belong to a trace.
    pub fn with_trace(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    /// Sends a job under an id, unless it has one of its own; its result comes with that same `id` in any case. `Ok` means
    /// that the job is in the intake. The deadline counts from now. Not cancel safe.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(&self, id: &str, body: &[u8]) -> Result<(), ClientError> {
        self.publish(id, body, Some(&self.reply_to)).await
    }

    /// The same for a job whose result nobody here waits for: it goes to the exchange of results.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send_without_reply(&self, id: &str, body: &[u8]) -> Result<(), ClientError> {
        self.publish(id, body, None).await
    }

    async fn publish(&self, id: &str, body: &[u8], reply_to: Option<&str>) -> Result<(), ClientError> {
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(short(id))
            .with_correlation_id(short(id))
            .with_timestamp(unix_ms() / 1000);
        if let Some(queue) = reply_to {
            properties = properties.with_reply_to(short(queue));
        }
        // The broker vouches for it: whose job it is.
        if let Some(user) = &self.user {
            properties = properties.with_user_id(short(user));
        }
        if let Some(trace) = &self.trace {
            properties = properties.with_headers(headers::traced(trace));
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent =
            self.publishing.basic_publish(short(&self.jobs), "".into(), options, body, properties).await;
        let confirmation = match sent {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        match confirmation {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(Confirmation::Ack(Some(_))) => Err(ClientError::NoIntake(self.jobs.clone())),
            Ok(_) => Err(ClientError::Refused),
            Err(error) if error.to_string().contains("NOT_FOUND") => {
                Err(ClientError::NoIntake(self.jobs.clone()))
            }
            Err(error) => Err(self.link.error(error).into()),
        }
    }
}

impl Replies {
    /// The next result. Say that it was [`Reply::seen`]. Cancel safe.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next(&mut self) -> Result<Reply, ClientError> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => {
                let id = delivery
                    .properties
                    .correlation_id()
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                Ok(Reply { id, body: delivery.data.into(), acker: delivery.acker })
            }
            Some(Err(_)) | None => Err(ClientError::RepliesGone),
        }
    }
}
