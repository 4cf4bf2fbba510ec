//! VMMs without a guest: kept in slots that are left over, used first, and given up like anything else.

use std::{collections::BTreeMap, time::Duration};

use hearth_pool::{
    hypervisor::RestoreError,
    phase::Phase,
    pool::{Bounds, Config, events::Farewell},
    scale::{
        gate::{Cost, DORMANT_MIB},
        scaler::Policy,
    },
};
use tokio::time::sleep;

use crate::rig::{LONG, MS, Rig, SECOND, slots};

const COST: Cost = Cost { memory_mib: 256, cpu_milli: 1000 };

fn told(config: &mut Config) {
    let bounds = Bounds { floor: 2, cost: COST, dormant: 3 };
    config.scaling = Some(Policy::default());
    config.bounds = BTreeMap::from([("python".into(), bounds)]);
}

/// Two warm VMs, three dormant VMMs, ten slots.
fn sleepy() -> Rig {
    Rig::with(10, told, |_| {}, |_| {})
}

async fn at_rest(rig: &Rig) {
    rig.until(|phases| {
        let of = |phase| phases.total(phase);
        (of(Phase::Ready), of(Phase::Dormant), of(Phase::Vacant)) == (2, 3, 5)
    })
    .await;
    // What is being started is Dormant, too.
    sleep(SECOND).await;
}

fn went(rig: &Rig, why: &Farewell) -> usize {
    rig.farewells().iter().filter(|(went, _)| went == why).count()
}

#[tokio::test(start_paused = true)]
async fn vmms_are_started_ahead_and_a_restore_takes_one_first() {
    let rig = sleepy();
    at_rest(&rig).await;
    assert_eq!(rig.pool.memory_mib(), 2 * 256 + 3 * DORMANT_MIB);
    let made = rig.hypervisor.seen().made;
    let held = [rig.claim().await.unwrap(), rig.claim().await.unwrap()];
    let waited = rig.claim().await.unwrap();
    assert_eq!(waited.waited(), (500 - 200 + 50) * MS, "the start was done ahead");
    assert_eq!(waited.vm().snapshot, "fake");
    assert!(rig.hypervisor.seen().live.len() >= 5 && rig.hypervisor.seen().made > made, "more are started");
    drop((held, waited));
    at_rest(&rig).await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn none_are_started_unless_told_nor_where_every_slot_is_filled() {
    for none in [|config: &mut Config| config.bounds.clear(), |config: &mut Config| config.scaling = None] {
        let both = move |config: &mut Config| {
            told(config);
            none(config);
        };
        let rig = Rig::with(4, both, |_| {}, |_| {});
        sleep(60 * SECOND).await;
        assert_eq!(rig.count(Phase::Dormant), 0);
        rig.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_or_hangs_is_tried_again() {
    let fails = || RestoreError::Vmm("no such machine".into());
    let rig = Rig::with(10, told, |knobs| knobs.fail_starts = (0..4).map(|_| fails()).collect(), |_| {});
    at_rest(&rig).await;
    let why = Farewell::RestoreFailed("no such machine".into());
    assert_eq!(went(&rig, &why), 4);
    rig.close().await;

    let rig = Rig::with(10, told, |knobs| knobs.stall_starts = true, |_| {});
    sleep(150 * SECOND).await;
    assert!(rig.farewells().iter().any(|(why, _)| matches!(why, Farewell::RestoreFailed(_))));
    rig.hypervisor.set(|knobs| knobs.stall_starts = false);
    at_rest(&rig).await;
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_of_a_dormant_vmm_that_fails_is_one_that_failed() {
    let rig = sleepy();
    at_rest(&rig).await;
    let fails = || RestoreError::Vmm("a bad state".into());
    rig.hypervisor.set(|knobs| knobs.fail_restores = (0..2).map(|_| fails()).collect());
    let claims = [rig.claim().await.unwrap(), rig.claim().await.unwrap(), rig.claim().await.unwrap()];
    drop(claims);
    at_rest(&rig).await;
    assert_eq!(went(&rig, &Farewell::RestoreFailed("a bad state".into())), 2);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_dormant_vmm_that_ends_or_loses_its_lease_is_replaced() {
    let rig = sleepy();
    at_rest(&rig).await;
    let cids = || rig.hypervisor.seen().live.iter().map(|(_, identity)| identity.cid).collect::<Vec<_>>();
    // The two that were made first are Ready.
    for (n, cid) in cids().into_iter().enumerate().filter(|(n, _)| *n >= 2) {
        match n % 2 {
            0 => rig.hypervisor.kill(cid),
            _ => rig.leases.lose(cid),
        }
    }
    while went(&rig, &Farewell::Exited) < 2 || went(&rig, &Farewell::LeaseAtRisk) < 1 {
        sleep(100 * MS).await;
    }
    at_rest(&rig).await;
    assert_eq!(rig.pool.memory_mib(), 2 * 256 + 3 * DORMANT_MIB);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_snapshot_takes_over_dormant_vmms_at_once() {
    let rig = sleepy();
    at_rest(&rig).await;
    rig.hypervisor.set(|knobs| knobs.snapshot = "new".into());
    while went(&rig, &Farewell::Outdated) < 5 {
        sleep(100 * MS).await;
    }
    at_rest(&rig).await;
    let claims = [rig.claim().await.unwrap(), rig.claim().await.unwrap(), rig.claim().await.unwrap()];
    assert!(claims.iter().all(|claim| claim.vm().snapshot == "new"));
    drop(claims);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn dormant_vmms_make_room_for_whoever_needs_their_memory() {
    let told = |config: &mut Config| {
        told(config);
        config.runtimes.push(slots("bash", 4));
        config.bounds.insert("bash".into(), Bounds { floor: 0, cost: COST, dormant: 0 });
        config.memory_mib = Some(3 * 256 + DORMANT_MIB);
    };
    let rig = Rig::with(10, told, |_| {}, |_| {});
    rig.until(|phases| phases.total(Phase::Ready) == 2 && phases.total(Phase::Dormant) == 3).await;
    sleep(SECOND).await;
    let claim = async || {
        rig.pool
            .claim("bash", hearth_pool::pool::Lane::Normal, tokio::time::Instant::now() + 60 * SECOND)
            .await
    };
    let bash = claim().await.unwrap();
    assert!(bash.waited() < 2 * SECOND, "{:?}", bash.waited());
    assert!(rig.pool.memory_mib() <= 3 * 256 + DORMANT_MIB && went(&rig, &Farewell::Surplus) >= 1);
    drop(bash);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_closes_while_vmms_start_sleep_or_load() {
    for after in [100 * MS, 600 * MS, 700 * MS, 800 * MS, 5 * SECOND] {
        let rig = sleepy();
        sleep(after).await;
        rig.pool.close(LONG).await.unwrap();
        rig.sound();
        assert_eq!(rig.pool.memory_mib(), 0, "after {after:?}");
    }
    let rig = sleepy();
    at_rest(&rig).await;
    rig.pool.set_backlog("python", 10);
    sleep(Duration::from_millis(250)).await;
    assert!(rig.count(Phase::Restoring) >= 3);
    rig.pool.close(LONG).await.unwrap();
    rig.sound();
}
