//! What a slot has of the pool's room.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::Admission;

/// How far a VM is, as the gate counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A VMM without a guest.
    Starting,
    Dormant,
    Warming,
    Ready,
    Busy,
}

/// The room of one VM, from before its restore until it is destroyed. Dropped when nothing of the VM is left.
pub(crate) struct Place {
    admission: Arc<Admission>,
    runtime: usize,
    stage: Stage,
    /// Of a Ready VM: whether it is of an old snapshot.
    outdated: bool,
    /// Only what a VMM without a guest takes was reserved.
    never_loaded: bool,
    since: Instant,
}

impl Place {
    pub(super) fn new(admission: Arc<Admission>, runtime: usize, stage: Stage) -> Self {
        let never_loaded = stage == Stage::Starting;
        Self { admission, runtime, stage, outdated: false, never_loaded, since: Instant::now() }
    }

    /// Whether it is for a VMM without a guest, and no restore as yet.
    pub(crate) fn is_for_dormant(&self) -> bool {
        self.stage == Stage::Starting
    }

    /// The VMM was started. Resolves when it has its turn to restore, of which [`Self::warms`] is to be told; with an error when it
    /// is to go. To be dropped before [`Self::leaves`].
    pub(crate) fn started(&mut self) -> oneshot::Receiver<()> {
        let (give, given) = oneshot::channel();
        let runtime = self.runtime;
        self.stage = Stage::Dormant;
        self.admission.change(|state| {
            state.gate.started(runtime);
            if let Some(dormant) = state.dormant.get_mut(runtime) {
                dormant.push_back(give);
            }
        });
        given
    }

    /// The restore begins.
    pub(crate) fn warms(&mut self) {
        (self.stage, self.never_loaded, self.since) = (Stage::Warming, false, Instant::now());
    }

    /// The VM is Ready; the turn is another's. Returns how long it was this one's.
    pub(crate) fn ready(&mut self) -> Duration {
        let (runtime, took) = (self.runtime, self.since.elapsed());
        self.stage = Stage::Ready;
        self.admission.change(|state| {
            state.gate.ready(runtime);
            if let Some(scaler) = &mut state.scaler {
                scaler.restored(runtime, took);
            }
        });
        took
    }

    /// Whether the Ready VM is of an old snapshot.
    pub(crate) fn set_outdated(&mut self, outdated: bool) {
        let runtime = self.runtime;
        if self.stage == Stage::Ready && std::mem::replace(&mut self.outdated, outdated) != outdated {
            self.admission.change(|state| state.gate.set_outdated(runtime, outdated));
        }
    }

    /// The VM goes, as [`Admission::replaced`] said.
    pub(crate) fn replaced(&mut self) {
        (self.stage, self.outdated) = (Stage::Busy, false);
    }

    /// The VM is no longer warm: it was claimed, or retires.
    pub(crate) fn leaves(&mut self) {
        self.set_outdated(false);
        let (runtime, stage) = (self.runtime, std::mem::replace(&mut self.stage, Stage::Busy));
        match stage {
            Stage::Starting => self.admission.change(|state| state.gate.start_failed(runtime)),
            // Its end of the channel is gone, which is seen there.
            Stage::Dormant => self.admission.change(|_| {}),
            Stage::Warming => self.admission.change(|state| state.gate.failed(runtime)),
            Stage::Ready => self.admission.change(|state| state.gate.taken(runtime)),
            Stage::Busy => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leaves();
        let (runtime, never_loaded) = (self.runtime, self.never_loaded);
        self.admission.change(|state| match never_loaded {
            true => state.gate.dormant_gone(runtime),
            false => state.gate.gone(runtime),
        });
    }
}
