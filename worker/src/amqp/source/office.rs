//! What the source asks of the service: who a message is for, a place to wait, an end without a run.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use hearth_schemas::{
    job::{is_name, probe},
    result::{Cause, Status},
};
use lapin::BasicProperties;
use tokio::sync::mpsc;

use crate::{
    admit::Job,
    amqp::{
        control::{Control, RunQueue},
        headers::{self, Avoid, Origin},
        names::{Names, shard},
        publisher::{Confirmed, NotPublished, Publisher},
    },
    attempt::chain,
    finish,
    handle::Service,
    ledger::{Begun, Commit, JobKey, Ledger, LedgerError, Registered, Registration, TenantLimits},
    meters, reaper,
    route::{Route, registration},
    seams::{Properties, Publication, ResultSink},
};

/// A message, whatever it was consumed from.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub body: Bytes,
    pub raw: BasicProperties,
    pub redelivered: bool,
    pub origin: Origin,
}

/// A message that carries a job.
#[derive(Clone, Debug)]
pub(super) struct Slip {
    pub message: Message,
    pub properties: Properties,
    pub avoid: Avoid,
    pub key: JobKey,
    pub digest: String,
    pub registration: Registration,
    /// Where it came from, or would wait if nobody else's jobs were in the way.
    pub queue: RunQueue,
    /// Whether it has live events.
    pub stream: bool,
    /// Whether the id is the message's or the request's, and not one that we made up just now.
    pub has_id: bool,
}

/// What a message is.
#[derive(Debug)]
pub(super) enum Reception {
    /// A job.
    Job(Box<Slip>),
    /// Something that is answered with a refusal.
    Refused(Properties),
    /// Something that cannot even be refused, since nobody could tell whose refusal it is; why.
    Nobody(String),
}

/// What came of parking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parked {
    /// It is in its queue: acknowledge the message.
    Parked,
    /// It needs no VM: handle the message.
    Decided,
}

/// Why a job is not parked. Try again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ParkError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    NotPublished(#[from] NotPublished),
    #[error("the queue {queue} is not there")]
    NoQueue { queue: String },
}

/// See the module. For one process, whatever its ledger and sink.
pub(super) trait Office: Send + Sync + 'static {
    fn receive(&self, message: Message) -> Reception;
    fn park<'a>(&'a self, slip: &'a Slip, avoid: &'a Avoid) -> BoxFuture<'a, Result<Parked, ParkError>>;
    /// Puts a message where people look.
    fn bury<'a>(
        &'a self,
        message: &'a Message,
        reason: &'a str,
        attempts: u32,
    ) -> BoxFuture<'a, Result<(), ParkError>>;
    /// Ends a job that the broker has given up on, and buries its message.
    fn fallen<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), FallError>>;
    fn cancel(&self, key: JobKey) -> BoxFuture<'_, ()>;
    fn ring(&self, queues: Vec<RunQueue>) -> BoxFuture<'_, ()>;
    /// So many jobs of a runtime wait on the broker, and so many of them are ours to run.
    fn waiting(&self, runtime: &str, jobs: u32, ours: u32);
}

