//! The simulator against the real pool: the same jobs, once in real time, once in virtual time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use hearth_pool::{
    fakes::{LeaseKnobs, MemoryLeases},
    hypervisor::Hypervisor,
    phase::Phase,
    pool::{Config, Outcome, Pool, RuntimeSlots, events::Event},
    scale::{
        gate::{Cost, Limits},
        lanes::LaneRules,
        scaler::{Policy, Rule},
        sim::{Job, Keep, LoadShape, Report, SimRuntime, Takes, World, load, simulate},
    },
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);
/// How long a restore is to take.
pub const RESTORE: Duration = Duration::from_millis(300);
const SLOTS: u32 = 16;
const TURNS: u32 = 6;
/// Simulations of each run.
const RUNS: u64 = 20;

/// What was seen of the pool.
#[derive(Default)]
struct Times {
    /// Since when each slot is in its phase.
    since: BTreeMap<u32, Instant>,
    /// Of each slot: the number of its restore.
    numbers: BTreeMap<u32, usize>,
    begun: usize,
    /// How long each restore had its turn, by when it began.
    restores: BTreeMap<usize, Duration>,
    destroys: Vec<Duration>,
    /// How long each slot's claims had their VMs, in order.
    held: BTreeMap<u32, Vec<Duration>>,
}

