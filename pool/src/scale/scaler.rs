//! From what was seen to how many VMs each runtime keeps warm.

use std::time::Duration;

use super::{
    arrivals::Arrivals,
    gate::{Cost, Limits},
    pattern::Pattern,
    share::{Wish, share},
    stock::{Curve, Supply},
};

/// While claims arrive, targets are set this often.
pub const BIN: Duration = Duration::from_millis(100);
/// While none do.
pub const IDLE_BIN: Duration = Duration::from_secs(1);
/// A restore is taken to last this long until one was seen.
const LEAD_GUESS: Duration = Duration::from_secs(1);
/// Weight of the latest restore in the mean.
const LEAD_WEIGHT: f64 = 0.05;

/// What the scaler aims at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Of all claims, the part that gets its VM within `target_wait`; more than 0 and less than 1.
    pub target_hit: f64,
    /// How long a claim may wait. With 0 it finds a VM Ready.
    pub target_wait: Duration,
    /// A target that is no longer needed falls to a third in this time.
    pub decay: Duration,
    /// A runtime without a pattern keeps a VM this long after its last claim.
    pub keep_alive: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            target_hit: 0.99,
            target_wait: Duration::ZERO,
            decay: Duration::from_secs(15),
            keep_alive: Duration::from_secs(600),
        }
    }
}

/// One runtime's bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Never fewer warm VMs, where the budget allows.
    pub floor: u32,
    /// VMs at once, whatever they do: its slots.
    pub ceiling: u32,
    /// Of one VM.
    pub cost: Cost,
}

/// What is seen of one runtime at a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// VMs that exist and are not warm: claimed, or on their way out.
    pub busy: u32,
    /// Claims that wait.
    pub waiting: u32,
    /// Jobs that wait elsewhere and will claim as soon as they can.
    pub backlog: u32,
    /// What a schedule asks for now, at least.
    pub scheduled: u32,
}

#[derive(Clone, Debug)]
struct Runtime {
    rule: Rule,
    arrivals: Arrivals,
    pattern: Pattern,
    lead: Lead,
    /// Since the last tick.
    claims: u32,
    /// The target before rounding and sharing, as it decays.
    held: f64,
    /// With those for claims that wait.
    given: u32,
    target: u32,
}

/// Sets targets. Deterministic: the same calls give the same targets.
#[derive(Clone, Debug)]
pub struct Scaler {
    policy: Policy,
    limits: Limits,
    runtimes: Vec<Runtime>,
    last: Duration,
    next: Duration,
}

impl Scaler {
    /// Its clock begins at 0.
    pub fn new(policy: Policy, limits: Limits, rules: Vec<Rule>) -> Self {
        let runtime = |rule: Rule| Runtime {
            rule,
            arrivals: Arrivals::default(),
            pattern: Pattern::default(),
            lead: Lead::default(),
            claims: 0,
            held: f64::from(rule.floor),
            given: 0,
            target: rule.floor.min(rule.ceiling),
        };
        let runtimes = rules.into_iter().map(runtime).collect();
        Self { policy, limits, runtimes, last: Duration::ZERO, next: BIN }
    }

    /// A claim came.
    pub fn claimed(&mut self, runtime: usize, now: Duration) {
        if let Some(runtime) = self.runtimes.get_mut(runtime) {
            runtime.claims += 1;
            runtime.pattern.claimed(now);
            self.hurry(now);
        }
    }

    /// Something came that targets depend on: they are set as soon as may be.
    pub fn hurry(&mut self, now: Duration) {
        self.next = self.next.min((self.last + BIN).max(now));
    }

    /// A VM became Ready that long after it got its turn.
    pub fn restored(&mut self, runtime: usize, took: Duration) {
        if let Some(runtime) = self.runtimes.get_mut(runtime) {
            runtime.lead.seen(took.as_secs_f64());
        }
    }

    /// When to tick next: earlier when a claim comes.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// What was last given.
    pub fn target(&self, runtime: usize) -> u32 {
        self.runtimes.get(runtime).map_or(0, |runtime| runtime.target)
    }

