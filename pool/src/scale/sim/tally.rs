//! What a simulation measured.

use std::time::Duration;

use serde::Serialize;

/// What a pool did with a load.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Jobs.
    pub jobs: u64,
    /// Of those, the ones that found a VM Ready.
    pub hits: u64,
    /// Of all jobs, the part that found a VM Ready.
    pub hit_ratio: f64,
    /// Of all jobs, the part that waited no longer than the goal.
    pub within: f64,
    /// Mean wait.
    pub wait_mean_ms: f64,
    /// Half of all jobs waited no longer.
    pub wait_p50_ms: f64,
    /// 95 of a hundred.
    pub wait_p95_ms: f64,
    /// 99 of a hundred.
    pub wait_p99_ms: f64,
    /// The longest.
    pub wait_max_ms: f64,
    /// Mean number of VMs that existed.
    pub vms_mean: f64,
    /// Mean number of VMs that were Ready or on their way there.
    pub warm_mean: f64,
    /// The most VMs at once.
    pub vms_peak: u32,
    /// Mean memory of all VMs.
    pub memory_mean_mib: f64,
    /// The most at once.
    pub memory_peak_mib: u64,
    /// Memory held over time, in GiB hours.
    pub memory_gib_hours: f64,
    /// VMs restored.
    pub restores: u64,
    /// Of those, the ones that nobody claimed.
    pub unused: u64,
    /// Processor time of restores, in seconds.
    pub restore_cpu_s: f64,
    /// How long the load lasted, in seconds.
    pub lasted_s: f64,
    /// The course of it.
    pub points: Vec<Point>,
    /// Every wait, the shortest first.
    #[serde(skip)]
    pub waits_ms: Vec<f64>,
}

/// One interval of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Point {
    /// When it begins, in seconds.
    pub at_s: f64,
    /// Jobs that came in it.
    pub jobs: u32,
    /// Of those, the ones that found a VM Ready.
    pub hits: u32,
    /// The longest wait of those jobs.
    pub wait_max_ms: f64,
    /// Memory of all VMs at its end.
    pub memory_mib: u64,
    /// VMs at its end.
    pub vms: u32,
    /// All targets together at its end.
    pub target: u32,
}

impl Report {
    /// The hit ratio of the jobs that came from one instant to another; 1 when none did. Exact to the width of a point.
    pub fn hit_ratio_between(&self, from: Duration, to: Duration) -> f64 {
        let within = from.as_secs_f64() - 1e-9..to.as_secs_f64() - 1e-9;
        let points = self.points.iter().filter(|point| within.contains(&point.at_s));
        let (hits, jobs) =
            points.fold((0u32, 0u32), |(hits, jobs), point| (hits + point.hits, jobs + point.jobs));
        if jobs == 0 { 1.0 } else { f64::from(hits) / f64::from(jobs) }
    }
}

/// Measures as it goes.
#[derive(Debug)]
pub(super) struct Tally {
    width: Duration,
    points: Vec<Point>,
    waits: Vec<f32>,
    hits: u64,
    /// VM seconds, warm VM seconds, MiB seconds.
    held: [f64; 3],
    since: Duration,
    vms_peak: u32,
    memory_peak_mib: u64,
    pub(super) restores: u64,
    pub(super) unused: u64,
}

/// What a pool holds at an instant.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    pub(super) vms: u32,
    pub(super) warm: u32,
    pub(super) memory_mib: u64,
    pub(super) target: u32,
}

impl Tally {
    pub(super) fn new(width: Duration, jobs: usize) -> Self {
        Self {
            width,
            points: Vec::new(),
            waits: Vec::with_capacity(jobs),
            hits: 0,
            held: [0.0; 3],
            since: Duration::ZERO,
            vms_peak: 0,
            memory_peak_mib: 0,
            restores: 0,
            unused: 0,
        }
    }

    /// The pool has held this since the last call.
    pub(super) fn holds(&mut self, now: Duration, holding: Holding) {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        self.since = now;
        let amounts = [f64::from(holding.vms), f64::from(holding.warm), holding.memory_mib as f64];
        for (held, amount) in self.held.iter_mut().zip(amounts) {
            *held += passed * amount;
        }
        self.vms_peak = self.vms_peak.max(holding.vms);
        self.memory_peak_mib = self.memory_peak_mib.max(holding.memory_mib);
        let point = self.point(now);
        (point.vms, point.memory_mib, point.target) = (holding.vms, holding.memory_mib, holding.target);
    }

    /// The point of an instant; those in between repeat the last.
    fn point(&mut self, at: Duration) -> &mut Point {
        let number = (at.as_secs_f64() / self.width.as_secs_f64()) as usize;
        while self.points.len() <= number {
            let last = self.points.last().copied().unwrap_or_default();
            let at_s = self.points.len() as f64 * self.width.as_secs_f64();
            self.points.push(Point { at_s, jobs: 0, hits: 0, wait_max_ms: 0.0, ..last });
        }
        #[allow(clippy::indexing_slicing, reason = "made above")]
        &mut self.points[number]
    }

    /// A job that came at an instant got its VM after a time.
    pub(super) fn served(&mut self, came: Duration, waited: Duration, hit: bool) {
        let ms = waited.as_secs_f64() * 1e3;
        self.waits.push(ms as f32);
        self.hits += u64::from(hit);
        let point = self.point(came);
        point.jobs += 1;
        point.hits += u32::from(hit);
        point.wait_max_ms = point.wait_max_ms.max(ms);
    }

    pub(super) fn report(mut self, lasted: Duration, cpu: Duration, goal: Duration) -> Report {
        let jobs = self.waits.len().max(1) as f64;
        let seconds = lasted.as_secs_f64().max(1e-9);
        self.waits.sort_unstable_by(f32::total_cmp);
        let rank = |part: f64| ((jobs * part).ceil() as usize).saturating_sub(1);
        let wait = |part: f64| self.waits.get(rank(part)).copied().map_or(0.0, f64::from);
        let [vms, warm, memory] = self.held;
        // To the precision of what is kept.
        let goal = (goal.as_secs_f64() * 1e3) as f32;
        let within = self.waits.partition_point(|wait| *wait <= goal) as f64;
        Report {
            jobs: self.waits.len() as u64,
            hits: self.hits,
            hit_ratio: self.hits as f64 / jobs,
            within: within / jobs,
            wait_mean_ms: self.waits.iter().copied().map(f64::from).sum::<f64>() / jobs,
            wait_p50_ms: wait(0.5),
            wait_p95_ms: wait(0.95),
            wait_p99_ms: wait(0.99),
            wait_max_ms: wait(1.0),
            vms_mean: vms / seconds,
            warm_mean: warm / seconds,
            vms_peak: self.vms_peak,
            memory_mean_mib: memory / seconds,
            memory_peak_mib: self.memory_peak_mib,
            memory_gib_hours: memory / 1024.0 / 3600.0,
            restores: self.restores,
            unused: self.unused,
            restore_cpu_s: self.restores as f64 * cpu.as_secs_f64(),
            lasted_s: seconds,
            points: self.points,
            waits_ms: self.waits.into_iter().map(f64::from).collect(),
        }
    }
}
