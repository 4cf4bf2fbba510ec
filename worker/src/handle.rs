//! One delivery, from its arrival to its receipt.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use hearth_pool::pool::Pool;
use hearth_schemas::{
    event::State,
    result::{JobResult, RefusalCode},
};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::{
    admit::Job,
    amqp::spool::Spool,
    attempt::{Attempted, attempt},
    begin::begin,
    crash::crash_point,
    decide::{Decided, decide},
    dispose::{Decision, dispose, exhausted},
    finish,
    intake::Intake,
    ledger::{Begun, JobKey, Ledger, LedgerError, Token, unix_ms},
    live::{self, Feed, Outlet},
    meters,
    route::{self, Route, registration},
    seams::{Delivery, Properties, Publication, Receipt, ResultSink, Settled, Settlement},
    stop::Running,
    tenants::WaitingRooms,
    trace::{self, step},
};

/// Pauses between tries to publish; after the last the delivery comes again, and the result is in the ledger.
const PUBLISH_PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];
/// How long a delivery waits when the ledger cannot be reached.
const LEDGER_PAUSE: Duration = Duration::from_secs(1);

/// What handling a delivery needs.
pub struct Service<L, S> {
    /// Where jobs live.
    pub ledger: L,
    /// Where results go.
    pub sink: S,
    /// Where VMs come from.
    pub pool: Pool,
    /// The jobs that run here.
    pub running: Running,
    /// The jobs that wait here for their tenants.
    pub rooms: WaitingRooms,
    worker: String,
    intake: RwLock<Arc<Intake>>,
    outlet: Option<Outlet>,
    spool: Option<Arc<Spool>>,
}

impl<L, S> Service<L, S> {
    /// Puts a service together.
    pub fn new(ledger: L, sink: S, pool: Pool, intake: Intake) -> Self {
        let (worker, intake) = (intake.worker.clone(), RwLock::new(Arc::new(intake)));
        Self {
            ledger,
            sink,
            pool,
            running: Running::default(),
            rooms: WaitingRooms::default(),
            worker,
            intake,
            outlet: None,
            spool: None,
        }
    }

    /// The same, with a place on disk for results that are not committed yet, while the ledger is away.
    pub fn with_spool(self, spool: Arc<Spool>) -> Self {
        Self { spool: Some(spool), ..self }
    }

    pub(crate) fn spool(&self) -> Option<Arc<Spool>> {
        self.spool.clone()
    }

    /// The same, with somewhere for live events to go. Without it there are none.
    pub fn with_outlet(self, outlet: Outlet) -> Self {
        Self { outlet: Some(outlet), ..self }
    }

    /// Where the events of an attempt go in: nowhere unless the job asks for them and somebody takes them.
    pub(crate) fn feed(&self, job: &Job, attempt: usize) -> Feed {
        let Some(outlet) = self.outlet.as_ref().filter(|_| job.stream) else { return Feed::none() };
        let (feed, events) = live::channel(&job.key, u32::try_from(attempt).unwrap_or(u32::MAX));
        outlet(events);
        feed
    }

    /// Tells whoever watches that the job waits.
    pub(crate) fn tell_queued(&self, key: &JobKey) {
        if let Some(outlet) = &self.outlet {
            let (feed, events) = live::channel(key, 0);
            feed.state(State::Queued);
            outlet(events);
        }
    }

    /// Tells whoever watches that a job has its result without an attempt, after so many that failed.
    pub(crate) fn tell_ended(&self, route: &Route, key: &JobKey, failed: usize, result: &JobResult) {
        if let Some(outlet) = self.outlet.as_ref().filter(|_| route.stream) {
            let (feed, events) = live::channel(key, u32::try_from(failed + 1).unwrap_or(u32::MAX));
            feed.finished(result);
            outlet(events);
        }
    }