    /// Sets the target of each runtime from what was seen since the last tick. `seen` is in the order of the rules.
    pub fn tick(&mut self, now: Duration, seen: &[Seen]) {
        let passed = now.saturating_sub(self.last);
        self.last = now;
        let mut quiet = true;
        for runtime in &mut self.runtimes {
            quiet &= runtime.claims == 0;
            runtime.arrivals.observe(std::mem::take(&mut runtime.claims), passed);
        }
        self.next = now + if quiet { IDLE_BIN } else { BIN };
        let load: f64 = self.runtimes.iter().map(Runtime::load).sum();
        let mut in_use = Cost::default();
        let mut wishes = Vec::with_capacity(self.runtimes.len());
        for (runtime, seen) in self.runtimes.iter_mut().zip(seen) {
            in_use.memory_mib += u64::from(seen.busy) * runtime.rule.cost.memory_mib;
            in_use.cpu_milli += u64::from(seen.busy) * runtime.rule.cost.cpu_milli;
            wishes.push(runtime.wish(&self.policy, &self.limits, load, (now, passed), *seen));
        }
        let given = share(&wishes, &self.limits, in_use);
        for ((runtime, seen), given) in self.runtimes.iter_mut().zip(seen).zip(given) {
            // Those that waiting claims take at once do not stay warm.
            (runtime.given, runtime.target) = (given, given.saturating_sub(seen.waiting));
        }
    }
}

impl Runtime {
    /// Restores under way, on average.
    fn load(&self) -> f64 {
        self.arrivals.rate() * self.lead.mean
    }

    fn wish(
        &mut self,
        policy: &Policy,
        limits: &Limits,
        load: f64,
        (now, passed): (Duration, Duration),
        seen: Seen,
    ) -> Wish {
        let supply = Supply {
            lead: self.lead.mean,
            lead_cv2: self.lead.cv2(),
            turns: limits.restores_at_once,
            used_by_others: (load - self.load()).max(0.0),
            wait: policy.target_wait.as_secs_f64(),
        };
        let ceiling = self.rule.ceiling;
        let curve = Curve::new(&self.arrivals, &supply, ceiling);
        let mut stock = curve.stock(1.0 - policy.target_hit);
        if stock <= 1 {
            stock = u32::from(self.pattern.warm(now, policy.keep_alive)).min(stock);
        }
        let faded = self.held * f64::exp(-passed.as_secs_f64() / policy.decay.as_secs_f64().max(1e-3));
        self.held = faded.max(f64::from(stock));
        let floor = self.rule.floor.max(seen.scheduled).min(ceiling);
        // Half a VM less than a whole one is none, so that a target comes down to what is needed.
        let held = (self.held + 0.5).floor() as u32;
        let wanted = held.saturating_add(seen.backlog).saturating_add(seen.waiting).clamp(floor, ceiling);
        let (waiting, had) = (seen.waiting, self.given);
        Wish { curve, wanted, floor, waiting, had, cost: self.rule.cost }
    }
}

/// How long it takes from a turn to Ready, in seconds.
#[derive(Clone, Copy, Debug)]
struct Lead {
    mean: f64,
    variance: f64,
    seen: u32,
}

impl Default for Lead {
    fn default() -> Self {
        Self { mean: LEAD_GUESS.as_secs_f64(), variance: 0.0, seen: 0 }
    }
}

impl Lead {
    fn seen(&mut self, seconds: f64) {
        self.seen = self.seen.saturating_add(1);
        let weight = LEAD_WEIGHT.max(1.0 / f64::from(self.seen));
        let off = seconds - self.mean;
        self.mean += weight * off;
        self.variance =
            if self.seen == 1 { 0.0 } else { (1.0 - weight) * (self.variance + weight * off * off) };
    }

