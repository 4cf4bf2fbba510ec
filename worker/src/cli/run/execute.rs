//! From an admitted request to its result: a pool of one slot and the queue of a single process.

use std::{sync::Arc, time::Duration};

use hearth_pool::{
    net::with_card,
    phase::Phase,
    pool::{
        Config as PoolConfig, Observer, RuntimeSlots,
        events::{Event, Farewell},
    },
    runtime::Runtimes,
};
use hearth_schemas::result::JobResult;
use hearth_worker::{
    admit::Terms,
    embedded::{self, QueueClosed},
    handle::Service,
    intake::Intake,
    ledger::MemoryLedger,
    local::{Local, warm_up},
    objects::Objects,
    service::serve,
};

use tokio::{sync::watch, time::timeout};

use super::{Arguments, Submission, everywhere};
use crate::{
    cli::{
        exit::{Exit, Failure},
        follow::Follower,
        host,
        interrupt::Interrupted,
        progress::Progress,
    },
    config::Config,
};

/// Restores that may fail in a row. One may be unlucky; three are a host that cannot.
const FAILURES_MAX: u32 = 3;
/// How long the VM is kept for whoever follows its job.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// Finds the snapshot, restores it, runs the job in it, and leaves nothing behind.
pub async fn execute(
    config: &Config,
    arguments: &Arguments,
    runtimes: &Runtimes,
    submission: &Submission,
    runtime: &str,
) -> Result<JobResult, Failure> {
    let mut interrupted = Interrupted::listen()?;
    let host = host::open(config, &submission.worker).await?;
    let snapshot = host.snapshot(runtime).map_err(|error| Failure::from_error(Exit::Unavailable, &error))?;
    let with_cards: Vec<String> = runtimes.iter().map(|runtime| with_card(&runtime.name)).collect();
    let plain = runtimes.iter().map(|runtime| runtime.name.as_str());
    let offers = host.offers(plain.chain(with_cards.iter().map(String::as_str)));
    // A snapshot may be older than the runtime's file, and what was baked is what there is.
    let terms = Terms::new(offers);
    if let Err(refused) = submission.admit(terms.clone()) {
        return Ok(*refused);
    }
    let silent = arguments.json || arguments.follow;
    let progress = Arc::new(if silent { Progress::silent() } else { Progress::brief(config) });
    let follower = arguments.follower(config.quiet);
    let (failures, failed) = watch::channel(Failures::default());
    let mut pool = PoolConfig::new(vec![RuntimeSlots {
        name: runtime.to_owned(),
        slots: 1,
        warm_up: warm_up(&snapshot.manifest),
    }]);
    pool.observer = Some(observer(Arc::clone(&progress), failures));
    let objects = Objects::open(&submission.objects, host.object_spool());
    let objects = objects.map_err(|error| Failure::from_error(Exit::Config, &error))?;
    let local = Local::open(&host, pool).await.map_err(|error| host::failure(&error))?;
    let outcome = tokio::select! {
        result = submit(&local, terms, objects, submission, follower.as_ref()) => result,
        failure = hopeless(failed) => Err(failure),
        failure = interrupted.wait() => Err(failure),
    };
    if let Some(follower) = &follower {
        // While its VM is there, the last of its output may still come.
        let _ = timeout(LAST_OUTPUT, follower.finish()).await;
    }
    progress.finish();
    // What ran is dropped; a second Ctrl-C leaves the rest to the guard.
    let closed = tokio::select! {
        closed = local.close(Duration::ZERO) => closed,
        failure = interrupted.wait() => return Err(failure),
    };
    if let Err(error) = closed {
        tracing::error!(%error, "the guard ends what is left");
    }
    if let Some(follower) = follower {
        tokio::select! {
            () = follower.finish() => {}
            failure = interrupted.wait() => return Err(failure),
        }
    }
    drop(snapshot);
    outcome
}

/// Puts the job through the service as any other.
async fn submit(
    local: &Local,
    terms: Terms,
    objects: Objects,
    submission: &Submission,
    follower: Option<&Follower>,
) -> Result<JobResult, Failure> {
    let (submitter, source, sink) = embedded::queue(1);
    let terms = Terms { objects: submission.objects.terms(), network: everywhere(), ..terms };
    let intake = Intake { objects, ..Intake::embedded(terms, &submission.worker) };
    let service = Service::new(MemoryLedger::default(), sink, local.pool().clone(), intake);
    let service = Arc::new(match follower {
        Some(follower) => service.with_outlet(follower.outlet()),
        None => service,
    });
    let answer = submitter.submit(submission.body.clone(), Some(submission.id.clone()));
    let served = serve(service, source, 1, std::future::pending());
    let bytes = tokio::select! {
        answer = answer => answer,
        () = served => Err(QueueClosed),
    };
    let bytes = bytes.map_err(|error| Failure::from_error(Exit::Internal, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::from_error(Exit::Internal, &error))
}

/// What is heard of the pool while it has no VM for the job.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures {
    /// Since a VM was Ready.
    in_a_row: u32,
    /// Why the last one was not.
    last: String,
}

pub(super) fn observer(progress: Arc<Progress>, failures: watch::Sender<Failures>) -> Observer {
    Arc::new(move |event| match event {
        Event::Moved { slot, to, .. } => {
            let step = match to {
                Phase::Leasing | Phase::Restoring => "restoring",
                Phase::Greeting => "waking",
                Phase::Claimed => "running",
                _ => return,
            };
            progress.step(step, &slot.runtime);
        }
        Event::Restored { slot, steps, .. } => {
            failures.send_modify(|failures| failures.in_a_row = 0);
            tracing::info!(%slot, ?steps, "VM is ready");
        }
        Event::Retired { slot, why, .. } => {
            tracing::info!(%slot, %why, "VM retires");
            if let Farewell::RestoreFailed(why) | Farewell::GreetingFailed(why) = why {
                failures.send_modify(|failures| {
                    failures.in_a_row += 1;
                    failures.last.clone_from(why);
                });
            }
        }
        _ => {}
    })
}

/// Resolves when there is no VM to be had. The pool itself would go on until the job's deadline.
pub(super) async fn hopeless(mut failures: watch::Receiver<Failures>) -> Failure {
    let last = match failures.wait_for(|failures| failures.in_a_row >= FAILURES_MAX).await {
        Ok(failures) => failures.last.clone(),
        Err(_) => std::future::pending().await,
    };
    let message = format!("no VM could be restored in {FAILURES_MAX} tries: {last}");
    Failure::new(Exit::Unavailable, message).remedy("hearth doctor says what this host lacks")
}
