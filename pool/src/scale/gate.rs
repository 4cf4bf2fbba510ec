//! Which slot may begin a restore now: turns, budget, and who needs a VM most. A plain state machine; the pool puts a
//! lock around it, and the simulator runs the same one in virtual time.
//!
//! * A VM's memory and processors are reserved from before its restore until it is destroyed. Nothing is ever admitted
//!   beyond the budget.
//! * A restore that a claim waits for goes before every refill, the claim that is due first before the others. While it
//!   waits for memory, no refill takes any.
//! * Refills go to the runtime that has the smallest part of its target, at most so many a second.
//! * Restores begin one at a time and double with each round that succeeds, and a failure halves them: neither a
//!   start nor a sick host meets a storm.

use std::time::Duration;

/// What one VM takes from the host while it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Memory.
    pub memory_mib: u64,
    /// Thousandths of a processor.
    pub cpu_milli: u64,
}

/// What all VMs together may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// VMs that are restored or greeted at once, at least 1.
    pub restores_at_once: u32,
    /// Memory of all VMs; `None` is no bound.
    pub memory_mib: Option<u64>,
    /// Thousandths of a processor of all VMs; `None` is no bound.
    pub cpu_milli: Option<u64>,
    /// Restores a second that no claim waits for; `None` is no bound.
    pub refills_per_second: Option<f64>,
    /// Whether restores begin one at a time, as after a failure, and double from there.
    pub gentle: bool,
}

impl Limits {
    /// Only so many restores at once.
    pub fn turns(restores_at_once: u32) -> Self {
        let (memory_mib, cpu_milli, refills_per_second) = (None, None, None);
        Self { restores_at_once, memory_mib, cpu_milli, refills_per_second, gentle: false }
    }
}

/// One runtime's slots, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Of one VM.
    pub cost: Cost,
    /// VMs to keep warm: Ready, or on the way there.
    pub target: u32,
    /// Slots that ask for a turn.
    pub asking: u32,
    /// VMs between their turn and Ready.
    pub warming: u32,
    /// Ready VMs.
    pub ready: u32,
    /// VMs that exist, in whatever phase.
    pub held: u32,
    /// Claims that wait.
    pub waiting: u32,
    /// When the first of them is due.
    pub due: Option<Duration>,
}

impl Line {
    /// Claims for which no VM is on its way.
    fn uncovered(&self) -> u32 {
        self.waiting.saturating_sub(self.warming + self.ready)
    }

    /// Warm VMs beyond those that waiting claims will take.
    fn spare(&self) -> u32 {
        (self.warming + self.ready).saturating_sub(self.waiting)
    }
}

/// The gate of a pool. Runtimes are numbered from 0.
#[derive(Clone, Debug)]
pub struct Gate {
    limits: Limits,
    lines: Vec<Line>,
    turns: u32,
    /// Turns that may be used as yet.
    pace: u32,
    memory_mib: u64,
    cpu_milli: u64,
    refills: Bucket,
}

impl Gate {
    /// With all slots vacant and none asking.
    pub fn new(limits: Limits, lines: Vec<Line>) -> Self {
        let pace = if limits.gentle { 1 } else { limits.restores_at_once.max(1) };
        let refills = Bucket::new(limits.refills_per_second);
        Self { limits, lines, turns: 0, pace, memory_mib: 0, cpu_milli: 0, refills }
    }

