//! One attempt at a job: claim a VM, execute, say what came of it. Meanwhile its heartbeat and its deadline.

use std::time::Duration;

use hearth_pool::{
    pool::{Claim, ClaimError, Lane as PoolLane, Loss},
    session::SessionError,
};
use hearth_schemas::{
    job::Lane,
    result::{JobResult, Millis, Step},
};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{Instrument, Span};
use ulid::Ulid;

use crate::{
    admit::Job,
    dispose::Suspect,
    execute::{Executed, StepFailure, Transfers, execute},
    finish::{self, Circumstances},
    handle::Service,
    ledger::{Beat, FailedAttempt, HEARTBEAT_EVERY, JobKey, Ledger, Token, unix_ms},
    live::{Feed, connection::Connection},
    objects::{FetchError, Fetched, Objects},
    reduce::reduce,
    stop::{self, Stop, StopReason, Stopper},
    trace::{self, step},
};

/// A claim that waits so long is worth a warning where the settings promise nothing.
const SLOW_CLAIM: Duration = Duration::from_secs(5);
/// Where they do, one that waits longer than that, and at least so long.
const SLOW_CLAIM_LEAST: Duration = Duration::from_millis(250);

/// What came of an attempt.
#[derive(Debug)]
pub enum Attempted {
    /// The job has a result.
    Result(Box<JobResult>),
    /// We failed.
    Failed {
        /// For the history.
        failed: FailedAttempt,
        /// Whose doing it may have been.
        suspect: Suspect,
    },
    /// The job is no longer ours.
    Lost,
}

/// Makes one attempt, and tells `feed` how it goes. When the future is dropped, the VM is destroyed.
pub async fn attempt<L: Ledger, S>(
    service: &Service<L, S>,
    job: &Job,
    token: &Token,
    history: &[FailedAttempt],
    cancelled: bool,
    arrived: Instant,
    feed: &Feed,
) -> Attempted {
    let (stopper, stop) = stop::channel();
    let _entered = service.running.enter(&token.key, &stopper);
    if cancelled {
        stopper.stop(StopReason::Cancelled);
    } else if Instant::now() >= arrived + job.deadline {
        stopper.stop(StopReason::Deadline);
    }
    let attempt = history.iter().filter(|failed| failed.counted).count() as u32 + 1;
    Span::current().record("attempt", attempt);
    let circumstances = Circumstances::new(service.worker(), attempt, arrived);
    let name = format!("{attempt}-{}", Ulid::generate());
    let attempted = async {
        let attempted = run(service, job, &name, &stop, circumstances, feed).await;
        // While the token is kept alive.
        fit(service, &token.key, &name, attempted).await
    };
    tokio::select! {
        attempted = attempted => attempted,
        () = supervise(&service.ledger, token, &stopper, arrived + job.deadline) => Attempted::Lost,
    }
}

/// Makes a result fit its message.
async fn fit<L, S>(service: &Service<L, S>, key: &JobKey, name: &str, attempted: Attempted) -> Attempted {
    let intake = service.intake();
    match (attempted, intake.results) {
        (Attempted::Result(result), Some(terms)) => {
            Attempted::Result(reduce(*result, key, name, terms, &intake.objects).await.into())
        }
        (attempted, _) => attempted,
    }
}

/// Keeps the token alive, and stops the job when it is cancelled or due. Returns when the job is lost.
async fn supervise<L: Ledger>(ledger: &L, token: &Token, stopper: &Stopper, deadline: Instant) {
    // Apart from the heartbeat, which may hang as long as its ledger does.
    let due = async {
        tokio::time::sleep_until(deadline).await;
        stopper.stop(StopReason::Deadline);
        std::future::pending().await
    };
    tokio::select! {
        () = due => {}
        () = lost(ledger, token, stopper) => {}
    }
}

/// Speaks for the token until it is no longer ours.
async fn lost<L: Ledger>(ledger: &L, token: &Token, stopper: &Stopper) {
    // Begun just now, so most jobs end without one.
    let mut beats = tokio::time::interval_at(Instant::now() + HEARTBEAT_EVERY, HEARTBEAT_EVERY);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        match ledger.heartbeat(token).await {
            Ok(Beat::Ours) => {}
            Ok(Beat::Cancelled) => stopper.stop(StopReason::Cancelled),
            Ok(Beat::Lost) => return,
            Err(error) => tracing::warn!(%error, "heartbeat failed"),
        }
    }
}

