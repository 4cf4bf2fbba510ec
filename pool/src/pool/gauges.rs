//! Where every slot is, counted.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::{
    config::Observer,
    events::{Event, LeaseEvent},
};
use crate::{hypervisor::Slot, lease::Identity, phase::Phase};

/// How many slots of each runtime are in each phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phases(BTreeMap<String, BTreeMap<Phase, u32>>);

impl Phases {
    /// How many slots of a runtime are in a phase.
    pub fn count(&self, runtime: &str, phase: Phase) -> u32 {
        self.0.get(runtime).and_then(|counts| counts.get(&phase)).copied().unwrap_or(0)
    }

    /// How many slots are in a phase.
    pub fn total(&self, phase: Phase) -> u32 {
        self.0.values().filter_map(|counts| counts.get(&phase)).sum()
    }

    /// Every runtime, phase and count above 0.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Phase, u32)> {
        let flat = |(runtime, counts): (_, &BTreeMap<Phase, u32>)| {
            let counts = counts.clone().into_iter().filter(|(_, count)| *count > 0);
            let runtime: &String = runtime;
            counts.map(move |(phase, count)| (runtime.as_str(), phase, count))
        };
        self.0.iter().flat_map(flat)
    }

    /// Whether every slot has ended.
    pub fn all_closed(&self) -> bool {
        self.iter().all(|(_, phase, _)| phase == Phase::Closed)
    }

    fn add(&mut self, runtime: &str, phase: Phase) {
        *self.0.entry(runtime.to_owned()).or_default().entry(phase).or_default() += 1;
    }

    fn remove(&mut self, runtime: &str, phase: Phase) {
        if let Some(count) = self.0.get_mut(runtime).and_then(|counts| counts.get_mut(&phase)) {
            *count = count.saturating_sub(1);
        }
    }
}

impl std::fmt::Display for Phases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, (runtime, phase, count)) in self.iter().enumerate() {
            write!(f, "{}{count} {runtime} {phase}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Tells whoever listens.
#[derive(Clone)]
pub(crate) struct Voice(Option<Observer>);

impl Voice {
    pub(crate) fn new(observer: Option<Observer>) -> Self {
        Self(observer)
    }

    pub(crate) fn say(&self, event: Event<'_>) {
        if let Some(observer) = &self.0 {
            observer(event);
        }
    }

    /// A claimed VM goes on: whoever else is given its CID meets the host's lock, and at its port the nonce.
    pub(crate) fn outlived(&self, slot: &Slot, identity: Identity) {
        tracing::warn!(%slot, ?identity, "the lease of a VM with a job is at risk; the host's lock is held");
        self.say(Event::Lease { identity: Some(identity), event: LeaseEvent::Outlived });
    }
}

/// The phase of one slot. Its task is the only one that has this.
pub(crate) struct Position {
    slot: Slot,
    phase: Phase,
    phases: watch::Sender<Phases>,
    voice: Voice,
}

impl Position {
    pub(crate) fn vacant(slot: Slot, phases: watch::Sender<Phases>, voice: Voice) -> Self {
        phases.send_modify(|phases| phases.add(&slot.runtime, Phase::Vacant));
        voice.say(Event::Opened { slot: &slot });
        Self { slot, phase: Phase::Vacant, phases, voice }
    }

    /// The one function that changes a slot's phase.
    pub(crate) fn enter(&mut self, to: Phase) {
        let from = std::mem::replace(&mut self.phase, to);
        debug_assert!(from.may_become(to), "{}: {from} -> {to}", self.slot);
        if !from.may_become(to) {
            tracing::error!(slot = %self.slot, %from, %to, "a move that the table does not allow");
        }
        tracing::debug!(slot = %self.slot, %from, %to);
        self.phases.send_modify(|phases| {
            phases.remove(&self.slot.runtime, from);
            phases.add(&self.slot.runtime, to);
        });
        self.voice.say(Event::Moved { slot: &self.slot, from, to });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_follow_the_slots_and_add_up() {
        let phases = watch::Sender::new(Phases::default());
        let slot = |number| Slot { runtime: "python".into(), number };
        let mut one = Position::vacant(slot(1), phases.clone(), Voice::new(None));
        let mut two = Position::vacant(slot(2), phases.clone(), Voice::new(None));
        one.enter(Phase::Leasing);
        two.enter(Phase::Closed);
        let now = phases.borrow().clone();
        assert_eq!(
            now.iter().collect::<Vec<_>>(),
            [("python", Phase::Leasing, 1), ("python", Phase::Closed, 1)]
        );
        assert_eq!((now.count("python", Phase::Leasing), now.total(Phase::Closed)), (1, 1));
        assert_eq!(now.to_string(), "1 python leasing, 1 python closed");
        assert!(!now.all_closed());
    }
}
