//! From a lease to a Ready VM.

use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::{SlotTask, State, Warm};
use crate::{
    hypervisor::{Hypervisor, RestoreError, RestoreStep, Restored},
    lease::{LeaseStore, keeper::Held},
    pool::{
        admission::Place,
        claim::chain,
        events::{Event, Farewell},
        greeting::greet,
        stop::{Stop, asked},
    },
};

impl<H: Hypervisor, L: LeaseStore> SlotTask<H, L> {
    pub(super) async fn restoring(&mut self, lease: Held, dormant: Option<H::Dormant>) -> State<H> {
        let limit = self.parts.config.limits.restore;
        let hypervisor = Arc::clone(&self.parts.hypervisor);
        let (slot, identity) = (self.slot.clone(), *lease.identity());
        let restore = timeout(limit, async move {
            match dormant {
                Some(dormant) => hypervisor.load(dormant).await,
                None => hypervisor.restore(&slot, &identity).await,
            }
        });
        let restored = tokio::select! {
            biased;
            () = asked(&mut self.stop, Stop::Drain) => Err(Farewell::Closing),
            () = lease.at_risk() => Err(Farewell::LeaseAtRisk),
            restored = restore => Ok(restored.unwrap_or(Err(RestoreError::Timeout { step: "restore", limit }))),
        };
        match restored {
            Ok(Ok(restored)) => State::Greeting { lease, restored },
            Ok(Err(error)) => self.restore_failed(lease, &error),
            Err(why) => self.retire(lease, None, &why, None),
        }
    }

    pub(super) fn restore_failed(&mut self, lease: Held, error: &RestoreError) -> State<H> {
        let why = chain(error);
        self.failed(&why);
        self.busy = matches!(error, RestoreError::IdentityBusy { .. });
        if let RestoreError::Snapshot(_) = error {
            self.waiters.set_broken(&why);
        }
        self.retire(lease, None, &Farewell::RestoreFailed(why), None)
    }

    pub(super) async fn greeting(&mut self, lease: Held, restored: Restored<H::Vm>) -> State<H> {
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
                let idle = self.waiters.idle();
                State::Ready { lease, warm: Warm { vm, snapshot, greeted, since }, idle }
            }
            Err(why) => {
                if let Farewell::GreetingFailed(what) = &why {
                    self.failed(what);
                }
                self.retire(lease, Some(vm), &why, Some(since))
            }
        }
    }

    fn is_ready(&mut self, steps: &[RestoreStep]) {
        self.failures = 0;
        self.waiters.set_sound();
        let turn = self.place.as_mut().map(Place::ready).unwrap_or_default();
        let empty = self.empty.take().map(|since| since.elapsed()).unwrap_or_default();
        self.parts.voice.say(Event::Restored { slot: &self.slot, empty, turn, steps });
    }
}