    /// All runtimes.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Memory that is reserved now.
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib
    }

    fn line(&mut self, runtime: usize, change: impl FnOnce(&mut Line)) {
        if let Some(line) = self.lines.get_mut(runtime) {
            change(line);
        }
    }

    /// How many VMs to keep warm from now on.
    pub fn set_target(&mut self, runtime: usize, target: u32) {
        self.line(runtime, |line| line.target = target);
    }

    /// Claims that wait now, and when the first of them is due.
    pub fn set_waiting(&mut self, runtime: usize, waiting: u32, due: Option<Duration>) {
        self.line(runtime, |line| (line.waiting, line.due) = (waiting, due));
    }

    /// A vacant slot asks for a turn.
    pub fn asks(&mut self, runtime: usize) {
        self.line(runtime, |line| line.asking += 1);
    }

    /// It no longer does.
    pub fn withdraws(&mut self, runtime: usize) {
        self.line(runtime, |line| line.asking = line.asking.saturating_sub(1));
    }

    /// The runtime one of whose asking slots may restore a VM now. Its turn is taken and its budget reserved.
    pub fn next(&mut self, now: Duration) -> Option<usize> {
        if self.turns >= self.pace {
            return None;
        }
        let runtime = match self.most_urgent() {
            Some(runtime) => Some(runtime).filter(|runtime| self.fits(*runtime))?,
            None => {
                let runtime = self.emptiest()?;
                if !self.refills.take(now) {
                    return None;
                }
                runtime
            }
        };
        let line = self.lines.get_mut(runtime)?;
        line.asking -= 1;
        line.warming += 1;
        line.held += 1;
        self.turns += 1;
        self.memory_mib += line.cost.memory_mib;
        self.cpu_milli += line.cost.cpu_milli;
        Some(runtime)
    }

    /// With a claim that nothing is on its way for, the one that is due first.
    fn most_urgent(&self) -> Option<usize> {
        let urgent = |line: &Line| line.asking > 0 && line.uncovered() > 0 && self.could_fit(line.cost);
        let all = self.lines.iter().enumerate().filter(|(_, line)| urgent(line));
        all.min_by_key(|(number, line)| (line.due, *number)).map(|(number, _)| number)
    }

    /// Below its target, with the smallest part of it.
    fn emptiest(&self) -> Option<usize> {
        let below = |number: usize, line: &Line| {
            line.asking > 0 && line.spare() < line.target && line.uncovered() == 0 && self.fits(number)
        };
        let all = self.lines.iter().enumerate().filter(|(number, line)| below(*number, line));
        let part = |line: &Line| f64::from(line.spare()) / f64::from(line.target);
        all.min_by(|(_, a), (_, b)| part(a).total_cmp(&part(b))).map(|(number, _)| number)
    }

    fn fits(&self, runtime: usize) -> bool {
        let Some(line) = self.lines.get(runtime) else { return false };
        let within = |used: u64, more: u64, limit: Option<u64>| {
            limit.is_none_or(|limit| used.checked_add(more).is_some_and(|sum| sum <= limit))
        };
        within(self.memory_mib, line.cost.memory_mib, self.limits.memory_mib)
            && within(self.cpu_milli, line.cost.cpu_milli, self.limits.cpu_milli)
    }

    /// Whether a VM of this cost fits into an empty host. One that does not must not hold up the others.
    fn could_fit(&self, cost: Cost) -> bool {
        self.limits.memory_mib.is_none_or(|limit| cost.memory_mib <= limit)
            && self.limits.cpu_milli.is_none_or(|limit| cost.cpu_milli <= limit)
    }

    /// A VM that was let in is Ready.
    pub fn ready(&mut self, runtime: usize) {
        self.end_turn(runtime);
        self.pace = (self.pace + 1).min(self.limits.restores_at_once.max(1));
        self.line(runtime, |line| line.ready += 1);
    }

    /// A VM that was let in will not be Ready; what there is of it still has to be destroyed.
    pub fn failed(&mut self, runtime: usize) {
        self.end_turn(runtime);
        self.pace = (self.pace / 2).max(1);
    }

    fn end_turn(&mut self, runtime: usize) {
        self.turns = self.turns.saturating_sub(1);
        self.line(runtime, |line| line.warming = line.warming.saturating_sub(1));
    }

    /// A Ready VM was claimed, or retires.
    pub fn taken(&mut self, runtime: usize) {
        self.line(runtime, |line| line.ready = line.ready.saturating_sub(1));
    }

    /// Nothing of a VM is left.
    pub fn gone(&mut self, runtime: usize) {
        let Some(line) = self.lines.get_mut(runtime) else { return };
        line.held = line.held.saturating_sub(1);
        self.memory_mib = self.memory_mib.saturating_sub(line.cost.memory_mib);
        self.cpu_milli = self.cpu_milli.saturating_sub(line.cost.cpu_milli);
    }

    /// Ready VMs of a runtime beyond its target, which give their share back.
    pub fn surplus(&self, runtime: usize) -> u32 {
        let surplus = |line: &Line| line.spare().saturating_sub(line.target).min(line.ready);
        self.lines.get(runtime).map_or(0, surplus)
    }
}

/// So many a second, and at most a second's worth at once.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    per_second: Option<f64>,
    filled: f64,
    at: Duration,
}

