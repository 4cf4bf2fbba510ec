//! The task of one slot: the only writer of its state.

mod dormant;
mod ending;
mod making;
mod serving;

use std::sync::Arc;

use rand::{RngExt, rngs::SmallRng};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    admission::{Admission, Place},
    claim::chain,
    config::Config,
    events::Farewell,
    gauges::{Position, Voice},
    greeting::Greeted,
    stop::{Stop, asked},
    turnover::Currents,
    waiters::{Idle, Waiter, Waiters},
};
use crate::{
    hypervisor::{Hypervisor, Restored, Slot},
    lease::{
        LeaseError, LeaseStore,
        keeper::{Held, Keeper},
    },
    phase::Phase,
    session::Command,
};

/// What all slots of a pool share.
pub(super) struct Parts<H, L> {
    pub(super) hypervisor: Arc<H>,
    pub(super) keeper: Arc<Keeper<L>>,
    pub(super) currents: Arc<Currents>,
    pub(super) admission: Arc<Admission>,
    pub(super) voice: Voice,
    pub(super) config: Arc<Config>,
}

impl<H, L> Clone for Parts<H, L> {
    fn clone(&self) -> Self {
        Self {
            hypervisor: Arc::clone(&self.hypervisor),
            keeper: Arc::clone(&self.keeper),
            currents: Arc::clone(&self.currents),
            admission: Arc::clone(&self.admission),
            voice: self.voice.clone(),
            config: Arc::clone(&self.config),
        }
    }
}

/// What a slot owns in each phase.
enum State<H: Hypervisor> {
    Vacant,
    Leasing,
    Cooling,
    Dormant { lease: Held },
    Restoring { lease: Held, dormant: Option<H::Dormant> },
    Greeting { lease: Held, restored: Restored<H::Vm> },
    Ready { lease: Held, warm: Warm<H::Vm>, idle: Idle },
    Claimed { lease: Held, warm: Warm<H::Vm>, waiter: Waiter },
    Retiring { lease: Held, vm: Option<H::Vm>, tries: u32 },
    Quarantined { lease: Held, tries: u32 },
    Closed,
}

/// A VM that has confirmed its wake.
struct Warm<Vm> {
    vm: Vm,
    snapshot: String,
    greeted: Greeted,
    since: Instant,
}

impl<H: Hypervisor> State<H> {
    fn phase(&self) -> Phase {
        match self {
            Self::Vacant => Phase::Vacant,
            Self::Leasing => Phase::Leasing,
            Self::Cooling => Phase::Cooling,
            Self::Dormant { .. } => Phase::Dormant,
            Self::Restoring { .. } => Phase::Restoring,
            Self::Greeting { .. } => Phase::Greeting,
            Self::Ready { .. } => Phase::Ready,
            Self::Claimed { .. } => Phase::Claimed,
            Self::Retiring { .. } => Phase::Retiring,
            Self::Quarantined { .. } => Phase::Quarantined,
            Self::Closed => Phase::Closed,
        }
    }
}

/// One slot.
pub(super) struct SlotTask<H: Hypervisor, L> {
    slot: Slot,
    /// The number of its runtime.
    runtime: usize,
    parts: Parts<H, L>,
    waiters: Arc<Waiters>,
    warm_up: Option<Command>,
    stop: watch::Receiver<Stop>,
    rng: SmallRng,
    /// The turn and the room of its VM, from before the lease until nothing of the VM is left.
    place: Option<Place>,
    /// The attempt to lease whose answer was lost; asked again, it gets the same lease.
    request: Option<String>,
    /// In a row.
    failures: u32,
    /// Whether the next thing to do is to wait.
    cool: bool,
    /// Whether another VM of the host has the CID of the lease.
    busy: bool,
    /// Since when it could have had a VM, while it has none.
    empty: Option<Instant>,
}

impl<H: Hypervisor, L: LeaseStore> SlotTask<H, L> {
    pub(super) fn new(
        slot: Slot,
        runtime: usize,
        parts: Parts<H, L>,
        waiters: Arc<Waiters>,
        warm_up: Option<Command>,
        stop: watch::Receiver<Stop>,
        rng: SmallRng,
    ) -> Self {
        Self {
            slot,
            runtime,
            parts,
            waiters,
            warm_up,
            stop,
            rng,
            place: None,
            request: None,
            failures: 0,
            cool: false,
            busy: false,
            empty: None,
        }
    }

    /// Lives until it is asked to stop. Not to be aborted.
    pub(super) async fn run(mut self, mut position: Position) {
        let mut state = State::Vacant;
        loop {
            state = match state {
                State::Vacant => self.vacant().await,
                State::Leasing => self.leasing().await,
                State::Cooling => self.cooling().await,
                State::Dormant { lease } => self.dormant(lease).await,
                State::Restoring { lease, dormant } => self.restoring(lease, dormant).await,
                State::Greeting { lease, restored } => self.greeting(lease, restored).await,
                State::Ready { lease, warm, idle } => self.ready(lease, warm, idle).await,
                State::Claimed { lease, warm, waiter } => self.claimed(lease, warm, waiter).await,
                State::Retiring { lease, vm, tries } => self.retiring(lease, vm, tries).await,
                State::Quarantined { lease, tries } => self.quarantined(lease, tries).await,
                State::Closed => return,
            };
            position.enter(state.phase());
        }
    }

    async fn vacant(&mut self) -> State<H> {
        self.empty.get_or_insert_with(Instant::now);
        self.place = None;
        if std::mem::take(&mut self.cool) {
            return State::Cooling;
        }
        tokio::select! {
            biased;
            () = asked(&mut self.stop, Stop::Drain) => State::Closed,
            place = self.parts.admission.admit(self.runtime) => match place {
                Some(place) => {
                    if self.parts.config.scaling.is_some() {
                        // It was empty on purpose until now.
                        self.empty = Some(Instant::now());
                    }
                    self.place = Some(place);
                    State::Leasing
                }
                None => State::Closed,
            },
        }
    }

    async fn leasing(&mut self) -> State<H> {
        let request = self.request.take().unwrap_or_else(|| self.new_request());
        match self.parts.keeper.acquire(&request).await {
            Ok(lease) if *self.stop.borrow() >= Stop::Drain => {
                self.retire(lease, None, &Farewell::Closing, None)
            }
            Ok(lease) if self.place.as_ref().is_some_and(Place::is_for_dormant) => State::Dormant { lease },
            Ok(lease) => State::Restoring { lease, dormant: None },
            Err(error) => {
                // Only a clear no forgets the attempt.
                self.request = (!matches!(error, LeaseError::Exhausted { .. })).then_some(request);
                self.failed(&chain(&error));
                self.cool = false;
                self.place = None;
                State::Cooling
            }
        }
    }

    async fn cooling(&mut self) -> State<H> {
        let delay = self.parts.config.refill_backoff.delay(self.failures, self.rng.random());
        tokio::select! {
            biased;
            () = asked(&mut self.stop, Stop::Drain) => {}
            () = sleep(delay) => {}
        }
        State::Vacant
    }

    /// Notes that no VM came of an attempt, so that the next one waits.
    fn failed(&mut self, why: &str) {
        tracing::warn!(slot = %self.slot, why, "no VM");
        self.failures = self.failures.saturating_add(1);
        self.cool = true;
        self.waiters.set_failed(why);
    }

    fn new_request(&mut self) -> String {
        format!("{}-{:032x}", self.slot, self.rng.random::<u128>())
    }
}
