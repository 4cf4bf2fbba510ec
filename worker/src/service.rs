//! The loop of a worker: deliveries in, each handled by a task of its own.

use std::{collections::BTreeMap, sync::Arc};

use hearth_pool::{phase::Phase, pool::Phases};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    handle::{Service, handle},
    ledger::Ledger,
    seams::{JobSource, ResultSink},
};

/// Handles deliveries until the source ends or `drain` resolves; then finishes those under way and returns.
/// When the future is dropped, what is under way is dropped too: its VMs are destroyed and its deliveries come again.
pub async fn serve<L, S, J>(
    service: Arc<Service<L, S>>,
    mut source: J,
    jobs_at_once: usize,
    drain: impl Future<Output = ()>,
) where
    L: Ledger,
    S: ResultSink,
    J: JobSource,
{
    let room = Arc::new(Semaphore::new(jobs_at_once));
    let mut jobs = JoinSet::new();
    let mut drain = std::pin::pin!(drain);
    let mut phases = service.pool.phases();
    phases.mark_changed();
    loop {
        let next = async {
            let permit = room.clone().acquire_owned().await.ok()?;
            Some((source.next().await?, permit))
        };
        let (delivery, permit) = tokio::select! {
            next = next => match next {
                Some(next) => next,
                None => break,
            },
            Ok(()) = phases.changed() => {
                for (runtime, jobs) in places(&phases.borrow_and_update()) {
                    source.set_credit(&runtime, jobs);
                }
                continue;
            }
            () = &mut drain => break,
            Some(_) = jobs.join_next() => continue,
        };
        let service = service.clone();
        jobs.spawn(async move {
            let handled = handle(&service, delivery).await;
            drop(permit);
            handled
        });
    }
    // Whatever it had fetched beyond this goes back, while what is under way ends.
    drop(source);
    while jobs.join_next().await.is_some() {}
}

/// How many jobs of each runtime may be under way: one for each VM that waits for a job or has one.
fn places(phases: &Phases) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::<_, usize>::new();
    for (runtime, phase, count) in phases.iter() {
        let place = if matches!(phase, Phase::Ready | Phase::Claimed) { count } else { 0 };
        *places.entry(runtime.to_owned()).or_default() += usize::try_from(place).unwrap_or(usize::MAX);
    }
    places
}