/// A fallen message that is not dealt with yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum FallError {
    #[error("its job is held for another {0:?}")]
    Held(Duration),
    #[error(transparent)]
    Park(#[from] ParkError),
    #[error("its result was not published")]
    Result(#[from] crate::seams::PublishError),
}

impl From<LedgerError> for FallError {
    fn from(error: LedgerError) -> Self {
        Self::Park(error.into())
    }
}

/// The office of a service.
pub(super) struct ServiceOffice<L, S> {
    pub service: Arc<Service<L, S>>,
    pub publisher: Publisher,
    pub names: Names,
    pub shards: u16,
    pub bells: mpsc::Sender<RunQueue>,
}

impl<L: Ledger, S: ResultSink> ServiceOffice<L, S> {
    fn slip(&self, job: &Job, message: Message, properties: Properties, avoid: Avoid, has_id: bool) -> Slip {
        let shard = shard(&job.key.tenant, self.shards);
        let queue = RunQueue { runtime: job.pool_key(), lane: job.lane, shard };
        let mut registration = registration(job, &properties, &self.service.intake().quotas);
        registration.shards = self.shards;
        let (key, digest) = (job.key.clone(), job.digest.clone());
        let stream = job.stream;
        Slip { message, properties, avoid, key, digest, registration, queue, stream, has_id }
    }

    async fn park_slip(&self, slip: &Slip, avoid: &Avoid) -> Result<Parked, ParkError> {
        let ledger = &self.service.ledger;
        let shard = match ledger.register(&slip.key, &slip.digest, &slip.registration).await? {
            Registered::Waiting { cancelled: false, shard } | Registered::Held { shard, .. } => shard,
            _ => return Ok(Parked::Decided),
        };
        let place = RunQueue { shard, ..slip.queue.clone() };
        let queue = self.names.run(&place.runtime, place.lane, place.shard);
        let raw = headers::parked(&slip.message.raw, &slip.properties, &slip.key.id, avoid);
        match self.publisher.publish("", &queue, raw, &slip.message.body).await? {
            Confirmed::Routed => {
                // Who is not told finds it all the same, a little later.
                let _ = self.bells.try_send(place);
                if slip.stream {
                    self.service.tell_queued(&slip.key);
                }
                Ok(Parked::Parked)
            }
            Confirmed::Unroutable => Err(ParkError::NoQueue { queue }),
        }
    }

    async fn end_fallen(&self, message: &Message) -> Result<(), FallError> {
        let reason = headers::fall_reason(&message.raw).unwrap_or_else(|| "unknown".to_owned());
        let slip = match self.receive(message.clone()) {
            Reception::Job(slip) => slip,
            Reception::Refused(properties) => {
                if let Err(result) = self.service.intake().job(&message.body, &properties, &new_id()) {
                    let (tenant, id) = (result.tenant.clone(), result.id.clone());
                    let body = finish::encode(&result);
                    self.service.sink.publish(&Publication { body, tenant, id, properties }).await?;
                }
                return Ok(self.bury(message, &reason, 0).await?);
            }
            Reception::Nobody(why) => return Ok(self.bury(message, &why, 0).await?),
        };
        let worker = self.service.worker();
        // It is ended and not run, so its tenant's limits do not matter.
        let registration = Registration { limits: TenantLimits::default(), ..slip.registration.clone() };
        let begun = self.service.ledger.begin_with(&slip.key, &slip.digest, worker, &registration).await?;
        let (body, attempts) = match begun {
            Begun::Held { lapses_in } => return Err(FallError::Held(lapses_in)),
            Begun::TenantBusy(busy) => return Err(FallError::Held(busy.again_in())),
            Begun::Conflict => return Ok(self.bury(message, "id_conflict", 0).await?),
            Begun::Committed(body) | Begun::Done { result: body, .. } => (body, 0),
            Begun::Begun { token, history, .. } => {
                let route = Route::decode(&slip.registration.route);
                let mut result = match reason.as_str() {
                    "expired" => route.result(&slip.key, Status::Expired, Some(Cause::Deadline)),
                    _ => finish::fallen(&route, &slip.key, &reason, &history),
                };
                result.worker = Some(worker.to_owned());
                let attempts = u32::try_from(history.len()).unwrap_or(u32::MAX);
                let body = finish::encode(&result);
                match self.service.ledger.commit(&token, body.clone()).await? {
                    Commit::Committed => {
                        meters::ended(&result);
                        self.service.tell_ended(&route, &slip.key, history.len(), &result);
                        (body, attempts)
                    }
                    Commit::Lost => return Err(FallError::Held(Duration::from_secs(1))),
                }
            }
        };
        let route = Route::decode(&slip.registration.route);
        let publication = route.publication(&slip.key, body);
        self.service.sink.publish(&publication).await?;
        self.service.ledger.published(&slip.key, publication.properties.told()).await?;
        Ok(self.bury(message, &reason, attempts).await?)
    }
}

impl<L: Ledger, S: ResultSink> Office for ServiceOffice<L, S> {
    fn receive(&self, message: Message) -> Reception {
        let (properties, avoid) = headers::read(&message.raw, message.redelivered, message.origin);
        let new_id = new_id();
        match self.service.intake().job(&message.body, &properties, &new_id) {
            Ok(job) => {
                let has_id = job.key.id != new_id;
                Reception::Job(Box::new(self.slip(&job, message, properties, avoid, has_id)))
            }
            Err(refused) => {
                let named = properties.message_id.is_some()
                    || probe(&message.body).id.is_some_and(|id| is_name(&id))
                    || properties.correlation_id.is_some()
                    || properties
                        .reply_to
                        .as_ref()
                        .is_some_and(|queue| self.service.intake().replies_to(queue));
                if named {
                    return Reception::Refused(properties);
                }
                let why = refused.refusal.map_or_else(String::new, |refusal| refusal.message);
                Reception::Nobody(format!("it has no id, nobody to tell, and is refused: {why}"))
            }
        }
    }

    fn park<'a>(&'a self, slip: &'a Slip, avoid: &'a Avoid) -> BoxFuture<'a, Result<Parked, ParkError>> {
        self.park_slip(slip, avoid).boxed()
    }

    fn bury<'a>(
        &'a self,
        message: &'a Message,
        reason: &'a str,
        attempts: u32,
    ) -> BoxFuture<'a, Result<(), ParkError>> {
        async move {
            let (raw, queue) =
                (headers::dead(&message.raw, message.origin, reason, attempts), self.names.dead());
            match self.publisher.publish("", &queue, raw, &message.body).await? {
                Confirmed::Routed => Ok(()),
                Confirmed::Unroutable => Err(ParkError::NoQueue { queue }),
            }
        }
        .boxed()
    }

    fn fallen<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), FallError>> {
        self.end_fallen(message).boxed()
    }

    fn cancel(&self, key: JobKey) -> BoxFuture<'_, ()> {
        async move {
            if let Err(error) = reaper::cancel(&self.service, &key).await {
                tracing::warn!(job = %key, error = chain(&error), "a cancel may not have reached everybody");
            }
        }
        .boxed()
    }

    fn ring(&self, queues: Vec<RunQueue>) -> BoxFuture<'_, ()> {
        async move {
            let bell = Control::Bell(queues).encode();
            let rung =
                self.publisher.publish(&self.names.control(), "", BasicProperties::default(), &bell).await;
            if let Err(error) = rung {
                tracing::debug!(error = chain(&error), "a bell was not heard");
            }
        }
        .boxed()
    }

    fn waiting(&self, runtime: &str, jobs: u32, ours: u32) {
        meters::JOBS_WAITING.set(&[runtime], jobs.into());
        self.service.pool.set_backlog(runtime, ours);
    }
}

fn new_id() -> String {
    ulid::Ulid::generate().to_string()
}
