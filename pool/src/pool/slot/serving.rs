//! A VM that is Ready, and its only claim.

use std::sync::Arc;

use rand::RngExt;
use tokio::{pin, time::sleep_until};

use super::{SlotTask, State, Warm};
use crate::{
    hypervisor::Hypervisor,
    lease::{LeaseStore, keeper::Held},
    pool::{
        claim::{Claim, ClaimedVm, Loss, answer},
        events::{Event, Farewell},
        greeting::Greeted,
        stop::{Stop, asked},
        turnover::is_outdated,
        waiters::{Idle, Waiter},
    },
};

impl<H: Hypervisor, L: LeaseStore> SlotTask<H, L> {
    pub(super) async fn ready(&mut self, lease: Held, warm: Warm<H::Vm>, idle: Idle) -> State<H> {
        // Up to a tenth early.
        let age = self.parts.config.max_age.mul_f64(1.0 - self.rng.random::<f64>() / 10.0);
        let (hypervisor, admission) = (&*self.parts.hypervisor, &self.parts.admission);
        let mut current = self.parts.currents.of(self.runtime);
        let waiters = Arc::clone(&self.waiters);
        let claimed = waiters.next(idle);
        pin!(claimed);
        let why = loop {
            let outdated =
                is_outdated(current.borrow_and_update().as_deref(), hypervisor.came_from(&warm.vm));
            if let Some(place) = &mut self.place {
                place.set_outdated(outdated);
            }
            tokio::select! {
                biased;
                () = asked(&mut self.stop, Stop::Drain) => break Farewell::Closing,
                () = lease.at_risk() => break Farewell::LeaseAtRisk,
                () = hypervisor.exited(&warm.vm) => break Farewell::Exited,
                _ = warm.greeted.session.ended() => break Farewell::Exited,
                () = sleep_until(warm.since + age) => break Farewell::Stale,
                () = admission.dismissed(self.runtime) => break Farewell::Surplus,
                waiter = &mut claimed => return State::Claimed { lease, warm, waiter },
                Ok(()) = current.changed() => {}
                () = admission.replaced(self.runtime), if outdated => {
                    if let Some(place) = &mut self.place {
                        place.replaced();
                    }
                    break Farewell::Outdated;
                }
            }
        };
        if why == Farewell::Exited {
            self.failed("a VM ended while it was Ready");
        }
        self.retire(lease, Some(warm.vm), &why, Some(warm.since))
    }

    pub(super) async fn claimed(&mut self, lease: Held, warm: Warm<H::Vm>, waiter: Waiter) -> State<H> {
        let Warm { vm, snapshot, greeted: Greeted { session, nonce, steps }, since } = warm;
        let (slot, identity) = (self.slot.clone(), *lease.identity());
        let transport = self.parts.hypervisor.transport(&vm);
        let claimed = ClaimedVm { slot, identity, snapshot, transport, steps, age: since.elapsed(), nonce };
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
                    let hypervisor = &self.parts.hypervisor;
                    let loss = match (hypervisor.is_gone(), hypervisor.is_cut_off(&vm)) {
                        (true, _) => Loss::AllGone,
                        (false, true) => Loss::CutOff,
                        (false, false) => Loss::Exited,
                    };
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
        self.parts.voice.say(Event::Transferred { slot: &self.slot, transport, traffic: &traffic });
        self.retire(lease, Some(vm), &why, Some(since))
    }
}
