//! How many VMs are warm, and what they may take.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hearth_pool::{
    fakes::{FakeHypervisor, Knobs, LeaseKnobs, MemoryLeases, Ran},
    hypervisor::RestoreError,
    phase::Phase,
    pool::{Bounds, Config, Lane, Pool, events::Farewell},
    scale::{gate::Cost, lanes::LaneRules, scaler::Policy},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::rig::{LONG, MS, Rig, SECOND, slots};

fn bounds(floor: u32, memory_mib: u64) -> Bounds {
    Bounds { floor, cost: Cost { memory_mib, cpu_milli: 1000 }, dormant: 0 }
}

fn scaled(ceiling: u32, floor: u32) -> Rig {
    let told = |config: &mut Config| {
        config.scaling = Some(Policy::default());
        config.bounds = BTreeMap::from([("python".into(), bounds(floor, 100))]);
    };
    Rig::with(ceiling, told, |_| {}, |_| {})
}

fn target(rig: &Rig) -> u32 {
    rig.pool.targets().borrow()["python"]
}

/// Claims at a rate for a time; each is held for a second.
async fn load(rig: &Rig, per_second: f64, lasts: Duration, hits: &Arc<AtomicU64>) -> u64 {
    let (end, mut claimed, mut jobs) = (Instant::now() + lasts, 0, JoinSet::new());
    while Instant::now() < end {
        let (pool, hits) = (rig.pool.clone(), Arc::clone(hits));
        jobs.spawn(async move {
            let claim = pool.claim("python", Lane::Normal, Instant::now() + LONG).await.unwrap();
            hits.fetch_add(u64::from(claim.waited().is_zero()), Ordering::Relaxed);
            sleep(SECOND).await;
        });
        claimed += 1;
        sleep(Duration::from_secs_f64(1.0 / per_second)).await;
    }
    while jobs.join_next().await.transpose().unwrap().is_some() {}
    claimed
}

