//! One runtime's slots, as the gate counts them.

use std::time::Duration;

use super::Cost;

/// What a VMM without a guest takes, with what belongs to it.
pub const DORMANT_MIB: u64 = 64;

/// One runtime's slots, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Of one VM.
    pub cost: Cost,
    /// All of them.
    pub slots: u32,
    /// VMs to keep warm: Ready, or on the way there.
    pub target: u32,
    /// VMMs without a guest to keep beside those.
    pub dormants: u32,
    /// Of those, the ones that are being started.
    pub starting: u32,
    /// And the ones that wait for a turn.
    pub dormant: u32,
    /// Slots that ask for a turn.
    pub asking: u32,
    /// VMs between their turn and Ready.
    pub warming: u32,
    /// Ready VMs.
    pub ready: u32,
    /// Of those, the ones of an old snapshot.
    pub outdated: u32,
    /// One of those went before its successor was there, and no VM has become Ready since.
    pub replacing: bool,
    /// VMs that exist, in whatever phase, and VMMs without one.
    pub held: u32,
    /// Claims that wait.
    pub waiting: u32,
    /// When the first of them is due.
    pub due: Option<Duration>,
}

impl Line {
    /// Memory that a VMM without a guest reserves.
    pub(super) fn dormant_mib(&self) -> u64 {
        self.cost.memory_mib.min(DORMANT_MIB)
    }

    /// Memory that the next restore reserves.
    pub(super) fn more_mib(&self) -> u64 {
        self.cost.memory_mib - if self.dormant > 0 { self.dormant_mib() } else { 0 }
    }

    pub(super) fn may_restore(&self) -> bool {
        self.asking > 0 || self.dormant > 0
    }

    /// Claims for which no VM is on its way.
    pub(super) fn uncovered(&self) -> u32 {
        self.waiting.saturating_sub(self.warming + self.ready)
    }

    /// The target, and one more while a VM of the new snapshot is to take an old one's place.
    pub(super) fn goal(&self) -> u32 {
        self.target + u32::from(self.outdated > 0 && self.target > 0)
    }

    /// Warm VMs beyond those that waiting claims will take.
    pub(super) fn spare(&self) -> u32 {
        (self.warming + self.ready).saturating_sub(self.waiting)
    }
}
