//! A slot's life as a table.

use std::fmt;

/// What a slot is doing. See [`Phase::may_become`] for the moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Owns nothing.
    Vacant,
    /// Asks for a lease.
    Leasing,
    /// Owns nothing and waits before it tries again, after a refused lease or a failed restore.
    Cooling,
    /// Owns a lease and a VMM without a guest, which is started or waits for a turn to restore.
    Dormant,
    /// Owns a lease; its VM is being restored.
    Restoring,
    /// Owns a lease and a VM that has not confirmed its wake.
    Greeting,
    /// Owns a lease and a VM that waits for a claim.
    Ready,
    /// Owns a lease and a VM that serves its only claim.
    Claimed,
    /// Destroys its VM, then gives its lease back.
    Retiring,
    /// Could not destroy its VM, keeps its lease, and waits before it tries again.
    Quarantined,
    /// Owns nothing and has ended.
    Closed,
}

impl Phase {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 11] = [
        Self::Vacant,
        Self::Leasing,
        Self::Cooling,
        Self::Dormant,
        Self::Restoring,
        Self::Greeting,
        Self::Ready,
        Self::Claimed,
        Self::Retiring,
        Self::Quarantined,
        Self::Closed,
    ];

    /// The label in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vacant => "vacant",
            Self::Leasing => "leasing",
            Self::Cooling => "cooling",
            Self::Dormant => "dormant",
            Self::Restoring => "restoring",
            Self::Greeting => "greeting",
            Self::Ready => "ready",
            Self::Claimed => "claimed",
            Self::Retiring => "retiring",
            Self::Quarantined => "quarantined",
            Self::Closed => "closed",
        }
    }

    /// The table of moves. Retiring is the only way out of whatever owns something.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Vacant => matches!(next, Self::Leasing | Self::Cooling | Self::Closed),
            Self::Leasing => {
                matches!(next, Self::Dormant | Self::Restoring | Self::Cooling | Self::Retiring)
            }
            Self::Cooling => matches!(next, Self::Vacant),
            Self::Dormant => matches!(next, Self::Restoring | Self::Retiring),
            Self::Restoring => matches!(next, Self::Greeting | Self::Retiring),
            Self::Greeting => matches!(next, Self::Ready | Self::Retiring),
            Self::Ready => matches!(next, Self::Claimed | Self::Retiring),
            Self::Claimed => matches!(next, Self::Retiring),
            Self::Retiring => matches!(next, Self::Vacant | Self::Quarantined),
            Self::Quarantined => matches!(next, Self::Retiring),
            Self::Closed => false,
        }
    }

    /// Whether a slot in this phase owns a lease, and maybe a VM.
    pub fn owns(self) -> bool {
        match self {
            Self::Vacant | Self::Leasing | Self::Cooling | Self::Closed => false,
            Self::Dormant
            | Self::Restoring
            | Self::Greeting
            | Self::Ready
            | Self::Claimed
            | Self::Retiring
            | Self::Quarantined => true,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Phase::{self, *};

    #[test]
    fn every_pair_of_phases_is_allowed_or_not_as_the_design_says() {
        let allowed = BTreeSet::from([
            (Vacant, Leasing),
            (Vacant, Cooling),
            (Vacant, Closed),
            (Leasing, Dormant),
            (Leasing, Restoring),
            (Leasing, Cooling),
            (Leasing, Retiring),
            (Cooling, Vacant),
            (Dormant, Restoring),
            (Dormant, Retiring),
            (Restoring, Greeting),
            (Restoring, Retiring),
            (Greeting, Ready),
            (Greeting, Retiring),
            (Ready, Claimed),
            (Ready, Retiring),
            (Claimed, Retiring),
            (Retiring, Vacant),
            (Retiring, Quarantined),
            (Quarantined, Retiring),
        ]);
        for from in Phase::ALL {
            for to in Phase::ALL {
                assert_eq!(from.may_become(to), allowed.contains(&(from, to)), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn retiring_is_the_only_way_to_stop_owning() {
        for from in Phase::ALL.into_iter().filter(|phase| phase.owns()) {
            for to in Phase::ALL.into_iter().filter(|phase| !phase.owns() && from.may_become(*phase)) {
                assert_eq!(from, Retiring, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn every_phase_can_reach_closed_and_has_its_own_name() {
        let names: BTreeSet<_> = Phase::ALL.map(Phase::name).into();
        assert_eq!(names.len(), Phase::ALL.len());
        for start in Phase::ALL {
            let mut seen = BTreeSet::from([start]);
            for _ in Phase::ALL {
                let next = Phase::ALL.into_iter().filter(|to| seen.iter().any(|from| from.may_become(*to)));
                let next: Vec<_> = next.collect();
                seen.extend(next);
            }
            assert!(seen.contains(&Closed), "{start}");
        }
    }
}