#[tokio::test(start_paused = true)]
async fn the_pool_follows_the_load_and_gives_back_what_it_no_longer_needs() {
    let rig = scaled(100, 1);
    rig.until_count(Phase::Ready, 1).await;
    assert_eq!((target(&rig), rig.count(Phase::Vacant)), (1, 99), "what is not needed is not made");
    let hits = Arc::default();
    load(&rig, 14.0, 30 * SECOND, &hits).await;
    let steady = target(&rig);
    assert!((9..25).contains(&steady), "{steady}");
    hits.store(0, Ordering::Relaxed);
    let claimed = load(&rig, 14.0, 30 * SECOND, &hits).await;
    let hit = hits.load(Ordering::Relaxed);
    assert!(hit * 100 >= claimed * 99, "{hit} of {claimed}");
    hits.store(0, Ordering::Relaxed);
    let claimed = load(&rig, 40.0, 10 * SECOND, &hits).await;
    let hit = hits.load(Ordering::Relaxed);
    assert!(hit * 100 >= claimed * 85, "{hit} of {claimed} after the step");
    assert!(target(&rig) > steady + 8, "{} after {steady}", target(&rig));
    timeout(LONG, rig.pool.targets().wait_for(|targets| targets["python"] == 1)).await.unwrap().unwrap();
    rig.until(|phases| phases.total(Phase::Ready) == 1 && phases.total(Phase::Vacant) == 99).await;
    assert!(rig.farewells().iter().any(|(why, _)| *why == Farewell::Surplus));
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_backlog_elsewhere_counts_as_demand_and_so_does_a_schedule() {
    let rig = scaled(10, 1);
    rig.until_count(Phase::Ready, 1).await;
    rig.pool.set_backlog("python", 50);
    rig.until_count(Phase::Ready, 10).await;
    rig.pool.set_backlog("python", 0);
    rig.pool.set_backlog("cobol", 1);
    rig.until_count(Phase::Ready, 1).await;
    rig.pool.set_scheduled("python", 4);
    rig.until_count(Phase::Ready, 4).await;
    rig.pool.set_scheduled("python", 0);
    rig.until_count(Phase::Ready, 1).await;
    rig.close().await;
}

/// Claims of two runtimes, with failures, under a budget that is always too small. Whatever is seen at any moment, and
/// on real threads, is within it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_memory_budget_is_never_exceeded() {
    const BUDGET: u64 = 1000;
    let knobs = Knobs {
        restore_takes: 3 * MS,
        dial_takes: Duration::ZERO,
        destroy_takes: 2 * MS,
        fail_restores: (0..20).map(|_| RestoreError::Vmm("as the test says".into())).collect(),
        fail_destroys: 20,
        ..Knobs::default()
    };
    let hypervisor = FakeHypervisor::new(knobs, Arc::new(|_| Ran::prints("")));
    let mut config = Config::new(vec![slots("python", 20), slots("gcc", 20)]);
    config.restores_at_once = 16;
    config.memory_mib = Some(BUDGET);
    config.scaling = Some(Policy::default());
    config.refill_backoff.first = MS;
    config.refill_backoff.cap = 5 * MS;
    config.quarantine_backoff = config.refill_backoff;
    config.bounds = BTreeMap::from([("python".into(), bounds(2, 130)), ("gcc".into(), bounds(1, 310))]);
    let pool = Pool::spawn(config, hypervisor.clone(), MemoryLeases::new(LeaseKnobs::default()));
    let cost = |runtime: &str| if runtime == "python" { 130 } else { 310 };
    let (watched, most) = (hypervisor.clone(), Arc::new(AtomicU64::new(0)));
    let peak = Arc::clone(&most);
    let watch = tokio::spawn(async move {
        loop {
            // What the hypervisor has, not what the pool believes.
            let held = watched.seen().live.iter().map(|(slot, _)| cost(&slot.runtime)).sum();
            peak.fetch_max(held, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let mut jobs = JoinSet::new();
    for seed in 0..40 {
        let pool = pool.clone();
        jobs.spawn(async move {
            let mut rng = SmallRng::seed_from_u64(seed);
            for _ in 0..15 {
                let runtime = if rng.random_bool(0.7) { "python" } else { "gcc" };
                let claim = pool.claim(runtime, Lane::Normal, Instant::now() + 60 * SECOND).await;
                sleep(Duration::from_millis(rng.random_range(0..5))).await;
                drop(claim.unwrap());
            }
        });
    }
    while jobs.join_next().await.transpose().unwrap().is_some() {}
    watch.abort();
    let most = most.load(Ordering::Relaxed);
    assert!(most <= BUDGET, "{most} MiB of {BUDGET}");
    assert!(most > BUDGET - 310, "the budget was used: {most} MiB");
    pool.close(10 * SECOND).await.unwrap();
    assert_eq!(pool.memory_mib(), 0);
    assert_eq!(hypervisor.seen().wrong, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_idle_runtime_makes_room_for_one_that_is_asked_for() {
    let told = |config: &mut Config| {
        config.runtimes.push(slots("bash", 8));
        config.scaling = Some(Policy { decay: 5 * SECOND, keep_alive: 20 * SECOND, ..Policy::default() });
        config.memory_mib = Some(800);
        let both = ["python", "bash"].map(|name| (name.to_owned(), bounds(0, 100)));
        config.bounds = BTreeMap::from(both);
    };
    let rig = Rig::with(8, told, |_| {}, |_| {});
    rig.pool.set_backlog("bash", 8);
    rig.until(|phases| phases.count("bash", Phase::Ready) == 8).await;
    rig.pool.set_backlog("bash", 0);
    let began = Instant::now();
    let claim = rig.claim().await.unwrap();
    assert!(began.elapsed() < 5 * SECOND, "a bash VM went for it: {:?}", began.elapsed());
    assert!(rig.pool.memory_mib() <= 800);
    drop(claim);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_reserve_is_kept_for_interactive_claims_until_others_have_waited_long() {
    let lanes = LaneRules { reserve: 1, patience: [Duration::ZERO, 5 * SECOND, 30 * SECOND] };
    let rig = Rig::with(2, |config| config.lanes = lanes, |_| {}, |_| {});
    rig.until_count(Phase::Ready, 2).await;
    rig.hypervisor.set(|knobs| knobs.stall_restores = true);
    let batch = rig.claim_within(Lane::Batch, SECOND).await.unwrap();
    assert!(batch.waited().is_zero(), "there is one beyond the reserve");
    let (pool, began) = (rig.pool.clone(), Instant::now());
    let patient = tokio::spawn(async move { pool.claim("python", Lane::Batch, Instant::now() + LONG).await });
    assert!(rig.claim_within(Lane::Normal, SECOND).await.is_err(), "the last one is kept");
    let patient = patient.await.unwrap().unwrap();
    assert!((30 * SECOND..31 * SECOND).contains(&began.elapsed()), "{:?}", began.elapsed());
    rig.hypervisor.set(|knobs| knobs.stall_restores = false);
    drop((batch, patient));
    rig.until_count(Phase::Ready, 2).await;
    rig.hypervisor.set(|knobs| knobs.stall_restores = true);
    let normal = rig.claim_within(Lane::Normal, SECOND).await.unwrap();
    let interactive = rig.claim_within(Lane::Interactive, SECOND).await.unwrap();
    assert!(interactive.waited().is_zero());
    drop((normal, interactive));
    rig.hypervisor.set(|knobs| knobs.stall_restores = false);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_starts_gently_and_refills_at_its_pace() {
    let told = |config: &mut Config| (config.restores_at_once, config.gentle) = (16, true);
    let rig = Rig::with(16, told, |_| {}, |_| {});
    let began = Instant::now();
    rig.until_count(Phase::Ready, 1).await;
    assert_eq!(rig.count(Phase::Vacant), 13, "one, then two");
    rig.until_count(Phase::Ready, 16).await;
    assert!(began.elapsed() < 6 * 550 * MS, "it doubles: {:?}", began.elapsed());
    rig.close().await;
    let paced = Rig::with(8, |config| config.refills_per_second = Some(0.5), |_| {}, |_| {});
    let began = Instant::now();
    paced.until_count(Phase::Ready, 8).await;
    assert!(began.elapsed() >= 14 * SECOND, "{:?}", began.elapsed());
    let claims: Vec<_> = {
        let mut claims = Vec::new();
        for _ in 0..10 {
            claims.push(paced.pool.claim("python", Lane::Normal, Instant::now() + SECOND).await);
        }
        claims
    };
    assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 8);
    drop(claims);
    let began = Instant::now();
    let waited = paced.claim().await.unwrap();
    assert!(began.elapsed() < 2 * SECOND, "whom a claim waits for has no pace: {:?}", began.elapsed());
    drop(waited);
    paced.close().await;
}
