//! From any VM to none.

use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};

use super::{SlotTask, State};
use crate::{
    hypervisor::Hypervisor,
    lease::{LeaseStore, keeper::Held},
    pool::{
        claim::chain,
        events::{Event, Farewell},
    },
};

impl<H: Hypervisor, L: LeaseStore> SlotTask<H, L> {
    pub(super) async fn retiring(&mut self, lease: Held, vm: Option<H::Vm>, tries: u32) -> State<H> {
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

    pub(super) async fn quarantined(&mut self, lease: Held, tries: u32) -> State<H> {
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

    pub(super) fn retire(
        &mut self,
        lease: Held,
        vm: Option<H::Vm>,
        why: &Farewell,
        since: Option<Instant>,
    ) -> State<H> {
        tracing::debug!(slot = %self.slot, identity = ?lease.identity(), %why, "a VM goes");
        if let Some(place) = &mut self.place {
            place.leaves();
        }
        let age = since.map(|since| since.elapsed());
        self.parts.voice.say(Event::Retired { slot: &self.slot, why, age });
        State::Retiring { lease, vm, tries: 0 }
    }
}
