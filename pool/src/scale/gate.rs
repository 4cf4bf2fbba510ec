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
//! * When a runtime was baked again, Ready VMs of the old snapshot go one after another. Where slots and budget allow one
//!   more VM than the target, one of the new snapshot is Ready before an old one goes. Else an old one goes first, but
//!   never the last Ready one, and no other until a VM is Ready again.
//! * Where every target is reached, slots that are left over may start VMMs without a guest, so many of each runtime. They take a
//!   turn while they start and their own memory; a restore takes a dormant one first; and they go when others need their memory.

mod line;

use std::time::Duration;

pub use self::line::{DORMANT_MIB, Line};

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

/// Who may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// A slot of this runtime.
    pub runtime: usize,
    /// Whether it is one with a dormant VMM.
    pub dormant: bool,
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
    /// Dormant VMMs that make room.
    leaving: u32,
}

impl Gate {
    /// With all slots vacant and none asking.
    pub fn new(limits: Limits, lines: Vec<Line>) -> Self {
        let pace = if limits.gentle { 1 } else { limits.restores_at_once.max(1) };
        let refills = Bucket::new(limits.refills_per_second);
        Self { limits, lines, turns: 0, pace, memory_mib: 0, cpu_milli: 0, refills, leaving: 0 }
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
        self.next_turn(now).map(|turn| turn.runtime)
    }

    /// The same, and which kind of slot: a dormant one first.
    pub fn next_turn(&mut self, now: Duration) -> Option<Turn> {
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
        let (dormant, more) = (line.dormant > 0, line.more_mib());
        match dormant {
            true => line.dormant -= 1,
            false => (line.asking, line.held) = (line.asking - 1, line.held + 1),
        }
        line.warming += 1;
        self.turns += 1;
        self.memory_mib += more;
        self.cpu_milli += line.cost.cpu_milli;
        Some(Turn { runtime, dormant })
    }

    /// The runtime one of whose asking slots may start a VMM without a guest. To be asked when no restore may begin.
    pub fn next_start(&mut self) -> Option<usize> {
        if self.turns >= self.pace || self.most_urgent().is_some() {
            return None;
        }
        let idle = |line: &Line| {
            let wanted = line.asking > 0 && line.dormant + line.starting < line.dormants;
            wanted && line.spare() >= line.goal() && self.has_memory(line.dormant_mib())
        };
        let runtime = self.lines.iter().position(idle)?;
        let line = self.lines.get_mut(runtime)?;
        (line.asking, line.held, line.starting) = (line.asking - 1, line.held + 1, line.starting + 1);
        self.turns += 1;
        self.memory_mib += line.dormant_mib();
        Some(runtime)
    }

    /// The runtime one of whose dormant VMMs is to go, since a restore has no room. It no longer counts as dormant.
    pub fn crowded(&mut self) -> Option<usize> {
        if self.leaving > 0 {
            return None;
        }
        let needy = self.lines.iter().enumerate().position(|(number, line)| {
            let wants = line.uncovered() > 0 || line.spare() < line.goal();
            wants && line.may_restore() && self.could_fit(line.cost) && !self.fits(number)
        })?;
        let spare = |(number, line): &(usize, &Line)| line.dormant > u32::from(*number == needy);
        let (runtime, _) = self.lines.iter().enumerate().find(spare)?;
        self.leaving += 1;
        self.dormant_leaves(runtime);
        Some(runtime)
    }

    /// A VMM without a guest was started, and waits.
    pub fn started(&mut self, runtime: usize) {
        self.turns = self.turns.saturating_sub(1);
        self.pace = (self.pace + 1).min(self.limits.restores_at_once.max(1));
        self.line(runtime, |line| {
            (line.starting, line.dormant) = (line.starting.saturating_sub(1), line.dormant + 1);
        });
    }

    /// It could not be; what there is of it still has to be destroyed.
    pub fn start_failed(&mut self, runtime: usize) {
        self.turns = self.turns.saturating_sub(1);
        self.pace = (self.pace / 2).max(1);
        self.line(runtime, |line| line.starting = line.starting.saturating_sub(1));
    }

