//! The task of one slot: the only writer of its state.

use std::sync::Arc;

use rand::{RngExt, rngs::SmallRng};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    admission::{Admission, Place},
    claim::{Claim, ClaimedVm, Loss, answer, chain},
    config::Config,
    events::{Event, Farewell},
    gauges::{Position, Voice},
    greeting::{Greeted, greet},
    stop::{Stop, asked},
    waiters::{Waiter, Waiters},
};
use crate::{
    hypervisor::{Hypervisor, RestoreError, RestoreStep, Restored, Slot},
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
    pub(super) admission: Arc<Admission>,
    pub(super) voice: Voice,
    pub(super) config: Arc<Config>,
}

impl<H, L> Clone for Parts<H, L> {
    fn clone(&self) -> Self {
        Self {
            hypervisor: Arc::clone(&self.hypervisor),
            keeper: Arc::clone(&self.keeper),
            admission: Arc::clone(&self.admission),
            voice: self.voice.clone(),
            config: Arc::clone(&self.config),
        }
    }
}

/// What a slot owns in each phase.
enum State<Vm> {
    Vacant,
    Leasing,
    Cooling,
    Restoring { lease: Held },
    Greeting { lease: Held, restored: Restored<Vm> },
    Ready { lease: Held, warm: Warm<Vm> },
    Claimed { lease: Held, warm: Warm<Vm>, waiter: Waiter },
    Retiring { lease: Held, vm: Option<Vm>, tries: u32 },
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

impl<Vm> State<Vm> {
    fn phase(&self) -> Phase {
        match self {
            Self::Vacant => Phase::Vacant,
            Self::Leasing => Phase::Leasing,
            Self::Cooling => Phase::Cooling,
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
                State::Restoring { lease } => self.restoring(lease).await,
                State::Greeting { lease, restored } => self.greeting(lease, restored).await,
                State::Ready { lease, warm } => self.ready(lease, warm).await,
                State::Claimed { lease, warm, waiter } => self.claimed(lease, warm, waiter).await,
                State::Retiring { lease, vm, tries } => self.retiring(lease, vm, tries).await,
                State::Quarantined { lease, tries } => self.quarantined(lease, tries).await,
                State::Closed => return,
            };
            position.enter(state.phase());
        }
    }