    fn cv2(&self) -> f64 {
        if self.mean > 0.0 { self.variance / (self.mean * self.mean) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(floor: u32, ceiling: u32) -> Rule {
        Rule { floor, ceiling, cost: Cost { memory_mib: 256, cpu_milli: 1000 } }
    }

    /// Runs from `from` to `to` seconds with evenly spaced claims.
    fn run(scaler: &mut Scaler, runtime: usize, rate: f64, (from, to): (f64, f64), seen: &[Seen]) {
        let mut next = from;
        let mut at = from;
        while at < to {
            while next <= at {
                scaler.claimed(runtime, Duration::from_secs_f64(next));
                next += 1.0 / rate;
            }
            scaler.tick(Duration::from_secs_f64(at), seen);
            at = scaler.next().as_secs_f64().max(at + 0.1);
        }
    }

    fn restored(scaler: &mut Scaler, runtime: usize, ms: u64) {
        for _ in 0..50 {
            scaler.restored(runtime, Duration::from_millis(ms));
        }
    }

    #[test]
    fn a_target_follows_a_step_within_a_refill_and_falls_slowly() {
        let mut scaler = Scaler::new(Policy::default(), Limits::turns(100), vec![rule(1, 200)]);
        restored(&mut scaler, 0, 500);
        let seen = [Seen::default()];
        run(&mut scaler, 0, 14.0, (0.1, 60.0), &seen);
        let steady = scaler.target(0);
        assert!((12..=18).contains(&steady), "{steady}");
        run(&mut scaler, 0, 56.0, (60.0, 60.5), &seen);
        let stepped = scaler.target(0);
        assert!(stepped >= 35, "{stepped}");
        run(&mut scaler, 0, 56.0, (60.5, 90.0), &seen);
        let high = scaler.target(0);
        run(&mut scaler, 0, 14.0, (90.0, 93.0), &seen);
        let soon = scaler.target(0);
        assert!(soon < high && f64::from(soon) > 0.7 * f64::from(high), "{soon} of {high}");
        run(&mut scaler, 0, 14.0, (93.0, 150.0), &seen);
        assert!(scaler.target(0) <= steady + 3, "{}", scaler.target(0));
    }

    #[test]
    fn a_faster_restore_needs_fewer_warm_vms() {
        let targets = [200, 2000].map(|ms| {
            let mut scaler = Scaler::new(Policy::default(), Limits::turns(200), vec![rule(0, 200)]);
            restored(&mut scaler, 0, ms);
            run(&mut scaler, 0, 10.0, (0.1, 60.0), &[Seen::default()]);
            scaler.target(0)
        });
        assert!(targets[0] < 9 && targets[1] > 25, "{targets:?}");
    }

    #[test]
    fn an_idle_runtime_gives_its_share_to_a_busy_one_and_keeps_its_floor() {
        let limits = Limits { memory_mib: Some(20 * 256), ..Limits::turns(64) };
        let mut scaler = Scaler::new(Policy::default(), limits, vec![rule(1, 50), rule(1, 50)]);
        restored(&mut scaler, 0, 1000);
        restored(&mut scaler, 1, 1000);
        let seen = [Seen::default(); 2];
        run(&mut scaler, 0, 30.0, (0.1, 30.0), &seen);
        assert_eq!((scaler.target(0), scaler.target(1)), (19, 1));
        run(&mut scaler, 1, 30.0, (30.0, 120.0), &seen);
        assert!(scaler.target(1) >= 18 && scaler.target(0) <= 2, "{} {}", scaler.target(0), scaler.target(1));
    }

    #[test]
    fn an_unused_runtime_falls_to_its_floor_after_its_keep_alive() {
        let policy = Policy { keep_alive: Duration::from_secs(30), ..Policy::default() };
        let mut scaler = Scaler::new(policy, Limits::turns(4), vec![rule(0, 10)]);
        restored(&mut scaler, 0, 500);
        run(&mut scaler, 0, 1.0, (0.1, 5.0), &[Seen::default()]);
        assert!(scaler.target(0) >= 1, "{scaler:?}");
        run(&mut scaler, 0, 1e-9, (5.0, 6.0), &[Seen::default()]);
        for second in 6..200 {
            scaler.tick(Duration::from_secs(second), &[Seen::default()]);
        }
        assert_eq!(scaler.target(0), 0);
        let seen = [Seen { scheduled: 3, ..Seen::default() }];
        scaler.tick(Duration::from_secs(201), &seen);
        assert_eq!(scaler.target(0), 3, "a schedule is a floor for a while");
        let seen = [Seen { backlog: 100, ..Seen::default() }];
        scaler.tick(Duration::from_secs(202), &seen);
        assert_eq!(scaler.target(0), 10, "what waits elsewhere counts, up to the ceiling");
    }
}