    /// A dormant one waits no longer, and is to be destroyed.
    pub fn dormant_leaves(&mut self, runtime: usize) {
        self.line(runtime, |line| line.dormant = line.dormant.saturating_sub(1));
    }

    /// A turn that was given to a dormant one which is leaving.
    pub fn not_taken(&mut self, runtime: usize) {
        self.end_turn(runtime);
        let Some(line) = self.lines.get(runtime) else { return };
        self.memory_mib = self.memory_mib.saturating_sub(line.cost.memory_mib - line.dormant_mib());
        self.cpu_milli = self.cpu_milli.saturating_sub(line.cost.cpu_milli);
    }

    /// Nothing of a VMM that never had a guest is left.
    pub fn dormant_gone(&mut self, runtime: usize) {
        self.leaving = self.leaving.saturating_sub(1);
        let Some(line) = self.lines.get_mut(runtime) else { return };
        line.held = line.held.saturating_sub(1);
        self.memory_mib = self.memory_mib.saturating_sub(line.dormant_mib());
    }

    /// With a claim that nothing is on its way for, the one that is due first.
    fn most_urgent(&self) -> Option<usize> {
        let urgent = |line: &Line| line.may_restore() && line.uncovered() > 0 && self.could_fit(line.cost);
        let all = self.lines.iter().enumerate().filter(|(_, line)| urgent(line));
        all.min_by_key(|(number, line)| (line.due, *number)).map(|(number, _)| number)
    }

    /// Below its target, with the smallest part of it.
    fn emptiest(&self) -> Option<usize> {
        let below = |number: usize, line: &Line| {
            line.may_restore() && line.spare() < line.goal() && line.uncovered() == 0 && self.fits(number)
        };
        let all = self.lines.iter().enumerate().filter(|(number, line)| below(*number, line));
        let part = |line: &Line| f64::from(line.spare()) / f64::from(line.target.max(1));
        all.min_by(|(_, a), (_, b)| part(a).total_cmp(&part(b))).map(|(number, _)| number)
    }

    fn has_memory(&self, more: u64) -> bool {
        let sum = self.memory_mib.checked_add(more);
        self.limits.memory_mib.is_none_or(|limit| sum.is_some_and(|sum| sum <= limit))
    }

    fn fits(&self, runtime: usize) -> bool {
        let Some(line) = self.lines.get(runtime) else { return false };
        let cpu = self.cpu_milli.checked_add(line.cost.cpu_milli);
        self.has_memory(line.more_mib())
            && self.limits.cpu_milli.is_none_or(|limit| cpu.is_some_and(|sum| sum <= limit))
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
        self.line(runtime, |line| (line.ready, line.replacing) = (line.ready + 1, false));
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

    /// A Ready VM is of an old snapshot from now on, or of the current one after all, or is no longer Ready.
    pub fn set_outdated(&mut self, runtime: usize, outdated: bool) {
        self.line(runtime, |line| match outdated {
            true => line.outdated += 1,
            false => line.outdated = line.outdated.saturating_sub(1),
        });
    }

    /// Whether a Ready VM of an old snapshot goes now. It then no longer counts as Ready, nor as outdated.
    pub fn replace(&mut self, runtime: usize) -> bool {
        let (goes, first) = self.lines.get(runtime).map_or((false, false), |line| {
            let successor = line.ready > line.target;
            let room = line.held - line.dormant < line.slots && self.fits(runtime);
            let first = !room && line.ready > 1 && line.warming == 0 && !line.replacing;
            (line.outdated > 0 && line.waiting == 0 && (successor || first), !successor)
        });
        if goes {
            self.taken(runtime);
            self.set_outdated(runtime, false);
            self.line(runtime, |line| line.replacing = first);
        }
        goes
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
        let surplus = |line: &Line| line.spare().saturating_sub(line.goal()).min(line.ready);
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
mod tests;
