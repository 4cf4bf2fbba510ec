//! Live events go out, to whoever has bound a queue for them.
//!
//! Over a connection of its own, made with the first job that is watched: a broker that cannot keep up stops reading
//! from the connection that brings too much, and results must not wait behind what a job prints. Nothing waits for an
//! event: what the broker does not take in time waits in the job's backlog, where it is dropped and marked.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hearth_schemas::event::Event;
use lapin::{BasicProperties, PublisherConfirm};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    declare::short,
    link::Endpoint,
    names::Names,
    publisher::{NotPublished, Publisher},
};
use crate::live::{Events, Outlet};

/// Events of one job that the broker has not confirmed, at most.
const UNCONFIRMED_MAX: usize = 32;
/// The pause before what is not confirmed is sent again.
const AGAIN_PAUSE: Duration = Duration::from_millis(250);
/// How long the broker may be away before a job's events are given up.
const GIVE_UP: Duration = Duration::from_secs(30);
/// How long a confirm may take; after that the event is sent again.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);
/// Kept in memory only, as AMQP's delivery modes go.
const TRANSIENT: u8 = 1;

/// Publishes the events of jobs that ask for them. Clones share it.
#[derive(Clone)]
pub struct AmqpEvents {
    publisher: Publisher,
    names: Names,
    /// Attempts whose events are not all out.
    telling: Arc<watch::Sender<usize>>,
}

impl AmqpEvents {
    /// Connects when there is something to tell.
    pub fn new(endpoint: Endpoint, worker: &str, names: Names) -> Self {
        let publisher = Publisher::new(endpoint, &format!("hearth {worker} events"));
        Self { publisher, names, telling: Arc::new(watch::Sender::new(0)) }
    }

    /// Where a service's events go. Within a runtime.
    pub fn outlet(&self) -> Outlet {
        let this = self.clone();
        Arc::new(move |events| {
            let this = this.clone();
            this.telling.send_modify(|telling| *telling += 1);
            tokio::spawn(async move {
                let job = events.job().clone();
                if let Err(error) = this.tell(events).await {
                    tracing::warn!(%job, %error, "the rest of its live events is not told");
                }
                this.telling.send_modify(|telling| *telling -= 1);
            });
        })
    }

    /// Resolves when all is out, or is given up. Cancel safe.
    pub async fn told(&self) {
        let _ = self.telling.subscribe().wait_for(|telling| *telling == 0).await;
    }

    /// Tells one attempt's events in order. What the broker may not have heard is told again, so that a number may come
    /// twice and none is missing.
    async fn tell(&self, mut events: Events) -> Result<(), NotPublished> {
        let mut told = VecDeque::<Telling>::new();
        let (mut more, mut trouble) = (true, None);
        while more || !told.is_empty() {
            let worked = tokio::select! {
                event = events.next(), if more && told.len() < UNCONFIRMED_MAX => match event {
                    Some(event) => {
                        told.push_back(Telling { event, confirm: None });
                        self.send(&mut told).await
                    }
                    None => {
                        more = false;
                        Ok(())
                    }
                },
                confirmed = first(&mut told), if !told.is_empty() => match confirmed {
                    Ok(()) => {
                        told.pop_front();
                        trouble = None;
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            };
            let Err(error) = worked else { continue };
            if trouble.get_or_insert_with(Instant::now).elapsed() > GIVE_UP {
                return Err(error);
            }
            told.iter_mut().for_each(|telling| telling.confirm = None);
            sleep(AGAIN_PAUSE).await;
            // Should that fail, the next wait for a confirm does.
            let _ = self.send(&mut told).await;
        }
        Ok(())
    }

    /// Sends what is not under way.
    async fn send(&self, told: &mut VecDeque<Telling>) -> Result<(), NotPublished> {
        for telling in told.iter_mut().filter(|telling| telling.confirm.is_none()) {
            let Event { id, tenant, attempt, seq, what, .. } = &telling.event;
            let properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_delivery_mode(TRANSIENT)
                .with_message_id(short(&format!("{tenant}.{id}.{attempt}.{seq}")))
                .with_correlation_id(short(id));
            let key = format!("{id}.{}", what.kind());
            // An event has string keys only and no number that JSON lacks, so this cannot fail.
            let body = serde_json::to_vec(&telling.event).unwrap_or_default();
            telling.confirm = Some(self.publisher.send(&self.names.events(), &key, properties, &body).await?);
        }
        Ok(())
    }
}

struct Telling {
    event: Event,
    confirm: Option<PublisherConfirm>,
}

/// Resolves when the broker has what was sent first. Cancel safe.
async fn first(told: &mut VecDeque<Telling>) -> Result<(), NotPublished> {
    let Some(Telling { confirm: Some(confirm), .. }) = told.front_mut() else {
        return Err(NotPublished::Unconfirmed);
    };
    match timeout(CONFIRM_LIMIT, confirm).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(NotPublished::Broken(error)),
        Err(_) => Err(NotPublished::Unconfirmed),
    }
}
