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
pub const RESTORE: Duration = Duration::from_millis(600);
const SLOTS: u32 = 8;
const TURNS: u32 = 3;

/// What was seen of the pool: how long restores and destroys took.
#[derive(Default)]
struct Times {
    began: BTreeMap<u32, (Phase, Instant)>,
    restores: Vec<f64>,
    destroys: Vec<f64>,
}

impl Times {
    fn moved(&mut self, slot: u32, to: Phase) {
        let now = Instant::now();
        let (from, since) = *self.began.get(&slot).unwrap_or(&(to, now));
        match (from, to) {
            (Phase::Leasing, Phase::Ready) => self.restores.push((now - since).as_secs_f64()),
            (Phase::Retiring, Phase::Vacant) => self.destroys.push((now - since).as_secs_f64()),
            _ => {}
        }
        if matches!(to, Phase::Leasing | Phase::Retiring) || !matches!(from, Phase::Leasing) {
            self.began.insert(slot, (to, now));
        }
    }
}

fn takes(seen: &[f64]) -> Takes {
    let count = seen.len() as f64;
    let mean = seen.iter().sum::<f64>() / count;
    let variance = seen.iter().map(|took| (took - mean).powi(2)).sum::<f64>() / count;
    Takes { mean: Duration::from_secs_f64(mean), cv: variance.sqrt() / mean }
}

fn world(keep: Keep, times: &Times, seed: u64) -> World {
    let rule = Rule { floor: 1, ceiling: SLOTS, cost: Cost::default() };
    World {
        runtimes: vec![SimRuntime {
            rule,
            restore: takes(&times.restores),
            destroy: takes(&times.destroys),
            schedule: Vec::new(),
        }],
        limits: Limits::turns(TURNS),
        lanes: LaneRules::default(),
        max_age: Duration::from_secs(1800),
        keep,
        restore_cpu: RESTORE,
        wait_goal: Duration::ZERO,
        point: Duration::from_secs(1),
        lead_in: Duration::from_secs(5),
        seed,
    }
}

/// Every wait, in milliseconds, and the hit ratio.
async fn real(pool: &Pool, runtime: &str, jobs: &[Job]) -> (Vec<f64>, f64) {
    let (began, mut tasks) = (Instant::now(), JoinSet::new());
    for job in jobs {
        let (pool, runtime, job) = (pool.clone(), runtime.to_owned(), *job);
        tasks.spawn(async move {
            sleep_until(began + job.at).await;
            let claim = pool.claim(&runtime, job.lane, Instant::now() + LONG).await.unwrap();
            let (hit, waited) = (claim.outcome() == Outcome::Hit, claim.waited());
            sleep(job.takes).await;
            (hit, waited.as_secs_f64() * 1e3)
        });
    }
    let (mut waits, mut hits) = (Vec::new(), 0.0);
    while let Some(done) = tasks.join_next().await {
        let (hit, waited) = done.unwrap();
        hits += f64::from(u8::from(hit));
        waits.push(if hit { 0.0 } else { waited });
    }
    waits.sort_by(f64::total_cmp);
    let ratio = hits / waits.len() as f64;
    (waits, ratio)
}

/// What a pool and its simulation came to, over the same jobs.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// Hit ratios: real, simulated.
    pub hits: (f64, f64),
    /// 95 of a hundred claims waited no longer, in milliseconds: real, simulated.
    pub p95_ms: (f64, f64),
    /// All of it for people.
    pub said: String,
}

impl Agreement {
    /// Hit ratios within 2 points, p95 waits within a tenth.
    pub fn hold(&self) {
        let ((real, simulated), (real_p95, simulated_p95)) = (self.hits, self.p95_ms);
        assert!((real - simulated).abs() <= 0.02, "{}", self.said);
        assert!((real_p95 - simulated_p95).abs() <= 0.10 * real_p95.max(simulated_p95), "{}", self.said);
    }
}

/// Runs jobs through a pool in real time, then through the simulator in virtual time, which is told how long restores and
/// destroys took. Without scaling every slot is filled.
pub async fn agreement<H: Hypervisor>(
    hypervisor: H,
    runtime: &str,
    name: &str,
    scaling: Option<Policy>,
    jobs: &[Job],
) -> Agreement {
    let times: Arc<Mutex<Times>> = Arc::default();
    let heard = Arc::clone(&times);
    let mut config = Config::new(vec![RuntimeSlots { name: runtime.into(), slots: SLOTS, warm_up: None }]);
    config.restores_at_once = TURNS as usize;
    config.scaling = scaling;
    config.bounds.entry(runtime.into()).or_default().floor = 1;
    config.observer = Some(Arc::new(move |event| {
        if let Event::Moved { slot, to, .. } = event {
            heard.lock().unwrap().moved(slot.number, to);
        }
    }));
    let pool = Pool::spawn(config, hypervisor, MemoryLeases::new(LeaseKnobs::default()));
    let first = if scaling.is_some() { 1 } else { SLOTS };
    let mut phases = pool.phases();
    timeout(LONG, phases.wait_for(|phases| phases.total(Phase::Ready) == first)).await.unwrap().unwrap();
    let (waits, hits) = real(&pool, runtime, jobs).await;
    pool.close(LONG).await.unwrap();
    let p95 = waits[(waits.len() * 95).div_ceil(100) - 1];
    // What is random in the simulation is averaged out.
    let keep = scaling.map_or(Keep::Fixed, Keep::Auto);
    let run = |seed| simulate(&world(keep.clone(), &times.lock().unwrap(), seed), jobs);
    let runs: Vec<Report> = (0..20).map(run).collect();
    let mean = |value: fn(&Report) -> f64| runs.iter().map(value).sum::<f64>() / runs.len() as f64;
    let (simulated_hits, simulated_p95) = (mean(|run| run.hit_ratio), mean(|run| run.wait_p95_ms));
    let seen = takes(&times.lock().unwrap().restores);
    let said = format!(
        "{name}: {} jobs, restore {:?} (cv {:.2}); hits {:.1} % real, {:.1} % simulated; p95 wait {p95:.0} ms real, \
         {simulated_p95:.0} ms simulated",
        jobs.len(),
        seen.mean,
        seen.cv,
        hits * 100.0,
        simulated_hits * 100.0,
    );
    eprintln!("{said}");
    Agreement { hits: (hits, simulated_hits), p95_ms: (p95, simulated_p95), said }
}

/// Jobs of 800 ms on average that always arrive as often: the pool's slots are just enough for them.
pub fn steady() -> Vec<Job> {
    jobs(LoadShape::Step { from: 4.2, to: 4.2, at: Duration::ZERO }, 1)
}

/// The same, which become many more after 15 s.
pub fn step() -> Vec<Job> {
    jobs(LoadShape::Step { from: 1.0, to: 3.5, at: Duration::from_secs(15) }, 2)
}

fn jobs(shape: LoadShape, seed: u64) -> Vec<Job> {
    load(shape, Duration::from_secs(40), Duration::from_millis(800), seed)
}
