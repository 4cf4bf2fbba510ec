//! A VMM without a guest: started beforehand, and kept until there is a turn to restore.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{SlotTask, State};
use crate::{
    hypervisor::{Hypervisor, RestoreError},
    lease::{LeaseStore, keeper::Held},
    pool::{
        events::{Event, Farewell},
        stop::{Stop, asked},
        turnover::is_outdated,
    },
};

impl<H: Hypervisor, L: LeaseStore> SlotTask<H, L> {
    pub(super) async fn dormant(&mut self, lease: Held) -> State<H> {
        let limit = self.parts.config.limits.restore;
        let begun = Instant::now();
        let start = timeout(limit, self.parts.hypervisor.start(&self.slot, lease.identity()));
        let started = tokio::select! {
            biased;
            () = asked(&mut self.stop, Stop::Drain) => Err(Farewell::Closing),
            () = lease.at_risk() => Err(Farewell::LeaseAtRisk),
            started = start => Ok(started.unwrap_or(Err(RestoreError::Timeout { step: "start", limit }))),
        };
        match started {
            Ok(Ok(dormant)) => self.sleeps(lease, dormant, begun.elapsed()).await,
            Ok(Err(error)) => self.restore_failed(lease, &error),
            Err(why) => self.retire(lease, None, &why, None),
        }
    }

    async fn sleeps(&mut self, lease: Held, dormant: H::Dormant, took: Duration) -> State<H> {
        let Some(place) = &mut self.place else {
            return self.retire(lease, None, &Farewell::Surplus, None);
        };
        let mut turn = place.started();
        self.parts.voice.say(Event::Started { slot: &self.slot, took });
        let hypervisor = &*self.parts.hypervisor;
        let mut current = self.parts.currents.of(self.runtime);
        let outdated = async {
            let from = hypervisor.dormant_from(&dormant);
            if current.wait_for(|current| is_outdated(current.as_deref(), from)).await.is_err() {
                std::future::pending().await
            }
        };
        let woken = tokio::select! {
            biased;
            () = asked(&mut self.stop, Stop::Drain) => Err(Farewell::Closing),
            () = lease.at_risk() => Err(Farewell::LeaseAtRisk),
            () = hypervisor.dormant_exited(&dormant) => Err(Farewell::Exited),
            () = outdated => Err(Farewell::Outdated),
            turn = &mut turn => turn.map_err(|_| Farewell::Surplus),
        };
        // A turn may have come in the same moment.
        turn.close();
        let has_turn = woken.is_ok() || turn.try_recv().is_ok();
        drop(turn);
        if let Some(place) = self.place.as_mut().filter(|_| has_turn) {
            place.warms();
        }
        match woken {
            Ok(()) => State::Restoring { lease, dormant: Some(dormant) },
            Err(why) => {
                if why == Farewell::Exited {
                    self.failed("a VMM ended while it was dormant");
                }
                self.retire(lease, None, &why, None)
            }
        }
    }
}
