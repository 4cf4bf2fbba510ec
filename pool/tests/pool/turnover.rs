//! A new snapshot takes over while the pool serves: every step is looked at.

use std::{collections::BTreeMap, time::Duration};

use hearth_pool::{
    hypervisor::RestoreError,
    phase::Phase,
    pool::{Bounds, Claim, Outcome, events::Farewell},
    scale::{gate::Cost, scaler::Policy},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::rig::{Heard, MS, Rig, SECOND};

/// A pool that keeps `floor` VMs warm and has slots to spare.
fn scaled(slots: u32, floor: u32) -> Rig {
    let bounds = Bounds { floor, cost: Cost { memory_mib: 100, cpu_milli: 1000 }, dormant: 0 };
    Rig::with(
        slots,
        |config| {
            config.scaling = Some(Policy::default());
            config.bounds = BTreeMap::from([("python".into(), bounds)]);
        },
        |_| {},
        |_| {},
    )
}

/// What the steps from `from` on came to: the fewest VMs that were Ready at any step and the most that existed, where so many
/// were Ready before.
fn extremes(rig: &Rig, from: usize, ready: u32) -> (u32, u32) {
    let (mut ready, mut held) = (ready, ready);
    let (mut fewest, mut most) = (ready, held);
    for heard in &rig.heard()[from..] {
        let Heard::Moved(_, before, after) = heard else { continue };
        ready = ready + u32::from(*after == Phase::Ready) - u32::from(*before == Phase::Ready);
        held = held + u32::from(!before.owns() && after.owns()) - u32::from(before.owns() && !after.owns());
        (fewest, most) = (fewest.min(ready), most.max(held));
    }
    (fewest, most)
}

fn outdated(rig: &Rig) -> usize {
    rig.farewells().iter().filter(|(why, _)| *why == Farewell::Outdated).count()
}

fn bake(rig: &Rig, name: &str) {
    rig.hypervisor.set(|knobs| knobs.snapshot = name.to_owned());
}

/// Waits until that many VMs have gone for a new snapshot and all is as before.
async fn taken_over(rig: &Rig, gone: usize, ready: u32) {
    while outdated(rig) < gone {
        sleep(10 * MS).await;
    }
    rig.until_count(Phase::Ready, ready).await;
}

async fn claims(rig: &Rig, count: u32) -> Vec<Claim> {
    let mut claims = Vec::new();
    for _ in 0..count {
        claims.push(rig.claim().await.unwrap());
    }
    claims
}

#[tokio::test(start_paused = true)]
async fn where_there_is_room_a_new_vm_is_ready_before_an_old_one_goes() {
    let rig = scaled(10, 3);
    rig.until_count(Phase::Ready, 3).await;
    sleep(10 * SECOND).await;
    let (from, began) = (rig.heard().len(), Instant::now());
    bake(&rig, "new");
    taken_over(&rig, 3, 3).await;
    assert_eq!(extremes(&rig, from, 3), (3, 4), "never fewer Ready, one VM more at most");
    assert!(began.elapsed() >= 3 * SECOND, "not all at once: {:?}", began.elapsed());
    sleep(60 * SECOND).await;
    assert_eq!((outdated(&rig), rig.count(Phase::Ready)), (3, 3), "and then it is over");
    for claim in claims(&rig, 3).await {
        assert_eq!((claim.vm().snapshot.as_str(), claim.outcome()), ("new", Outcome::Hit));
    }
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn where_every_slot_is_filled_old_vms_go_one_by_one() {
    let rig = Rig::new(3);
    rig.until_count(Phase::Ready, 3).await;
    let from = rig.heard().len();
    bake(&rig, "new");
    taken_over(&rig, 3, 3).await;
    assert_eq!(extremes(&rig, from, 3), (2, 3), "one at a time");
    let claims = claims(&rig, 3).await;
    assert!(claims.iter().all(|claim| claim.vm().snapshot == "new"));
    drop(claims);
    rig.close().await;

    // The only VM of a runtime goes when it was used.
    let rig = Rig::new(1);
    rig.until_count(Phase::Ready, 1).await;
    bake(&rig, "new");
    sleep(120 * SECOND).await;
    assert_eq!((rig.count(Phase::Ready), outdated(&rig)), (1, 0));
    for snapshot in ["fake", "new"] {
        assert_eq!(rig.claim().await.unwrap().vm().snapshot, snapshot);
    }
    rig.close().await;
}

/// Claims as often as this for a minute, each for a second, with a bake after 20 s. How long each waited, and which snapshot it
/// came from.
async fn load(rig: &Rig, every: Duration, bakes: bool) -> Vec<(Duration, String)> {
    let (began, mut jobs, mut baked) = (Instant::now(), JoinSet::new(), !bakes);
    let mut number = 0;
    while began.elapsed() < 60 * SECOND {
        if !baked && began.elapsed() >= 20 * SECOND {
            bake(rig, "new");
            baked = true;
        }
        let pool = rig.pool.clone();
        jobs.spawn(async move {
            let deadline = Instant::now() + 60 * SECOND;
            let claim = pool.claim("python", hearth_pool::pool::Lane::Normal, deadline).await.unwrap();
            sleep(SECOND).await;
            (number, claim.waited(), claim.vm().snapshot.clone())
        });
        number += 1;
        sleep(every).await;
    }
    let mut waits = jobs.join_all().await;
    waits.sort();
    waits.into_iter().map(|(_, waited, snapshot)| (waited, snapshot)).collect()
}

#[tokio::test(start_paused = true)]
async fn no_claim_waits_longer_because_of_a_new_snapshot() {
    // With room to spare, and with every slot filled.
    let pools: [fn() -> Rig; 2] = [|| scaled(20, 5), || Rig::new(8)];
    for pool in pools {
        let mut waits = Vec::new();
        for bakes in [false, true] {
            let rig = pool();
            rig.until(|phases| phases.total(Phase::Ready) >= 5 && phases.total(Phase::Restoring) == 0).await;
            let claims = load(&rig, 300 * MS, bakes).await;
            let from_new = claims.iter().filter(|(_, snapshot)| snapshot == "new").count();
            assert_eq!(from_new > 0, bakes);
            if bakes {
                let since = claims.iter().position(|(_, snapshot)| snapshot == "new").unwrap();
                assert!(since >= 20_000 / 300, "none before it");
                let last_old = claims.iter().rposition(|(_, snapshot)| snapshot == "fake").unwrap();
                assert!(last_old < claims.len() - 30, "the old ones drain: {last_old} of {}", claims.len());
            }
            waits.push(claims.into_iter().map(|(waited, _)| waited).collect::<Vec<_>>());
            rig.close().await;
        }
        let longer: Vec<_> =
            waits[1].iter().zip(&waits[0]).filter(|(with, without)| with > without).collect();
        assert!(longer.is_empty(), "{longer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_gives_no_vm_takes_nothing_away() {
    for (rig, ready, left) in [(scaled(10, 3), 3, 3), (Rig::new(3), 3, 2)] {
        rig.until_count(Phase::Ready, ready).await;
        let from = rig.heard().len();
        rig.hypervisor.set(|knobs| {
            knobs.fail_restores = (0..1000).map(|_| RestoreError::Vmm("a bad bake".into())).collect();
        });
        bake(&rig, "bad");
        sleep(300 * SECOND).await;
        assert_eq!(rig.count(Phase::Ready), left);
        assert_eq!(extremes(&rig, from, ready).0, left);
        let claim = rig.claim().await.unwrap();
        assert_eq!((claim.vm().snapshot.as_str(), claim.outcome()), ("fake", Outcome::Hit));
        // Back to the one that works: what is left of it is current again.
        let gone = outdated(&rig);
        rig.hypervisor.set(|knobs| knobs.fail_restores.clear());
        bake(&rig, "fake");
        drop(claim);
        rig.until_count(Phase::Ready, ready).await;
        sleep(60 * SECOND).await;
        assert_eq!((outdated(&rig), rig.count(Phase::Ready)), (gone, ready));
        rig.close().await;
    }
}