impl Bucket {
    fn new(per_second: Option<f64>) -> Self {
        Self { per_second, filled: 1.0, at: Duration::ZERO }
    }

    fn take(&mut self, now: Duration) -> bool {
        let Some(per_second) = self.per_second else { return true };
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.filled = (self.filled + passed * per_second).min(per_second.max(1.0));
        self.at = self.at.max(now);
        let enough = self.filled >= 1.0;
        if enough {
            self.filled -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn gate(limits: Limits, lines: &[(u64, u32, u32)]) -> Gate {
        let line = |(memory_mib, target, asking): &(u64, u32, u32)| Line {
            cost: Cost { memory_mib: *memory_mib, cpu_milli: 0 },
            target: *target,
            asking: *asking,
            ..Line::default()
        };
        Gate::new(limits, lines.iter().map(line).collect())
    }

    fn all(gate: &mut Gate, now: Duration) -> Vec<usize> {
        std::iter::from_fn(|| gate.next(now)).collect()
    }

    #[test]
    fn refills_stop_at_the_target_and_go_where_the_smallest_part_is() {
        let mut gate = gate(Limits::turns(100), &[(1, 4, 10), (1, 2, 10)]);
        assert_eq!(all(&mut gate, NOW), [0, 1, 0, 0, 1, 0]);
        gate.set_target(0, 2);
        (0..4).for_each(|_| gate.ready(0));
        assert_eq!((gate.surplus(0), gate.surplus(1)), (2, 0));
    }

    #[test]
    fn the_budget_is_never_exceeded_and_comes_back_when_a_vm_is_gone() {
        let limits = Limits { memory_mib: Some(1000), ..Limits::turns(100) };
        let mut gate = gate(limits, &[(300, 10, 10)]);
        assert_eq!(all(&mut gate, NOW).len(), 3);
        gate.ready(0);
        gate.taken(0);
        assert_eq!(gate.next(NOW), None, "it is claimed, and holds its memory");
        gate.gone(0);
        assert_eq!((gate.next(NOW), gate.memory_mib()), (Some(0), 900));
    }

    #[test]
    fn a_waiting_claim_goes_before_refills_and_its_memory_is_kept_for_it() {
        let limits = Limits { memory_mib: Some(1000), ..Limits::turns(100) };
        let mut gate = gate(limits, &[(100, 10, 10), (900, 0, 1), (2000, 0, 1)]);
        assert_eq!(gate.next(NOW), Some(0));
        gate.set_waiting(1, 1, Some(NOW));
        assert_eq!(gate.next(NOW), Some(1));
        gate.failed(1);
        gate.gone(1);
        gate.asks(1);
        gate.ready(0);
        gate.asks(0);
        gate.set_waiting(0, 3, Some(2 * NOW));
        assert_eq!(all(&mut gate, 2 * NOW), [1], "due first, and then there is no room");
        gate.set_waiting(2, 1, Some(Duration::ZERO));
        gate.gone(1);
        assert_eq!(gate.next(2 * NOW), Some(0), "what fits nowhere holds up nobody");
    }

    #[test]
    fn refills_have_a_pace_and_claims_have_none() {
        let limits = Limits { refills_per_second: Some(2.0), ..Limits::turns(100) };
        let mut gate = gate(limits, &[(1, 50, 50)]);
        assert_eq!(all(&mut gate, Duration::ZERO).len(), 1);
        assert_eq!(all(&mut gate, NOW).len(), 2);
        gate.set_waiting(0, 10, Some(NOW));
        assert_eq!(all(&mut gate, NOW).len(), 7, "what was under way counts for claims");
    }

    #[test]
    fn restores_begin_gently_and_shrink_after_a_failure() {
        let limits = Limits { gentle: true, ..Limits::turns(8) };
        let mut gate = gate(limits, &[(1, 100, 100)]);
        let mut rounds = Vec::new();
        for _ in 0..5 {
            let begun = all(&mut gate, NOW).len();
            (0..begun).for_each(|_| gate.ready(0));
            rounds.push(begun);
        }
        assert_eq!(rounds, [1, 2, 4, 8, 8]);
        let begun = all(&mut gate, NOW).len();
        (0..begun).for_each(|_| gate.failed(0));
        assert_eq!((begun, all(&mut gate, NOW).len()), (8, 1));
    }
}
