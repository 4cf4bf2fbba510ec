//! What metrics and tests hear of a pool.

use std::{fmt, time::Duration};

use super::claim::Outcome;
use crate::{
    hypervisor::{RestoreStep, Slot},
    lease::Identity,
    phase::Phase,
    session::Traffic,
};

/// Something happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A slot begins, Vacant.
    Opened {
        /// Which.
        slot: &'a Slot,
    },
    /// A slot moved.
    Moved {
        /// Which.
        slot: &'a Slot,
        /// From where.
        from: Phase,
        /// To where.
        to: Phase,
    },
    /// A claim ended well or by its deadline.
    Claimed {
        /// The runtime.
        runtime: &'a str,
        /// How.
        outcome: Outcome,
        /// How long it waited.
        waited: Duration,
    },
    /// How many VMs of a runtime the pool keeps.
    Target {
        /// The runtime.
        runtime: &'a str,
        /// Slots.
        slots: u32,
    },
    /// A VMM without a guest was started, and waits.
    Started {
        /// Its slot.
        slot: &'a Slot,
        /// How long that took.
        took: Duration,
    },
    /// A VM is Ready.
    Restored {
        /// Its slot.
        slot: &'a Slot,
        /// How long the slot was without a VM, from when it could take one: turns, leases, failed tries included.
        empty: Duration,
        /// How long it had its turn.
        turn: Duration,
        /// Every part of its restore and greeting, in order.
        steps: &'a [RestoreStep],
    },
    /// A VM, or what was to become one, is about to be destroyed.
    Retired {
        /// Its slot.
        slot: &'a Slot,
        /// Why.
        why: &'a Farewell,
        /// How long after its restore, when it was restored.
        age: Option<Duration>,
    },
    /// A claim is over: what went over its session, in files and standard streams.
    Transferred {
        /// Its slot.
        slot: &'a Slot,
        /// See [`crate::hypervisor::Hypervisor::transport`].
        transport: &'static str,
        /// How many bytes.
        traffic: &'a Traffic,
    },
    /// Something about a lease.
    Lease {
        /// Of which identity, when there is one.
        identity: Option<Identity>,
        /// What.
        event: LeaseEvent,
    },
}

/// Why a VM goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Its claim is over.
    Finished,
    /// Nobody claimed it in time.
    Stale,
    /// Fewer are to be warm.
    Surplus,
    /// Its runtime was baked again.
    Outdated,
    /// It ended by itself, or its agent did.
    Exited,
    /// Its lease is about to expire or is lost.
    LeaseAtRisk,
    /// The pool closes.
    Closing,
    /// It could not be restored.
    RestoreFailed(String),
    /// It did not confirm its wake.
    GreetingFailed(String),
}

impl Farewell {
    /// All names.
    pub const NAMES: [&str; 9] = [
        "finished",
        "stale",
        "surplus",
        "outdated",
        "exited",
        "lease_at_risk",
        "closing",
        "restore_failed",
        "greeting_failed",
    ];

    /// Its name, for metrics.
    pub const fn name(&self) -> &'static str {
        let [
            finished,
            stale,
            surplus,
            outdated,
            exited,
            lease_at_risk,
            closing,
            restore_failed,
            greeting_failed,
        ] = Self::NAMES;
        match self {
            Self::Finished => finished,
            Self::Stale => stale,
            Self::Surplus => surplus,
            Self::Outdated => outdated,
            Self::Exited => exited,
            Self::LeaseAtRisk => lease_at_risk,
            Self::Closing => closing,
            Self::RestoreFailed(_) => restore_failed,
            Self::GreetingFailed(_) => greeting_failed,
        }
    }
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Stale => f.write_str("stale"),
            Self::Surplus => f.write_str("surplus"),
            Self::Outdated => f.write_str("outdated"),
            Self::Exited => f.write_str("exited"),
            Self::LeaseAtRisk => f.write_str("lease at risk"),
            Self::Closing => f.write_str("closing"),
            Self::RestoreFailed(why) => write!(f, "restore failed: {why}"),
            Self::GreetingFailed(why) => write!(f, "greeting failed: {why}"),
        }
    }
}

/// See [`Event::Lease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseEvent {
    /// Given.
    Acquired,
    /// Not given.
    Refused,
    /// Lasts longer.
    Renewed,
    /// The store did not answer a renewal; it is tried again.
    RenewalFailed,
    /// Expired, or somebody else's.
    Lost,
    /// At risk or lost, while its claimed VM goes on behind the host's lock.
    Outlived,
    /// Not given back, since another VM of the host has its CID; it expires by itself.
    Shelved,
    /// Given back.
    Released,
    /// Given back too late: it was no longer ours.
    ReleasedLate,
    /// The store did not take it back; it expires by itself.
    ReleaseFailed,
}

impl LeaseEvent {
    /// All names.
    pub const NAMES: [&str; 10] = [
        Self::Acquired.name(),
        Self::Refused.name(),
        Self::Renewed.name(),
        Self::RenewalFailed.name(),
        Self::Lost.name(),
        Self::Outlived.name(),
        Self::Shelved.name(),
        Self::Released.name(),
        Self::ReleasedLate.name(),
        Self::ReleaseFailed.name(),
    ];

    /// Its name, for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::Refused => "refused",
            Self::Renewed => "renewed",
            Self::RenewalFailed => "renewal_failed",
            Self::Lost => "lost",
            Self::Outlived => "outlived",
            Self::Shelved => "shelved",
            Self::Released => "released",
            Self::ReleasedLate => "released_late",
            Self::ReleaseFailed => "release_failed",
        }
    }
}
