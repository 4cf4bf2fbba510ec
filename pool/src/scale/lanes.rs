//! Who is served first: claims in one queue, ordered by when each is due.

use std::{collections::BTreeMap, time::Duration};

use crate::pool::Lane;

/// What each lane is told to bear, interactive, normal, batch: a claim is due when it has waited that long. A claim that
/// is due goes before everyone who came later, of whatever lane: nobody starves.
pub const PATIENCE: [Duration; 3] = [Duration::ZERO, Duration::from_secs(5), Duration::from_secs(60)];

/// How the claims of a runtime are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneRules {
    /// See [`PATIENCE`].
    pub patience: [Duration; 3],
    /// The last so many Ready VMs of a runtime are kept for claims that are due: interactive ones, and those that have
    /// waited long.
    pub reserve: u32,
}

impl Default for LaneRules {
    fn default() -> Self {
        Self { patience: PATIENCE, reserve: 0 }
    }
}

/// A place in the queue: due first, then who came first. Instants are durations since whenever the clock began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    due: Duration,
    arrival: u64,
}

/// The claims of one runtime that wait.
#[derive(Clone, Debug)]
pub struct Lanes<T> {
    rules: LaneRules,
    waiting: BTreeMap<Place, T>,
    arrivals: u64,
}

impl<T> Lanes<T> {
    /// An empty queue.
    pub fn new(rules: LaneRules) -> Self {
        Self { rules, waiting: BTreeMap::new(), arrivals: 0 }
    }

    /// Joins the queue. Says whether one of `idle` Ready VMs is for it.
    pub fn join(&mut self, now: Duration, lane: Lane, who: T, idle: usize) -> (Place, bool) {
        let [interactive, normal, batch] = self.rules.patience;
        let patience = match lane {
            Lane::Interactive => interactive,
            Lane::Normal => normal,
            Lane::Batch => batch,
        };
        let place = Place { due: now.saturating_add(patience), arrival: self.arrivals };
        self.arrivals += 1;
        let ahead = if idle == 0 { 0 } else { self.waiting.range(..place).take(idle).count() };
        let kept = if place.due > now { self.rules.reserve as usize } else { 0 };
        let hit = idle > ahead.saturating_add(kept);
        self.waiting.insert(place, who);
        (place, hit)
    }

    /// Takes out who is served by one of `idle` Ready VMs.
    pub fn serve(&mut self, now: Duration, idle: usize) -> Option<T> {
        let (first, _) = self.waiting.first_key_value()?;
        let open = idle > self.rules.reserve as usize || first.due <= now;
        if open && idle > 0 { self.waiting.pop_first().map(|(_, who)| who) } else { None }
    }

    /// When the first claim is due: whoever keeps a VM for such looks again then.
    pub fn due(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|(place, _)| place.due)
    }

    /// Leaves the queue.
    pub fn leave(&mut self, place: &Place) -> Option<T> {
        self.waiting.remove(place)
    }

    /// Everybody, who leaves.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.waiting).into_values()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_better_lane_goes_first_then_who_came_first() {
        let mut lanes = Lanes::new(LaneRules::default());
        for (lane, who) in [
            (Lane::Batch, "batch"),
            (Lane::Normal, "normal 1"),
            (Lane::Interactive, "interactive 1"),
            (Lane::Normal, "normal 2"),
            (Lane::Interactive, "interactive 2"),
        ] {
            lanes.join(S, lane, who, 0);
        }
        let order: Vec<_> = std::iter::from_fn(|| lanes.serve(S, 1)).collect();
        assert_eq!(order, ["interactive 1", "interactive 2", "normal 1", "normal 2", "batch"]);
    }

    #[test]
    fn who_has_waited_long_enough_goes_before_those_who_come() {
        let mut lanes = Lanes::new(LaneRules::default());
        lanes.join(Duration::ZERO, Lane::Batch, "batch", 0);
        for second in 0..100 {
            lanes.join(second * S, Lane::Interactive, "interactive", 0);
        }
        let served = std::iter::from_fn(|| lanes.serve(100 * S, 1)).position(|who| who == "batch");
        assert_eq!(served, Some(60), "after the interactive ones of its first minute");
    }

    #[test]
    fn the_reserve_is_for_claims_that_are_due() {
        let mut lanes = Lanes::new(LaneRules { reserve: 1, ..LaneRules::default() });
        let (_, hit) = lanes.join(Duration::ZERO, Lane::Batch, "batch", 1);
        assert!(!hit);
        assert_eq!(lanes.serve(Duration::ZERO, 1), None);
        let (_, hit) = lanes.join(Duration::ZERO, Lane::Interactive, "interactive", 1);
        assert!(hit, "the reserve is for it");
        assert_eq!(lanes.serve(Duration::ZERO, 1), Some("interactive"));
        assert_eq!(lanes.serve(59 * S, 1), None);
        assert_eq!(lanes.due(), Some(60 * S));
        assert_eq!(lanes.serve(60 * S, 1), Some("batch"), "it has waited long enough");
        lanes.join(Duration::ZERO, Lane::Normal, "normal", 2);
        assert_eq!(lanes.serve(Duration::ZERO, 2), Some("normal"), "there is one beyond the reserve");
    }

    #[test]
    fn who_leaves_is_not_served() {
        let mut lanes = Lanes::new(LaneRules::default());
        let (place, _) = lanes.join(S, Lane::Normal, 1, 0);
        lanes.join(S, Lane::Normal, 2, 0);
        assert_eq!((lanes.leave(&place), lanes.leave(&place), lanes.len()), (Some(1), None, 1));
        assert_eq!(lanes.drain().collect::<Vec<_>>(), [2]);
        assert!(lanes.is_empty());
    }
}
