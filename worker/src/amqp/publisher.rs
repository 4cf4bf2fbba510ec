//! Publishes so that it is known what became of a message: confirmed and routed, or not.
//!
//! It has a connection of its own, since a broker that is short of memory or disk stops reading from connections that
//! publish, and acknowledgements must not wait behind that.

use std::{sync::Arc, time::Duration};

use lapin::{
    BasicProperties, Channel, Confirmation, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};

use super::{
    declare::short,
    link::{Endpoint, Link, LinkError},
};

/// How long a confirm may take; after that the outcome is unknown.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);
/// After a failure to connect, how long others get the same answer without trying.
const CONNECT_PAUSE: Duration = Duration::from_millis(250);
/// Persistent, as AMQP's delivery modes go.
const PERSISTENT: u8 = 2;

/// What became of a message that the broker has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It is in a queue.
    Routed,
    /// There was no queue for it, and it is gone. lapin calls this an acknowledgement, as does the broker.
    Unroutable,
}

/// A message that is not known to have arrived.
#[derive(Debug, thiserror::Error)]
pub enum NotPublished {
    /// There is no connection.
    #[error(transparent)]
    Link(#[from] Arc<LinkError>),
    /// The broker takes nothing for now.
    #[error("the broker takes no messages: {reason}")]
    Blocked {
        /// What it says.
        reason: String,
    },
    /// The connection broke; the outcome is unknown.
    #[error("the connection broke before the confirm")]
    Broken(#[source] lapin::Error),
    /// No confirm came; the outcome is unknown.
    #[error("no confirm within {CONFIRM_LIMIT:?}")]
    Unconfirmed,
    /// The broker did not take it.
    #[error("the broker did not take it: the queue is full or failing")]
    Refused,
}

impl NotPublished {
    /// Whether the broker is away, rather than unwilling to take this message.
    pub fn is_outage(&self) -> bool {
        !matches!(self, Self::Refused)
    }
}

/// Publishes over one connection, made when it is first needed and again after it broke. Clones share it.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Endpoint,
    purpose: String,
    live: Mutex<State>,
    health: watch::Sender<Health>,
}

/// Whether messages get through, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing was published yet.
    Idle,
    /// The connection is up.
    Up,
    /// The broker takes nothing, or cannot be reached; why.
    Down(String),
}

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    failed: Option<(Instant, Arc<LinkError>)>,
}

struct Live {
    channel: Channel,
    link: Link,
}

impl Publisher {
    /// Makes one; connects when it is needed. `purpose` is what operators see in the broker's list of connections.
    pub fn new(endpoint: Endpoint, purpose: &str) -> Self {
        let health = watch::Sender::new(Health::Idle);
        Self {
            shared: Arc::new(Shared {
                endpoint,
                purpose: purpose.to_owned(),
                live: Mutex::default(),
                health,
            }),
        }
    }

    /// Whether messages get through.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Connects now, if there is no connection.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub async fn connect(&self) -> Result<(), NotPublished> {
        self.live().await?;
        Ok(())
    }

    /// Publishes a persistent message. `Ok` means confirmed; look whether it was routed. Not cancel safe: the outcome
    /// is unknown.
    ///
    /// # Errors
    /// See [`NotPublished`].
    pub async fn publish(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<Confirmed, NotPublished> {
        let live = self.live().await?;
        if let Some(reason) = live.link.blocked().borrow().clone() {
            self.note(Health::Down(reason.clone()));
            return Err(NotPublished::Blocked { reason });
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = properties.with_delivery_mode(PERSISTENT);
        let publishing = async {
            let sent =
                live.channel.basic_publish(short(exchange), short(key), options, body, properties).await?;
            sent.await
        };
        let mut blocked = live.link.blocked().clone();
        let confirmation = tokio::select! {
            confirmation = timeout(CONFIRM_LIMIT, publishing) => confirmation,
            Ok(reason) = blocked.wait_for(Option::is_some) => {
                let reason = reason.clone().unwrap_or_default();
                self.note(Health::Down(reason.clone()));
                return Err(NotPublished::Blocked { reason });
            }
        };
        match confirmation {
            Ok(Ok(Confirmation::Ack(None))) => {
                self.note(Health::Up);
                Ok(Confirmed::Routed)
            }
            Ok(Ok(Confirmation::Ack(Some(_)))) => Ok(Confirmed::Unroutable),
            Ok(Ok(Confirmation::Nack(_) | Confirmation::NotRequested)) => Err(NotPublished::Refused),
            Ok(Err(source)) => {
                self.drop_link(&live).await;
                self.note(Health::Down(source.to_string()));
                Err(NotPublished::Broken(source))
            }
            Err(_) => {
                self.drop_link(&live).await;
                Err(NotPublished::Unconfirmed)
            }
        }
    }

    /// Hands a message to the broker, whether or not there is a queue for it, without waiting for its confirm.
    ///
    /// # Errors
    /// It was not handed over.
    pub async fn send(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<PublisherConfirm, NotPublished> {
        let live = self.live().await?;
        if let Some(reason) = live.link.blocked().borrow().clone() {
            return Err(NotPublished::Blocked { reason });
        }
        let options = BasicPublishOptions::default();
        let sent = live.channel.basic_publish(short(exchange), short(key), options, body, properties).await;
        sent.map_err(NotPublished::Broken)
    }

    async fn live(&self) -> Result<Arc<Live>, Arc<LinkError>> {
        let mut state = self.shared.live.lock().await;
        if let Some(live) =
            state.live.as_ref().filter(|live| live.link.is_up() && live.channel.status().connected())
        {
            return Ok(live.clone());
        }
        state.live = None;
        if let Some((when, error)) = &state.failed
            && when.elapsed() < CONNECT_PAUSE
        {
            return Err(error.clone());
        }
        match open(&self.shared.endpoint, &self.shared.purpose).await {
            Ok(live) => {
                let live = Arc::new(live);
                (state.live, state.failed) = (Some(live.clone()), None);
                self.note(Health::Up);
                Ok(live)
            }
            Err(error) => {
                let error = Arc::new(error);
                state.failed = Some((Instant::now(), error.clone()));
                self.note(Health::Down(error.to_string()));
                Err(error)
            }
        }
    }

    /// Forgets a connection that does not work, unless somebody has made a new one.
    async fn drop_link(&self, broken: &Arc<Live>) {
        let mut state = self.shared.live.lock().await;
        if state.live.as_ref().is_some_and(|live| Arc::ptr_eq(live, broken)) {
            state.live = None;
        }
    }

    fn note(&self, health: Health) {
        self.shared.health.send_if_modified(|now| {
            let changed = *now != health;
            *now = health;
            changed
        });
    }
}

async fn open(endpoint: &Endpoint, purpose: &str) -> Result<Live, LinkError> {
    let link = Link::open(endpoint, purpose).await?;
    let channel = link.channel().await?;
    let selected = channel.confirm_select(ConfirmSelectOptions::default()).await;
    selected.map_err(|source| link.error(source))?;
    Ok(Live { channel, link })
}
