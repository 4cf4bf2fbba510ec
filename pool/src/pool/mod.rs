//! Warm VMs, ready to be claimed.

mod backoff;
mod claim;
mod config;
pub mod events;
pub(crate) mod gauges;
mod greeting;
mod slot;
mod waiters;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout, timeout_at},
};

pub use self::{
    backoff::Backoff,
    claim::{Claim, ClaimError, ClaimedVm, Lane, Loss, Outcome},
    config::{Config, LEASE_MARGIN, MAX_AGE, Observer, RuntimeSlots, StepLimits},
    gauges::Phases,
};
use self::{
    events::Event,
    gauges::{Position, Voice},
    slot::{SlotTask, Stop},
    waiters::Waiters,
};
use crate::{
    hypervisor::{Hypervisor, Slot},
    lease::{LeaseStore, keeper::Keeper},
};

/// Some slots were not closed in time: their VMs could not be destroyed. They go on trying while the process lives,
/// and the guard ends their VMs with it.
#[derive(Debug, thiserror::Error)]
#[error("slots that could not be closed: {left}")]
pub struct CloseError {
    /// Where every slot is.
    pub left: Phases,
}

/// How the claims of one runtime ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimCounts {
    /// A VM was Ready.
    pub hit: u64,
    /// It waited.
    pub wait: u64,
    /// None was there by the deadline.
    pub timeout: u64,
}

/// A pool of warm VMs. Clones share it. When all are dropped it closes by itself, once its claims are over.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    runtimes: BTreeMap<String, Arc<Waiters>>,
    phases: watch::Receiver<Phases>,
    stop: watch::Sender<Stop>,
    counts: Mutex<BTreeMap<String, ClaimCounts>>,
    close_limit: Duration,
    voice: Voice,
}

impl Pool {
    /// Starts a task for each slot and one for the leases. Needs a tokio runtime.
    pub fn spawn<H: Hypervisor, L: LeaseStore>(config: Config, hypervisor: H, leases: L) -> Self {
        let voice = Voice::new(config.observer.clone());
        let phases = watch::Sender::new(Phases::default());
        let stop = watch::Sender::new(Stop::No);
        let mut seeds = SmallRng::seed_from_u64(config.seed.unwrap_or_else(rand::random));
        let parts = slot::Parts {
            hypervisor: Arc::new(hypervisor),
            keeper: Keeper::spawn(leases, config.lease_margin, config.limits, voice.clone()),
            restores: Arc::new(Semaphore::new(config.restores_at_once.max(1))),
            voice: voice.clone(),
            config: Arc::new(config.clone()),
        };
        let mut runtimes = BTreeMap::new();
        let mut number = 0;
        for runtime in &config.runtimes {
            voice.say(Event::Target { runtime: &runtime.name, slots: runtime.slots });
            let waiters = Waiters::new(&runtime.name);
            runtimes.insert(runtime.name.clone(), Arc::clone(&waiters));
            for _ in 0..runtime.slots {
                let slot = Slot { runtime: runtime.name.clone(), number };
                number += 1;
                let position = Position::vacant(slot.clone(), phases.clone(), voice.clone());
                let rng = SmallRng::seed_from_u64(seeds.random());
                let warm_up = runtime.warm_up.clone();
                let task =
                    SlotTask::new(slot, parts.clone(), Arc::clone(&waiters), warm_up, stop.subscribe(), rng);
                tokio::spawn(task.run(position));
            }
        }
        let counts = Mutex::default();
        let (phases, close_limit) = (phases.subscribe(), config.limits.close);
        Self { shared: Arc::new(Shared { runtimes, phases, stop, counts, close_limit, voice }) }
    }

    /// Claims a warm VM, waiting for one until `deadline`. Cancel safe: a VM that was about to be handed over stays
    /// Ready or is destroyed.
    pub async fn claim(&self, runtime: &str, lane: Lane, deadline: Instant) -> Result<Claim, ClaimError> {
        let shared = &self.shared;
        let Some(waiters) = shared.runtimes.get(runtime) else {
            let known = shared.runtimes.keys().cloned().collect();
            return Err(ClaimError::UnknownRuntime { runtime: runtime.into(), known });
        };
        let began = Instant::now();
        let mut waiting = waiters.join(lane)?;
        let answer = timeout_at(deadline, &mut waiting).await.ok();
        let hit = waiting.hit;
        let answer = answer.or_else(|| waiting.leave());
        let waited = began.elapsed();
        match answer {
            Some(Ok(mut claim)) => {
                claim.waited = waited;
                claim.outcome = if hit { Outcome::Hit } else { Outcome::Wait };
                self.count(runtime, claim.outcome, waited);
                Ok(claim)
            }
            Some(Err(error)) => Err(error),
            None => {
                self.count(runtime, Outcome::Timeout, waited);
                let last_failure = waiters.last_failure();
                Err(ClaimError::Timeout { runtime: runtime.into(), waited, last_failure })
            }
        }
    }

    /// How many slots of each runtime are in each phase, now and whenever it changes.
    pub fn phases(&self) -> watch::Receiver<Phases> {
        self.shared.phases.clone()
    }

    /// How claims of each runtime have ended so far.
    pub fn claim_counts(&self) -> BTreeMap<String, ClaimCounts> {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the pool: waiters are turned away, VMs that nobody has claimed are destroyed at once, claimed ones
    /// when their claim is over or `grace` is. Returns when every slot has ended. May be called again. Cancel safe:
    /// what was asked stays asked.
    pub async fn close(&self, grace: Duration) -> Result<(), CloseError> {
        let shared = &self.shared;
        self.stop(Stop::Drain);
        shared.runtimes.values().for_each(|waiters| waiters.close());
        let mut phases = shared.phases.clone();
        if timeout(grace, phases.wait_for(Phases::all_closed)).await.is_ok() {
            return Ok(());
        }
        self.stop(Stop::Now);
        let closed = timeout(shared.close_limit, phases.wait_for(Phases::all_closed)).await.is_ok();
        if closed { Ok(()) } else { Err(CloseError { left: shared.phases.borrow().clone() }) }
    }

    fn stop(&self, stop: Stop) {
        self.shared.stop.send_if_modified(|now| {
            let more = *now < stop;
            *now = stop.max(*now);
            more
        });
    }

    fn count(&self, runtime: &str, outcome: Outcome, waited: Duration) {
        let mut counts = self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = counts.entry(runtime.to_owned()).or_default();
        match outcome {
            Outcome::Hit => counts.hit += 1,
            Outcome::Wait => counts.wait += 1,
            Outcome::Timeout => counts.timeout += 1,
        }
        self.shared.voice.say(Event::Claimed { runtime, outcome, waited });
    }
}
