//! The simulation itself.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    clairvoyant,
    load::Job,
    tally::{Holding, Report, Tally},
};
use crate::scale::{
    gate::{Gate, Limits, Line},
    lanes::{LaneRules, Lanes},
    scaler::{Policy, Rule, Scaler, Seen},
};

/// How long something takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Takes {
    /// On average.
    pub mean: Duration,
    /// Standard deviation over mean; 0 is always the same. The distribution is log-normal.
    pub cv: f64,
}

impl Takes {
    /// Always the same.
    pub fn always(mean: Duration) -> Self {
        Self { mean, cv: 0.0 }
    }

    fn sample(&self, rng: &mut SmallRng) -> Duration {
        if self.cv <= 0.0 {
            return self.mean;
        }
        let spread = f64::ln_1p(self.cv * self.cv);
        let (a, b) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
        let normal = f64::sqrt(-2.0 * a.ln()) * f64::cos(std::f64::consts::TAU * b);
        self.mean.mul_f64(f64::exp(normal * spread.sqrt() - spread / 2.0))
    }
}

/// What decides how many VMs are warm.
#[derive(Clone, Debug, PartialEq)]
pub enum Keep {
    /// Every slot is refilled at once.
    Fixed,
    /// The scaler.
    Auto(Policy),
    /// So many warm VMs beside those in use, for each runtime.
    Spare(u32),
    /// Who knows all claims beforehand. For a load of one runtime.
    Clairvoyant,
}

/// One runtime of a simulated pool.
#[derive(Clone, Debug)]
pub struct SimRuntime {
    /// Its bounds; the ceiling is the number of slots.
    pub rule: Rule,
    /// From a turn to Ready.
    pub restore: Takes,
    /// From the end of a claim to a vacant slot.
    pub destroy: Takes,
    /// How long restores took that were seen, in their order. Taken instead of [`Self::restore`] while there are any.
    pub restores_seen: Vec<Duration>,
    /// What a schedule asks for: from each instant on, that many warm VMs. In order.
    pub schedule: Vec<(Duration, u32)>,
}

impl SimRuntime {
    fn scheduled(&self, at: Duration) -> u32 {
        let begun = self.schedule.partition_point(|(from, _)| *from <= at);
        begun.checked_sub(1).and_then(|last| self.schedule.get(last)).map_or(0, |(_, warm)| *warm)
    }
}

/// A simulated pool.
#[derive(Clone, Debug)]
pub struct World {
    /// Its runtimes, by number.
    pub runtimes: Vec<SimRuntime>,
    /// What it may take.
    pub limits: Limits,
    /// Who is served first.
    pub lanes: LaneRules,
    /// A VM that nobody has claimed by then is replaced.
    pub max_age: Duration,
    /// What decides how many VMs are warm.
    pub keep: Keep,
    /// Processor time of one restore.
    pub restore_cpu: Duration,
    /// What [`Report::within`] counts: how long a job may wait.
    pub wait_goal: Duration,
    /// Width of the points of the report.
    pub point: Duration,
    /// How long the pool has before the load begins.
    pub lead_in: Duration,
    /// Of everything that is random.
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Gone(usize),
    Served(usize),
    Ready(usize, Duration),
    Order,
    Due(usize),
}

struct Run<'a> {
    world: &'a World,
    jobs: &'a [Job],
    rng: SmallRng,
    gate: Gate,
    scaler: Option<Scaler>,
    lanes: Vec<Lanes<usize>>,
    /// Since when each Ready VM is, the oldest first.
    ready: Vec<VecDeque<Duration>>,
    /// Restores begun, of each runtime.
    begun: Vec<usize>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    number: u64,
    tally: Tally,
    now: Duration,
    unserved: usize,
}

/// Runs a load, whose jobs are in order of arrival, through a pool until every job was served.
pub fn simulate(world: &World, jobs: &[Job]) -> Report {
    let mut run = Run::new(world, jobs);
    let mut next = 0;
    while run.unserved > 0 {
        let arrival = jobs.get(next).map(|job| job.at + world.lead_in);
        let event = run.events.peek().map(|Reverse((at, _, _))| *at);
        let tick = run.scaler.as_ref().map(Scaler::next);
        let Some(at) = [arrival, event, tick].into_iter().flatten().min() else { break };
        run.pass_to(at);
        if event == Some(at) {
            if let Some(Reverse((_, _, event))) = run.events.pop() {
                run.happens(event);
            }
        } else if arrival == Some(at) {
            run.arrives(next);
            next += 1;
        } else {
            run.tick();
        }
        if run.stuck(arrival.is_none()) {
            break;
        }
    }
    let lasted = jobs.last().map_or(Duration::ZERO, |job| job.at);
    run.tally.report(lasted, world.restore_cpu, world.wait_goal)
}