async fn run<L: Ledger, S>(
    service: &Service<L, S>,
    job: &Job,
    name: &str,
    stop: &Stop,
    mut circumstances: Circumstances,
    feed: &Feed,
) -> Attempted {
    let objects = service.intake().objects.clone();
    let fetched = match fetch(service.worker(), &objects, job, stop, &mut circumstances).await {
        Ok(fetched) => fetched,
        Err(attempted) => return *attempted,
    };
    let started = Instant::now();
    let key = job.pool_key();
    let claimed = match stop.reason() {
        Some(_) => None,
        None => tokio::select! {
            claim = service.pool.claim(&key, lane(job.lane), circumstances.arrived + job.deadline)
                .instrument(step!("claim")) => Some(claim),
            _ = stop.stopped() => None,
        },
    };
    circumstances.claim = Some(started.elapsed());
    let claim = match (claimed, stop.reason()) {
        (Some(Ok(claim)), _) => claim,
        (None, Some(reason)) => {
            return Attempted::Result(
                finish::stopped(job, &circumstances, Executed::default(), reason).into(),
            );
        }
        (None, None) | (Some(Err(ClaimError::Timeout { .. })), _) => {
            return Attempted::Result(
                finish::stopped(job, &circumstances, Executed::default(), StopReason::Deadline).into(),
            );
        }
        (Some(Err(error)), _) => {
            let failed = failed(service.worker(), Step::Claim, chain(&error), started.elapsed(), false);
            return Attempted::Failed { failed, suspect: Suspect::Us };
        }
    };
    circumstances.saw(&claim);
    if let Some(policy) = &job.network
        && let Err(error) = claim.allow(policy.clone()).await
    {
        let failed = failed(service.worker(), Step::Claim, chain(&error), started.elapsed(), true);
        return Attempted::Failed { failed, suspect: Suspect::Us };
    }
    tell(&claim, service.pool.target_wait());
    let live = Connection::make(&claim, feed).await;
    let mut transfers = Transfers { objects: &objects, fetched, attempt: name.to_owned() };
    let executed = execute(claim.session(), job, &mut transfers, stop, feed).await;
    let attempted = match executed {
        Ok(executed) => Attempted::Result(Box::new(match stop.reason() {
            Some(reason) if finish::cut_short(&executed) => {
                finish::stopped(job, &circumstances, executed, reason)
            }
            _ => finish::finished(job, &circumstances, executed),
        })),
        Err(failure) => {
            let suspect = suspect(&claim, &failure).await;
            let failed =
                failed(service.worker(), failure.step, chain(&failure.source), started.elapsed(), true);
            Attempted::Failed { failed, suspect }
        }
    };
    live.outlast(claim);
    attempted
}

/// Says which VM the job has and how it came to it, so that a slow claim leads to its VM's own lines.
fn tell(claim: &Claim, target_wait: Option<Duration>) {
    trace::claimed(&Span::current(), claim);
    let vm = claim.vm();
    let took = vm.steps.iter().map(|step| step.took).sum::<Duration>();
    // An instant: it was woken before, maybe long before the job came.
    step!("wake", wake_ms = took.as_millis() as u64, vm_age_ms = vm.age.as_millis() as u64).in_scope(|| {});
    let (waited, outcome, age, snapshot) = (claim.waited(), claim.outcome(), vm.age, &vm.snapshot);
    if waited <= slow_claim(target_wait) {
        tracing::info!(?waited, ?outcome, ?age, ?took, "claimed");
        return;
    }
    // What the VM was and which part of its restore took how long, in one line, whatever the filter takes of others.
    let (slot, cid) = (&vm.slot, vm.identity.cid);
    let steps: Vec<_> = vm.steps.iter().map(|step| format!("{} {:?}", step.name, step.took)).collect();
    let steps = steps.join(", ");
    tracing::warn!(?waited, ?target_wait, ?outcome, %slot, cid, ?age, ?took, steps, snapshot, "a claim waited long");
}

fn slow_claim(target_wait: Option<Duration>) -> Duration {
    target_wait.map_or(SLOW_CLAIM, |target| target.max(SLOW_CLAIM_LEAST))
}

/// Brings the job's objects to this host before it takes a VM.
async fn fetch(
    worker: &str,
    objects: &Objects,
    job: &Job,
    stop: &Stop,
    circumstances: &mut Circumstances,
) -> Result<Fetched, Box<Attempted>> {
    let started = Instant::now();
    let fetched = tokio::select! {
        fetched = objects.fetch(&job.files) => fetched,
        reason = stop.stopped() => {
            let stopped = finish::stopped(job, circumstances, Executed::default(), reason);
            return Err(Box::new(Attempted::Result(stopped.into())));
        }
    };
    if job.files.iter().any(|file| file.content.object().is_some()) {
        circumstances.fetch = Some(started.elapsed());
    }
    fetched.map_err(|error| {
        Box::new(match error {
            FetchError::Job(message) => {
                let executed = Executed::without_files(job, message);
                Attempted::Result(finish::finished(job, circumstances, executed).into())
            }
            // No VM was reached, so this does not count as one of the job's attempts.
            error @ FetchError::Ours { .. } => {
                let failed = failed(worker, Step::Upload, chain(&error), started.elapsed(), false);
                Attempted::Failed { failed, suspect: Suspect::Us }
            }
        })
    })
}

fn lane(lane: Lane) -> PoolLane {
    match lane {
        Lane::Interactive => PoolLane::Interactive,
        Lane::Normal => PoolLane::Normal,
        Lane::Batch => PoolLane::Batch,
    }
}

/// A VM that died by itself while it ran the job may have been killed by it.
async fn suspect(claim: &Claim, failure: &StepFailure) -> Suspect {
    /// The slot's task learns of a death a moment after its connection has broken.
    const NEWS_TRAVELS_IN: Duration = Duration::from_millis(500);
    if failure.step != Step::Run
        || matches!(failure.source, SessionError::Fault { .. } | SessionError::Unable(_))
    {
        return Suspect::Us;
    }
    match tokio::time::timeout(NEWS_TRAVELS_IN, claim.lost()).await {
        Ok(Loss::LeaseAtRisk | Loss::Closing | Loss::AllGone | Loss::CutOff) => Suspect::Us,
        _ => Suspect::Job,
    }
}

fn failed(worker: &str, step: Step, message: String, took: Duration, counted: bool) -> FailedAttempt {
    let took_ms = Millis::from(took);
    FailedAttempt { worker: worker.into(), step, message, failed_unix_ms: unix_ms(), took_ms, counted }
}

/// An error and its sources, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |line, source| format!("{line}: {source}"))
}
