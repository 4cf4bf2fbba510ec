//! What goes wrong, and how often.

use std::{collections::VecDeque, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::agent::{AgentFaults, WakeAnswer};
use crate::hypervisor::RestoreError;

/// How a fake hypervisor behaves. Change them at any time by `FakeHypervisor::set`.
#[derive(Debug)]
pub struct Knobs {
    /// What restores come from.
    pub snapshot: String,
    /// How long a restore takes.
    pub restore_takes: Duration,
    /// Of that, how long the start of the VMM takes, which can be done ahead.
    pub start_takes: Duration,
    /// The next starts ahead fail like this, in turn.
    pub fail_starts: VecDeque<RestoreError>,
    /// Whether starts ahead never end.
    pub stall_starts: bool,
    /// How long it takes to reach an agent.
    pub dial_takes: Duration,
    /// How long a destroy takes.
    pub destroy_takes: Duration,
    /// Whether restores never end.
    pub stall_restores: bool,
    /// Whether agents are never reached.
    pub stall_dials: bool,
    /// Whether destroys never end.
    pub stall_destroys: bool,
    /// The next restores fail like this, in turn.
    pub fail_restores: VecDeque<RestoreError>,
    /// This many of the next destroys fail.
    pub fail_destroys: u32,
    /// VMs end by themselves this long after their restore.
    pub die_after: Option<Duration>,
    /// Whether locks of the host keep CIDs apart.
    pub locks: bool,
    /// How agents behave.
    pub agent: AgentFaults,
    /// Faults by chance, on top.
    pub faults: Option<Faults>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            snapshot: "fake".to_owned(),
            restore_takes: Duration::from_millis(500),
            start_takes: Duration::from_millis(200),
            fail_starts: VecDeque::new(),
            stall_starts: false,
            dial_takes: Duration::from_millis(50),
            destroy_takes: Duration::from_millis(20),
            stall_restores: false,
            stall_dials: false,
            stall_destroys: false,
            fail_restores: VecDeque::new(),
            fail_destroys: 0,
            die_after: None,
            locks: false,
            agent: AgentFaults::default(),
            faults: None,
        }
    }
}

/// Faults by chance, from a seed.
#[derive(Debug)]
pub struct Faults {
    rng: SmallRng,
    /// Of all restores, dials, wakes and destroys: the part that goes wrong, each.
    pub rate: f64,
}

impl Faults {
    /// Faults that the seed decides.
    pub fn new(seed: u64, rate: f64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), rate }
    }

    fn strikes(&mut self) -> bool {
        self.rng.random_bool(self.rate.clamp(0.0, 1.0))
    }
}

/// What will become of one restore.
pub(super) enum RestoreFate {
    Made { takes: Duration, die_after: Option<Duration> },
    Stalls,
    Fails { takes: Duration, error: RestoreError },
}

/// What will become of one call that does or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Does(Duration),
    Stalls,
    Fails(Duration),
}

impl Knobs {
    pub(super) fn restore(&mut self) -> RestoreFate {
        let takes = self.restore_takes;
        if let Some(error) = self.fail_restores.pop_front() {
            return RestoreFate::Fails { takes, error };
        }
        if self.stall_restores {
            return RestoreFate::Stalls;
        }
        let mut die_after = self.die_after;
        if let Some(faults) = &mut self.faults {
            if faults.strikes() {
                return RestoreFate::Stalls;
            }
            if faults.strikes() {
                let error = RestoreError::Vmm("a fault by chance".into());
                return RestoreFate::Fails { takes: takes / 2, error };
            }
            if faults.strikes() {
                die_after = Some(Duration::from_millis(faults.rng.random_range(0..20_000)));
            }
        }
        RestoreFate::Made { takes, die_after }
    }

    pub(super) fn dial(&mut self) -> Fate {
        let struck = self.faults.as_mut().is_some_and(Faults::strikes);
        match self.stall_dials || struck {
            true => Fate::Stalls,
            false => Fate::Does(self.dial_takes),
        }
    }

    /// Of an agent that is being dialled.
    pub(super) fn agent(&mut self) -> AgentFaults {
        let mut agent = self.agent.clone();
        if let Some(faults) = self.faults.as_mut().filter(|_| agent.wake == WakeAnswer::Confirm)
            && faults.strikes()
        {
            let answers = WakeAnswer::WRONG;
            let wrong = answers.get(faults.rng.random_range(0..answers.len()));
            agent.wake = wrong.copied().unwrap_or(WakeAnswer::Silent);
        }
        agent
    }

    pub(super) fn destroy(&mut self) -> Fate {
        if self.fail_destroys > 0 {
            self.fail_destroys -= 1;
            return Fate::Fails(self.destroy_takes);
        }
        if self.stall_destroys {
            return Fate::Stalls;
        }
        if let Some(faults) = &mut self.faults {
            if faults.strikes() {
                return Fate::Fails(self.destroy_takes);
            }
            if faults.strikes() {
                return Fate::Stalls;
            }
        }
        Fate::Does(self.destroy_takes)
    }
}