impl<'a> Run<'a> {
    fn new(world: &'a World, jobs: &'a [Job]) -> Self {
        let target = |runtime: &SimRuntime| match world.keep {
            Keep::Fixed => runtime.rule.ceiling,
            Keep::Spare(spare) => spare.min(runtime.rule.ceiling),
            Keep::Auto(_) => runtime.rule.floor.min(runtime.rule.ceiling),
            Keep::Clairvoyant => 0,
        };
        let line = |runtime: &SimRuntime| Line {
            cost: runtime.rule.cost,
            slots: runtime.rule.ceiling,
            target: target(runtime),
            asking: runtime.rule.ceiling,
            ..Line::default()
        };
        let rules: Vec<_> = world.runtimes.iter().map(|runtime| runtime.rule).collect();
        let scaler = match &world.keep {
            Keep::Auto(policy) => Some(Scaler::new(*policy, world.limits, rules)),
            _ => None,
        };
        let mut run = Self {
            world,
            jobs,
            rng: SmallRng::seed_from_u64(world.seed),
            gate: Gate::new(world.limits, world.runtimes.iter().map(line).collect()),
            scaler,
            lanes: world.runtimes.iter().map(|_| Lanes::new(world.lanes)).collect(),
            ready: vec![VecDeque::new(); world.runtimes.len()],
            begun: vec![0; world.runtimes.len()],
            events: BinaryHeap::new(),
            number: 0,
            tally: Tally::new(world.point, jobs.len()),
            now: Duration::ZERO,
            unserved: jobs.len(),
        };
        if let (Keep::Clairvoyant, Some(runtime)) = (&world.keep, world.runtimes.first()) {
            for at in clairvoyant::orders(jobs, runtime.restore.mean, world.limits.restores_at_once) {
                run.later(at + world.lead_in, Event::Order);
            }
        }
        run.pump();
        run
    }