    async fn vacant(&mut self) -> State<H::Vm> {
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

    async fn leasing(&mut self) -> State<H::Vm> {
        let request = self.request.take().unwrap_or_else(|| self.new_request());
        match self.parts.keeper.acquire(&request).await {
            Ok(lease) if *self.stop.borrow() >= Stop::Drain => {
                self.retire(lease, None, &Farewell::Closing, None)
            }
            Ok(lease) => State::Restoring { lease },
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

    async fn cooling(&mut self) -> State<H::Vm> {
        let delay = self.parts.config.refill_backoff.delay(self.failures, self.rng.random());
        tokio::select! {
            biased;
            () = asked(&mut self.stop, Stop::Drain) => {}
            () = sleep(delay) => {}
        }
        State::Vacant
    }

    async fn restoring(&mut self, lease: Held) -> State<H::Vm> {
        let limit = self.parts.config.limits.restore;
        let restore = timeout(limit, self.parts.hypervisor.restore(&self.slot, lease.identity()));
        let restored = tokio::select! {
            biased;
            () = asked(&mut self.stop, Stop::Drain) => Err(Farewell::Closing),
            () = lease.at_risk() => Err(Farewell::LeaseAtRisk),
            restored = restore => Ok(restored.unwrap_or(Err(RestoreError::Timeout { step: "restore", limit }))),
        };
        match restored {
            Ok(Ok(restored)) => State::Greeting { lease, restored },
            Ok(Err(error)) => {
                let why = chain(&error);
                self.failed(&why);
                self.busy = matches!(error, RestoreError::IdentityBusy { .. });
                if let RestoreError::Snapshot(_) = error {
                    self.waiters.set_broken(&why);
                }
                self.retire(lease, None, &Farewell::RestoreFailed(why), None)
            }
            Err(why) => self.retire(lease, None, &why, None),
        }
    }

    async fn greeting(&mut self, lease: Held, restored: Restored<H::Vm>) -> State<H::Vm> {
        let since = Instant::now();
        let Restored { vm, snapshot, steps } = restored;
        let hypervisor = &*self.parts.hypervisor;
        let limits = &self.parts.config.limits;
        let greeted = tokio::select! {
            biased;
            () = asked(&mut self.stop, Stop::Drain) => Err(Farewell::Closing),
            () = lease.at_risk() => Err(Farewell::LeaseAtRisk),
            () = hypervisor.exited(&vm) => Err(Farewell::GreetingFailed("the VM ended".into())),
            greeted = greet(hypervisor, &vm, lease.identity(), self.warm_up.as_ref(), limits) => {
                greeted.map_err(|error| Farewell::GreetingFailed(chain(&error)))
            }
        };
        match greeted {
            Ok(mut greeted) => {
                greeted.steps.splice(0..0, steps);
                self.is_ready(&greeted.steps);
                State::Ready { lease, warm: Warm { vm, snapshot, greeted, since } }
            }
            Err(why) => {
                if let Farewell::GreetingFailed(what) = &why {
                    self.failed(what);
                }
                self.retire(lease, Some(vm), &why, Some(since))
            }
        }
    }

    async fn ready(&mut self, lease: Held, warm: Warm<H::Vm>) -> State<H::Vm> {
        // Up to a tenth early.
        let age = self.parts.config.max_age.mul_f64(1.0 - self.rng.random::<f64>() / 10.0);
        let why = tokio::select! {
            biased;
            () = asked(&mut self.stop, Stop::Drain) => Farewell::Closing,
            () = lease.at_risk() => Farewell::LeaseAtRisk,
            () = self.parts.hypervisor.exited(&warm.vm) => Farewell::Exited,
            _ = warm.greeted.session.ended() => Farewell::Exited,
            () = sleep_until(warm.since + age) => Farewell::Stale,
            () = self.parts.admission.dismissed(self.runtime) => Farewell::Surplus,
            waiter = self.waiters.next() => return State::Claimed { lease, warm, waiter },
        };
        if why == Farewell::Exited {
            self.failed("a VM ended while it was Ready");
        }
        self.retire(lease, Some(warm.vm), &why, Some(warm.since))
    }

    async fn claimed(&mut self, lease: Held, warm: Warm<H::Vm>, waiter: Waiter) -> State<H::Vm> {
        let Warm { vm, snapshot, greeted: Greeted { session, nonce, steps }, since } = warm;
        let (slot, identity) = (self.slot.clone(), *lease.identity());
        let claimed = ClaimedVm { slot, identity, snapshot, steps, age: since.elapsed(), nonce };
        let traffic = session.traffic().clone();
        let (claim, mut behind) = Claim::new(session, claimed, self.parts.hypervisor.network(&vm));
        if let Some(place) = &mut self.place {
            place.leaves();
        }
        waiter.give(claim);
        let mut outlived = false;
        let loss = loop {
            tokio::select! {
                biased;
                _ = &mut behind.over => break None,
                () = asked(&mut self.stop, Stop::Now) => break Some((Loss::Closing, Farewell::Closing)),
                () = lease.at_risk(), if !outlived => {
                    if !self.parts.hypervisor.is_locked(&vm) {
                        break Some((Loss::LeaseAtRisk, Farewell::LeaseAtRisk));
                    }
                    outlived = true;
                    self.parts.voice.outlived(&self.slot, *lease.identity());
                }
                () = self.parts.hypervisor.exited(&vm) => {
                    let loss = if self.parts.hypervisor.is_gone() { Loss::AllGone } else { Loss::Exited };
                    break Some((loss, Farewell::Exited));
                }
                Some(ask) = behind.asked.recv() => {
                    answer(ask, self.parts.hypervisor.listen(&vm, lease.identity().port), nonce);
                }
            }
        };
        let why = match loss {
            Some((loss, why)) => {
                behind.lose(loss);
                why
            }
            None => Farewell::Finished,
        };
        let transport = self.parts.hypervisor.transport(&vm);
        self.parts.voice.say(Event::Transferred { slot: &self.slot, transport, traffic: &traffic });
        self.retire(lease, Some(vm), &why, Some(since))
    }

    async fn retiring(&mut self, lease: Held, vm: Option<H::Vm>, tries: u32) -> State<H::Vm> {
        let destroy = self.parts.hypervisor.destroy(&self.slot, vm);
        let what = match timeout(self.parts.config.limits.destroy, destroy).await {
            Ok(Ok(())) => {
                match std::mem::take(&mut self.busy) {
                    true => self.parts.keeper.shelve(lease).await,
                    false => self.parts.keeper.release(lease).await,
                }
                return State::Vacant;
            }
            Ok(Err(error)) => chain(&error),
            Err(late) => chain(&late),
        };
        tracing::error!(slot = %self.slot, identity = ?lease.identity(), tries, what, "a VM could not be destroyed");
        State::Quarantined { lease, tries: tries + 1 }
    }

    async fn quarantined(&mut self, lease: Held, tries: u32) -> State<H::Vm> {
        let delay = self.parts.config.quarantine_backoff.delay(tries, self.rng.random());
        let hurry = async {
            // Only a new wish hurries; an old one was heard.
            if self.stop.changed().await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            () = hurry => {}
            () = sleep(delay) => {}
        }
        State::Retiring { lease, vm: None, tries }
    }

    fn is_ready(&mut self, steps: &[RestoreStep]) {
        self.failures = 0;
        self.waiters.set_sound();
        if let Some(place) = &mut self.place {
            place.ready();
        }
        let empty = self.empty.take().map(|since| since.elapsed()).unwrap_or_default();
        self.parts.voice.say(Event::Restored { slot: &self.slot, empty, steps });
    }

    /// Notes that no VM came of an attempt, so that the next one waits.
    fn failed(&mut self, why: &str) {
        tracing::warn!(slot = %self.slot, why, "no VM");
        self.failures = self.failures.saturating_add(1);
        self.cool = true;
        self.waiters.set_failed(why);
    }

    fn retire(
        &mut self,
        lease: Held,
        vm: Option<H::Vm>,
        why: &Farewell,
        since: Option<Instant>,
    ) -> State<H::Vm> {
        tracing::debug!(slot = %self.slot, identity = ?lease.identity(), %why, "a VM goes");
        if let Some(place) = &mut self.place {
            place.leaves();
        }
        let age = since.map(|since| since.elapsed());
        self.parts.voice.say(Event::Retired { slot: &self.slot, why, age });
        State::Retiring { lease, vm, tries: 0 }
    }

    fn new_request(&mut self) -> String {
        format!("{}-{:032x}", self.slot, self.rng.random::<u128>())
    }
}