    /// What admission knows now.
    pub fn intake(&self) -> Arc<Intake> {
        self.intake.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on admission knows this. The worker's name stays.
    pub fn set_intake(&self, intake: Intake) {
        *self.intake.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(intake);
    }

    /// This worker's name.
    pub fn worker(&self) -> &str {
        &self.worker
    }
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Its receipt was spent.
    Settled(Settled),
    /// A crash point was hit: the receipt was dropped, as when a process dies.
    Crashed,
}

/// Handles one delivery. When the future is dropped, the receipt is too, and the delivery comes again.
pub async fn handle<L: Ledger, S: ResultSink, R: Receipt>(
    service: &Service<L, S>,
    delivery: Delivery<R>,
) -> Handled {
    let span = trace::delivery(service.worker(), delivery.properties.trace.as_ref());
    handle_within(service, delivery).instrument(span).await
}

async fn handle_within<L: Ledger, S: ResultSink, R: Receipt>(
    service: &Service<L, S>,
    delivery: Delivery<R>,
) -> Handled {
    let Delivery { body, mut properties, mut receipt } = delivery;
    let arrived = sent(&properties);
    let job = match service.intake().job(&body, &properties, &ulid::Ulid::generate().to_string()) {
        Ok(job) => job,
        Err(refused) => return answer(service, &refused, properties, receipt).await,
    };
    trace::admitted(&job);
    crash_point!("before-begin");
    let registration = registration(&job, &properties, &service.intake().quotas);
    let begun = begin(service, &job, &registration, &mut properties, &mut receipt).await;
    let (token, history, cancelled) = match begun {
        Ok(Begun::Begun { token, history, cancelled }) => (token, history, cancelled),
        Ok(Begun::Held { lapses_in }) => return retry(receipt, lapses_in).await,
        Ok(Begun::TenantBusy(_)) => return retry(receipt, Duration::ZERO).await,
        Ok(Begun::Committed(result)) => return deliver(service, &job, result, properties, receipt).await,
        // What had to be told was told, and to whom this message wants it told.
        Ok(Begun::Done { told, .. }) if properties.redelivered && told == properties.told() => {
            return settle(receipt, Settlement::Ack).await;
        }
        // It was ended while its message waited, and its producer has been told.
        Ok(Begun::Done { result, told })
            if properties.parked && told == properties.told() && route::was_ended_waiting(&result) =>
        {
            return settle(receipt, Settlement::Ack).await;
        }
        Ok(Begun::Done { result, .. }) => return deliver(service, &job, result, properties, receipt).await,
        Ok(Begun::Conflict) => {
            let message = "another request with this id was seen before; ids are for one request each";
            let refused = finish::refused(&job, service.worker(), RefusalCode::IdConflict, "id", message);
            return answer(service, &refused, properties, receipt).await;
        }
        Err(error) => return ledger_away(receipt, &error).await,
    };
    crash_point!("begun");
    let feed = service.feed(&job, history.len() + 1);
    feed.state(State::Started { worker: service.worker().to_owned() });
    if exhausted(&history) {
        // Attempts whose workers fell silent are in the history too: a job that kills workers ends here.
        let result = finish::infra_error(&job, service.worker(), &history);
        return commit(service, &job, &token, result, properties, receipt, &feed).await;
    }
    let attempted = attempt(service, &job, &token, &history, cancelled, arrived, &feed).await;
    receipt.executed();
    let result = match attempted {
        Attempted::Result(result) => *result,
        Attempted::Lost => {
            tracing::warn!(
                "the job was taken over, or its ledger's data is gone; this attempt is thrown away"
            );
            return retry(receipt, LEDGER_PAUSE).await;
        }
        Attempted::Failed { failed, suspect } => {
            let message = format!("{}: {}", failed.step.as_str(), failed.message);
            feed.state(State::AttemptFailed { message });
            let all: Vec<_> = history.iter().cloned().chain([failed.clone()]).collect();
            match dispose(&all, suspect) {
                Decision::GiveUp => finish::infra_error(&job, service.worker(), &all),
                Decision::Retry { after } => {
                    tracing::warn!(step = failed.step.as_str(), error = failed.message, "attempt failed");
                    let given = service.ledger.give_back(&token, failed).await;
                    service.rooms.ended(&token.key.tenant);
                    return match given {
                        Ok(_) => settle(receipt, Settlement::Retry { after, elsewhere: true }).await,
                        Err(error) => ledger_away(receipt, &error).await,
                    };
                }
            }
        }
    };
    commit(service, &job, &token, result, properties, receipt, &feed).await
}

/// When a message was sent, as far as our clock goes.
fn sent(properties: &Properties) -> Instant {
    let now = Instant::now();
    let age = properties.sent_unix_ms.map_or(0, |sent| unix_ms().saturating_sub(sent));
    now.checked_sub(Duration::from_millis(age)).unwrap_or(now)
}

/// Decides the result, then delivers it.
async fn commit<L: Ledger, S: ResultSink, R: Receipt>(
    service: &Service<L, S>,
    job: &Job,
    token: &Token,
    result: JobResult,
    properties: Properties,
    receipt: R,
    feed: &Feed,
) -> Handled {
    let (body, started) = (finish::encode(&result), Instant::now());
    let publication = publication(job, body, properties);
    match decide(service, token, &publication).instrument(step!("commit")).await {
        Decided::Committed => {}
        // The next begin finds who has the job, or its result, or nothing.
        Decided::Lost => return retry(receipt, LEDGER_PAUSE).await,
        Decided::Away(error) => return ledger_away(receipt, &error).await,
    }
    meters::ended(&result);
    Span::current().record("status", result.status.as_str());
    meters::step_took("commit", started.elapsed());
    service.rooms.ended(&token.key.tenant);
    feed.finished(&result);
    crash_point!("committed");
    publish_committed(service, job, publication, receipt).await
}

/// Publishes a committed result, marks it, settles the receipt.
async fn deliver<L: Ledger, S: ResultSink, R: Receipt>(
    service: &Service<L, S>,
    job: &Job,
    body: Bytes,
    properties: Properties,
    receipt: R,
) -> Handled {
    publish_committed(service, job, publication(job, body, properties), receipt).await
}

fn publication(job: &Job, body: Bytes, properties: Properties) -> Publication {
    Publication { body, tenant: job.key.tenant.clone(), id: job.key.id.clone(), properties }
}

async fn publish_committed<L: Ledger, S: ResultSink, R: Receipt>(
    service: &Service<L, S>,
    job: &Job,
    publication: Publication,
    receipt: R,
) -> Handled {
    let started = Instant::now();
    if !publish(service, &publication).instrument(step!("publish")).await {
        return retry(receipt, LEDGER_PAUSE).await;
    }
    meters::step_took("publish", started.elapsed());
    crash_point!("published");
    if let Err(error) = service.ledger.published(&job.key, publication.properties.told()).await {
        return ledger_away(receipt, &error).await;
    }
    crash_point!("marked");
    settle(receipt, Settlement::Ack).await
}

/// Answers a job that never began.
async fn answer<L: Ledger, S: ResultSink, R: Receipt>(
    service: &Service<L, S>,
    result: &JobResult,
    properties: Properties,
    receipt: R,
) -> Handled {
    meters::ended(result);
    let (tenant, id) = (result.tenant.clone(), result.id.clone());
    let publication = Publication { body: finish::encode(result), tenant, id, properties };
    match publish(service, &publication).await {
        true => settle(receipt, Settlement::Ack).await,
        false => retry(receipt, LEDGER_PAUSE).await,
    }
}

async fn publish<L: Ledger, S: ResultSink>(service: &Service<L, S>, publication: &Publication) -> bool {
    for pause in PUBLISH_PAUSES {
        match service.sink.publish(publication).await {
            Ok(()) => return true,
            Err(error) => tracing::warn!(id = publication.id, %error, "will publish again"),
        }
        tokio::time::sleep(pause).await;
    }
    service.sink.publish(publication).await.is_ok()
}

async fn settle(receipt: impl Receipt, settlement: Settlement) -> Handled {
    Handled::Settled(receipt.settle(settlement).await)
}

async fn retry(receipt: impl Receipt, after: Duration) -> Handled {
    settle(receipt, Settlement::Retry { after, elsewhere: false }).await
}

async fn ledger_away(receipt: impl Receipt, error: &LedgerError) -> Handled {
    tracing::warn!(%error, "the ledger did not answer; the delivery comes again");
    retry(receipt, LEDGER_PAUSE).await
}