    fn later(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    /// Time passes; what was held until now is counted from the first claim to the last.
    fn pass_to(&mut self, at: Duration) {
        let end = self.jobs.last().map_or(Duration::ZERO, |job| job.at);
        let since = |at: Duration| at.saturating_sub(self.world.lead_in).min(end);
        if since(at) > since(self.now) {
            let lines = self.gate.lines();
            let mut holding = Holding { memory_mib: self.gate.memory_mib(), ..Holding::default() };
            for line in lines {
                holding.vms += line.held;
                holding.warm += line.warming + line.ready;
                holding.target += line.target;
            }
            self.tally.holds(since(at), holding);
        }
        self.now = at;
    }

    fn arrives(&mut self, job: usize) {
        let Some(Job { runtime, lane, .. }) = self.jobs.get(job).copied() else { return };
        if let Some(scaler) = &mut self.scaler {
            scaler.claimed(runtime, self.now);
        }
        let idle = self.ready.get(runtime).map_or(0, VecDeque::len);
        if let Some(lanes) = self.lanes.get_mut(runtime) {
            lanes.join(self.now, lane, job, idle);
        }
        self.serve(runtime);
        self.pump();
    }

    /// Hands Ready VMs to those who wait.
    fn serve(&mut self, runtime: usize) {
        let Self { lanes, ready, .. } = self;
        let (Some(lanes), Some(ready)) = (lanes.get_mut(runtime), ready.get_mut(runtime)) else { return };
        let mut served = Vec::new();
        while let Some(job) = lanes.serve(self.now, ready.len()) {
            ready.pop_front();
            served.push(job);
        }
        let (waiting, due, idle) = (lanes.len(), lanes.due(), ready.len());
        for job in served {
            let Some(job) = self.jobs.get(job) else { continue };
            let came = job.at + self.world.lead_in;
            let waited = self.now.saturating_sub(came);
            self.tally.served(job.at, waited, waited.is_zero());
            self.gate.taken(runtime);
            self.unserved -= 1;
            if self.world.keep == Keep::Clairvoyant {
                self.change_target(runtime, |target| target.saturating_sub(1));
            }
            self.later(self.now + job.takes, Event::Served(runtime));
        }
        self.gate.set_waiting(runtime, u32::try_from(waiting).unwrap_or(u32::MAX), due);
        if let Some(due) = due.filter(|due| idle > 0 && *due > self.now) {
            self.later(due, Event::Due(runtime));
        }
    }

    fn change_target(&mut self, runtime: usize, change: impl FnOnce(u32) -> u32) {
        let target = self.gate.lines().get(runtime).map_or(0, |line| line.target);
        self.gate.set_target(runtime, change(target));
    }

    /// Begins what restores may begin.
    fn pump(&mut self) {
        while let Some(runtime) = self.gate.next(self.now) {
            let Some(what) = self.world.runtimes.get(runtime) else { return };
            let number =
                self.begun.get_mut(runtime).map_or(usize::MAX, |begun| std::mem::replace(begun, *begun + 1));
            let seen = what.restores_seen.get(number).copied();
            self.tally.restores += 1;
            let takes = seen.unwrap_or_else(|| what.restore.sample(&mut self.rng));
            self.later(self.now + takes, Event::Ready(runtime, takes));
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Ready(runtime, took) => {
                self.gate.ready(runtime);
                if let Some(scaler) = &mut self.scaler {
                    scaler.restored(runtime, took);
                }
                if let Some(ready) = self.ready.get_mut(runtime) {
                    ready.push_back(self.now);
                }
                self.serve(runtime);
            }
            Event::Served(runtime) => self.destroy(runtime),
            Event::Gone(runtime) => {
                self.gate.gone(runtime);
                self.gate.asks(runtime);
            }
            Event::Order => self.change_target(0, |target| target + 1),
            Event::Due(runtime) => self.serve(runtime),
        }
        self.retire_stale();
        self.pump();
    }

    fn destroy(&mut self, runtime: usize) {
        let Some(what) = self.world.runtimes.get(runtime) else { return };
        let takes = what.destroy.sample(&mut self.rng);
        self.later(self.now + takes, Event::Gone(runtime));
    }

    /// Retires the oldest Ready VMs of a runtime, that many.
    fn dismiss(&mut self, runtime: usize, count: u32) {
        for _ in 0..count {
            let oldest = self.ready.get_mut(runtime).and_then(VecDeque::pop_front);
            if oldest.is_none() {
                return;
            }
            self.gate.taken(runtime);
            self.tally.unused += 1;
            self.destroy(runtime);
        }
    }

    fn retire_stale(&mut self) {
        for runtime in 0..self.ready.len() {
            let stale = |since: &&Duration| self.now.saturating_sub(**since) >= self.world.max_age;
            let count = self.ready.get(runtime).map_or(0, |ready| ready.iter().take_while(stale).count());
            self.dismiss(runtime, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    fn tick(&mut self) {
        let at = self.now.saturating_sub(self.world.lead_in);
        let seen = |(line, what): (&Line, &SimRuntime)| Seen {
            busy: line.held.saturating_sub(line.warming + line.ready),
            waiting: line.waiting,
            backlog: 0,
            scheduled: what.scheduled(at),
        };
        let seen: Vec<_> = self.gate.lines().iter().zip(&self.world.runtimes).map(seen).collect();
        let Some(scaler) = &mut self.scaler else { return };
        scaler.tick(self.now, &seen);
        let targets: Vec<_> = (0..seen.len()).map(|runtime| scaler.target(runtime)).collect();
        for (runtime, target) in targets.into_iter().enumerate() {
            self.gate.set_target(runtime, target);
            self.dismiss(runtime, self.gate.surplus(runtime));
        }
        self.retire_stale();
        self.pump();
    }

    /// Whether the jobs that are left will never be served: nothing happens any more and nothing can begin.
    fn stuck(&self, all_came: bool) -> bool {
        let idle = self.gate.lines().iter().all(|line| line.held == 0);
        all_came
            && idle
            && self.events.is_empty()
            && self.gate.clone().next(self.now + Duration::from_secs(60)).is_none()
    }
}