impl Times {
    fn heard(&mut self, event: Event<'_>) {
        let now = Instant::now();
        match event {
            Event::Restored { slot, turn, .. } => {
                let number = self.numbers.get(&slot.number).copied();
                self.restores.extend(number.map(|number| (number, turn)));
            }
            Event::Moved { slot, from, to } => {
                let slot = slot.number;
                let lasted = self.since.insert(slot, now).map(|since| now - since).unwrap_or_default();
                match (from, to) {
                    (_, Phase::Leasing) => {
                        self.numbers.insert(slot, self.begun);
                        self.begun += 1;
                    }
                    (Phase::Claimed, _) => self.held.entry(slot).or_default().push(lasted),
                    (Phase::Retiring, Phase::Vacant) => self.destroys.push(lasted),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

fn takes(seen: &[Duration]) -> Takes {
    let count = seen.len() as f64;
    let mean = seen.iter().map(Duration::as_secs_f64).sum::<f64>() / count;
    let variance = seen.iter().map(|took| (took.as_secs_f64() - mean).powi(2)).sum::<f64>() / count;
    Takes { mean: Duration::from_secs_f64(mean), cv: variance.sqrt() / mean }
}

/// The pool as it was seen: it had `lead_in` before the first job.
fn world(keep: Keep, times: &Times, lead_in: Duration, seed: u64) -> World {
    let rule = Rule { floor: 1, ceiling: SLOTS, cost: Cost::default() };
    let restores: Vec<Duration> = times.restores.values().copied().collect();
    World {
        runtimes: vec![SimRuntime {
            rule,
            restore: takes(&restores),
            destroy: takes(&times.destroys),
            restores_seen: restores,
            schedule: Vec::new(),
        }],
        limits: Limits { gentle: true, ..Limits::turns(TURNS) },
        lanes: LaneRules::default(),
        max_age: Duration::from_secs(1800),
        keep,
        restore_cpu: RESTORE,
        wait_goal: Duration::ZERO,
        point: Duration::from_secs(1),
        lead_in,
        seed,
    }
}

/// What became of a job: when it claimed, of which slot it had the VM, whether that was Ready, how long it waited.
#[derive(Clone, Copy, Debug)]
struct Done {
    job: Job,
    slot: u32,
    hit: bool,
    waited: Duration,
}

/// In the order of the claims.
async fn real(pool: &Pool, runtime: &str, jobs: &[Job]) -> Vec<Done> {
    let (began, mut tasks) = (Instant::now(), JoinSet::new());
    for job in jobs {
        let (pool, runtime, job) = (pool.clone(), runtime.to_owned(), *job);
        tasks.spawn(async move {
            sleep_until(began + job.at).await;
            let at = began.elapsed();
            let claim = pool.claim(&runtime, job.lane, Instant::now() + LONG).await.unwrap();
            let (hit, waited) = (claim.outcome() == Outcome::Hit, claim.waited());
            sleep(job.takes).await;
            let slot = claim.vm().slot.number;
            drop(claim);
            Done { job: Job { at, ..job }, slot, hit, waited: if hit { Duration::ZERO } else { waited } }
        });
    }
    let mut done = tasks.join_all().await;
    done.sort_by_key(|done| done.job.at);
    done
}

/// The jobs as they really were: each for as long as its slot was Claimed.
fn jobs_seen(done: &[Done], held: &mut BTreeMap<u32, Vec<Duration>>) -> Vec<Job> {
    let mut by_slot: BTreeMap<u32, Vec<(Duration, usize)>> = BTreeMap::new();
    for (number, done) in done.iter().enumerate() {
        by_slot.entry(done.slot).or_default().push((done.job.at + done.waited, number));
    }
    let mut jobs: Vec<Job> = done.iter().map(|done| done.job).collect();
    for (slot, mut served) in by_slot {
        served.sort();
        let held = held.remove(&slot).unwrap_or_default();
        assert_eq!(held.len(), served.len(), "every claim of slot {slot} was seen");
        for ((_, number), held) in served.into_iter().zip(held) {
            jobs[number].takes = held;
        }
    }
    jobs
}

/// What a pool and its simulation came to, over the same jobs; of several runs all jobs together, and of simulations the mean.
#[derive(Clone, Debug, Default)]
pub struct Agreement {
    waits_ms: Vec<f64>,
    hits: usize,
    simulated_hits: f64,
    simulated_waits_ms: Vec<f64>,
    restores: Vec<Duration>,
}

impl Agreement {
    /// Hit ratios within so many points of a hundred, p95 waits within that part. Says what they are.
    ///
    /// # Panics
    /// They are not.
    pub fn hold(&self, name: &str, points: f64, part: f64) {
        let jobs = self.waits_ms.len() as f64;
        let (real, simulated) = (self.hits as f64 / jobs, self.simulated_hits / jobs);
        let (real_p95, simulated_p95) = (p95(&self.waits_ms), p95(&self.simulated_waits_ms));
        let mean = |waits: &[f64]| waits.iter().sum::<f64>() / waits.len() as f64;
        let Takes { mean: restore, cv } = takes(&self.restores);
        let said = format!(
            "{name}: {jobs} jobs, restore {restore:?} (cv {cv:.2}); hits {:.1} % real, {:.1} % simulated; p95 wait \
             {real_p95:.0} ms real, {simulated_p95:.0} ms simulated; mean wait {:.1} ms real, {:.1} ms simulated",
            real * 100.0,
            simulated * 100.0,
            mean(&self.waits_ms),
            mean(&self.simulated_waits_ms),
        );
        eprintln!("{said}");
        assert!((real - simulated).abs() <= points / 100.0, "{said}");
        assert!((real_p95 - simulated_p95).abs() <= part * real_p95.max(simulated_p95), "{said}");
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.waits_ms.extend(other.waits_ms);
        self.hits += other.hits;
        self.simulated_hits += other.simulated_hits;
        self.simulated_waits_ms.extend(other.simulated_waits_ms);
        self.restores.extend(other.restores);
        self
    }
}

fn p95(waits: &[f64]) -> f64 {
    let mut waits = waits.to_vec();
    waits.sort_by(f64::total_cmp);
    waits.get((waits.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Runs jobs through a pool in real time, then through the simulator in virtual time. That is told what depends on the machine:
/// when each job came and for how long it had its VM, how long each restore took, in their order, and how long ends took; and
/// how long the pool had before the first job, since that is what its scaler knows. Without scaling every slot is filled.
pub async fn agreement<H: Hypervisor>(
    hypervisor: H,
    runtime: &str,
    scaling: Option<Policy>,
    jobs: &[Job],
) -> Agreement {
    let times: Arc<Mutex<Times>> = Arc::default();
    let heard = Arc::clone(&times);
    let mut config = Config::new(vec![RuntimeSlots { name: runtime.into(), slots: SLOTS, warm_up: None }]);
    config.restores_at_once = TURNS as usize;
    config.scaling = scaling;
    config.bounds.entry(runtime.into()).or_default().floor = 1;
    config.observer = Some(Arc::new(move |event| heard.lock().unwrap().heard(event)));
    let epoch = Instant::now();
    let pool = Pool::spawn(config, hypervisor, MemoryLeases::new(LeaseKnobs::default()));
    let first = if scaling.is_some() { 1 } else { SLOTS };
    let mut phases = pool.phases();
    timeout(LONG, phases.wait_for(|phases| phases.total(Phase::Ready) == first)).await.unwrap().unwrap();
    let lead_in = epoch.elapsed();
    let done = real(&pool, runtime, jobs).await;
    pool.close(LONG).await.unwrap();
    let keep = scaling.map_or(Keep::Fixed, Keep::Auto);
    let mut times = times.lock().unwrap();
    let seen = jobs_seen(&done, &mut times.held);
    // What is still random in the simulation is averaged out.
    let run = |seed| simulate(&world(keep.clone(), &times, lead_in, seed), &seen);
    let runs: Vec<Report> = (0..RUNS).map(run).collect();
    Agreement {
        waits_ms: done.iter().map(|done| done.waited.as_secs_f64() * 1e3).collect(),
        hits: done.iter().filter(|done| done.hit).count(),
        simulated_hits: runs.iter().map(|run| run.hits as f64).sum::<f64>() / f64::from(RUNS as u32),
        simulated_waits_ms: runs.into_iter().flat_map(|run| run.waits_ms).collect(),
        restores: times.restores.values().copied().collect(),
    }
}

/// What the scaler aims at here: low enough that there are waits to compare.
pub fn policy() -> Policy {
    Policy { target_hit: 0.85, ..Policy::default() }
}

/// Jobs of 400 ms on average that always arrive as often, for so many seconds.
pub fn steady(seconds: u64, seed: u64) -> Vec<Job> {
    jobs(LoadShape::Step { from: 16.0, to: 16.0, at: Duration::ZERO }, seconds, seed)
}

/// The same, few at first and then many.
pub fn step(seconds: u64, seed: u64) -> Vec<Job> {
    let at = Duration::from_secs(seconds / 4);
    jobs(LoadShape::Step { from: 3.0, to: 10.0, at }, seconds, seed)
}

fn jobs(shape: LoadShape, seconds: u64, seed: u64) -> Vec<Job> {
    load(shape, Duration::from_secs(seconds), Duration::from_millis(400), seed)
}
