//! Warm VMs, ready to be claimed.

mod admission;
mod backoff;
mod claim;
mod config;
pub mod events;
pub(crate) mod gauges;
mod greeting;
mod slot;
mod stop;
mod turnover;
mod waiters;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use self::{
    admission::Admission,
    events::Event,
    gauges::{Position, Voice},
    slot::SlotTask,
    stop::{Stop, asked},
    turnover::Currents,
    waiters::Waiters,
};
pub use self::{
    admission::Targets,
    backoff::Backoff,
    claim::{Claim, ClaimError, ClaimedVm, Lane, Loss, Outcome},
    config::{Bounds, Config, LEASE_MARGIN, MAX_AGE, Observer, RuntimeSlots, StepLimits},
    gauges::Phases,
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
    /// Each with its number.
    runtimes: BTreeMap<String, (usize, Arc<Waiters>)>,
    admission: Arc<Admission>,
    phases: watch::Receiver<Phases>,
    stop: watch::Sender<Stop>,
    counts: Mutex<BTreeMap<String, ClaimCounts>>,
    close_limit: Duration,
    target_wait: Option<Duration>,
    voice: Voice,
}

impl Pool {
    /// Starts a task for each slot and one for the leases. Needs a tokio runtime.
    pub fn spawn<H: Hypervisor, L: LeaseStore>(config: Config, hypervisor: H, leases: L) -> Self {
        let (config, epoch) = (Arc::new(config), Instant::now());
        let voice = Voice::new(config.observer.clone());
        let phases = watch::Sender::new(Phases::default());
        let stop = watch::Sender::new(Stop::No);
        let mut seeds = SmallRng::seed_from_u64(config.seed.unwrap_or_else(rand::random));
        let waiters = |runtime: &RuntimeSlots| Waiters::new(&runtime.name, config.lanes, epoch);
        let waiters: Vec<_> = config.runtimes.iter().map(waiters).collect();
        let admission =
            Admission::new(&config, waiters.clone(), voice.clone(), epoch, hypervisor.starts_ahead());
        let names = config.runtimes.iter().map(|runtime| runtime.name.clone());
        let (currents, hypervisor) = (Currents::new(&hypervisor, names), Arc::new(hypervisor));
        let mut stopped = stop.subscribe();
        let over = async move { asked(&mut stopped, Stop::Drain).await };
        tokio::spawn(Arc::clone(&currents).run(Arc::clone(&hypervisor), Arc::clone(&admission), over));
        let parts = slot::Parts {
            hypervisor,
            currents,
            keeper: Keeper::spawn(leases, config.lease_margin, config.limits, voice.clone()),
            admission: Arc::clone(&admission),
            voice: voice.clone(),
            config: Arc::clone(&config),
        };
        let mut runtimes = BTreeMap::new();
        let mut number = 0;
        for ((runtime, told), waiters) in config.runtimes.iter().enumerate().zip(waiters) {
            for _ in 0..told.slots {
                let slot = Slot { runtime: told.name.clone(), number };
                number += 1;
                let position = Position::vacant(slot.clone(), phases.clone(), voice.clone());
                let rng = SmallRng::seed_from_u64(seeds.random());
                let (parts, waiters, stop) = (parts.clone(), Arc::clone(&waiters), stop.subscribe());
                let task = SlotTask::new(slot, runtime, parts, waiters, told.warm_up.clone(), stop, rng);
                tokio::spawn(task.run(position));
            }
            runtimes.insert(told.name.clone(), (runtime, waiters));
        }
        let mut stopped = stop.subscribe();
        tokio::spawn(Arc::clone(&admission).run(async move { asked(&mut stopped, Stop::Drain).await }));
        let counts = Mutex::default();
        let (phases, close_limit) = (phases.subscribe(), config.limits.close);
        let target_wait = config.scaling.map(|policy| policy.target_wait);
        let shared = Shared { runtimes, admission, phases, stop, counts, close_limit, target_wait, voice };
        Self { shared: Arc::new(shared) }
    }

    /// Claims a warm VM, waiting for one until `deadline`. Cancel safe: a VM that was about to be handed over stays
    /// Ready or is destroyed.
    pub async fn claim(&self, runtime: &str, lane: Lane, deadline: Instant) -> Result<Claim, ClaimError> {
        let shared = &self.shared;
        let Some((number, waiters)) = shared.runtimes.get(runtime) else {
            let known = shared.runtimes.keys().cloned().collect();
            return Err(ClaimError::UnknownRuntime { runtime: runtime.into(), known });
        };
        let began = Instant::now();
        let mut waiting = waiters.join(lane)?;
        shared.admission.arrived(*number);
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

    /// How many VMs of each runtime are to be warm, now and whenever it changes. Without scaling: its slots.
    pub fn targets(&self) -> watch::Receiver<Targets> {
        self.shared.admission.targets()
    }

    /// How long a claim may wait by the policy that the pool follows; `None` where it follows none.
    pub fn target_wait(&self) -> Option<Duration> {
        self.shared.target_wait
    }

    /// Memory that is reserved for VMs now, in MiB. Never more than the budget.
    pub fn memory_mib(&self) -> u64 {
        self.shared.admission.memory_mib()
    }

    /// Says how many jobs wait elsewhere and will claim VMs of a runtime as soon as there are any. Counts until said
    /// otherwise; an unknown runtime is ignored.
    pub fn set_backlog(&self, runtime: &str, jobs: u32) {
        if let Some((number, _)) = self.shared.runtimes.get(runtime) {
            self.shared.admission.set_backlog(*number, jobs);
        }
    }

    /// Keeps at least so many VMs of a runtime warm, beside its floor, where slots and the budget allow. Counts until said otherwise;
    /// an unknown runtime is ignored, and without scaling every slot is filled anyway.
    pub fn set_scheduled(&self, runtime: &str, warm: u32) {
        if let Some((number, _)) = self.shared.runtimes.get(runtime) {
            self.shared.admission.set_scheduled(*number, warm);
        }
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
        shared.runtimes.values().for_each(|(_, waiters)| waiters.close());
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
