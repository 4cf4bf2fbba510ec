//! Closing, whatever the slots are doing.

use std::time::Duration;

use hearth_pool::{
    fakes::Knobs,
    phase::Phase,
    pool::{ClaimError, Loss},
};
use tokio::time::{Instant, timeout};

use crate::rig::{LONG, Rig, SECOND};

/// Brings a slot into a phase, closes the pool, and proves that nothing is left.
async fn closes_from(phase: Phase, turn: impl Fn(&mut Knobs), within: Duration) {
    let rig = Rig::with(2, |_| {}, &turn, |_| {});
    rig.until(|phases| phases.total(phase) >= 1).await;
    closes(rig, within).await;
}

async fn closes(rig: Rig, within: Duration) {
    let began = Instant::now();
    rig.pool.close(LONG).await.unwrap();
    assert!(began.elapsed() <= within, "{:?}", began.elapsed());
    assert_eq!(rig.count(Phase::Closed), 2);
    rig.sound();
    assert_eq!(rig.claim().await.unwrap_err(), ClaimError::Closed);
    rig.pool.close(Duration::ZERO).await.expect("a second close has nothing to do");
}

#[tokio::test(start_paused = true)]
async fn a_pool_closes_from_every_phase_without_a_claim() {
    closes_from(Phase::Vacant, |_| {}, SECOND).await;
    closes_from(Phase::Restoring, |knobs| knobs.stall_restores = true, SECOND).await;
    closes_from(Phase::Greeting, |knobs| knobs.stall_dials = true, SECOND).await;
    closes_from(Phase::Ready, |_| {}, SECOND).await;
    closes_from(Phase::Retiring, |knobs| knobs.die_after = Some(SECOND), SECOND).await;
    closes_from(Phase::Cooling, |knobs| knobs.die_after = Some(SECOND / 100), SECOND).await;
    let (fails, die) = (6, Some(SECOND));
    let turn = |knobs: &mut Knobs| (knobs.fail_destroys, knobs.die_after) = (fails, die);
    closes_from(Phase::Quarantined, turn, 60 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_closes_while_the_lease_store_hangs() {
    let rig = Rig::with(2, |_| {}, |_| {}, |leases| leases.stall = true);
    rig.until_count(Phase::Leasing, 2).await;
    closes(rig, 5 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_comes_while_closing_is_given_back() {
    let rig = Rig::with(2, |_| {}, |_| {}, |leases| leases.lose_answers = 2);
    rig.until_count(Phase::Leasing, 2).await;
    tokio::time::sleep(SECOND).await;
    rig.pool.close(LONG).await.unwrap();
    assert_eq!(rig.leases.held().len(), 2, "their answers were lost");
    tokio::time::sleep(60 * SECOND).await;
    rig.sound();
}

#[tokio::test(start_paused = true)]
async fn claims_may_finish_within_the_grace() {
    let rig = Rig::new(2);
    let claim = rig.claim().await.unwrap();
    let pool = rig.pool.clone();
    let closing = tokio::spawn(async move { pool.close(100 * SECOND).await });
    rig.until(|phases| phases.total(Phase::Closed) == 1).await;
    tokio::time::sleep(90 * SECOND).await;
    assert_eq!(rig.count(Phase::Claimed), 1);
    claim.session().ping(SECOND).await.unwrap();
    claim.finish();
    closing.await.unwrap().unwrap();
    rig.sound();
}

#[tokio::test(start_paused = true)]
async fn claims_are_lost_when_the_grace_is_over() {
    let rig = Rig::new(2);
    let claim = rig.claim().await.unwrap();
    let began = Instant::now();
    let (closed, loss) = tokio::join!(rig.pool.close(10 * SECOND), timeout(LONG, claim.lost()));
    closed.unwrap();
    assert_eq!(loss, Ok(Loss::Closing));
    assert!(began.elapsed() < 11 * SECOND);
    rig.sound();
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_turned_away() {
    let rig = Rig::with(1, |_| {}, |knobs| knobs.stall_restores = true, |_| {});
    let (waiter, ()) = tokio::join!(rig.claim(), async {
        rig.until_count(Phase::Restoring, 1).await;
        rig.pool.close(SECOND).await.unwrap();
    });
    assert_eq!(waiter.unwrap_err(), ClaimError::Closed);
    rig.sound();
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_cannot_be_destroyed_is_named() {
    let rig = Rig::new(2);
    rig.until_count(Phase::Ready, 2).await;
    rig.hypervisor.set(|knobs| knobs.fail_destroys = u32::MAX);
    let error = rig.pool.close(10 * SECOND).await.unwrap_err();
    assert_eq!(error.left.total(Phase::Quarantined) + error.left.total(Phase::Retiring), 2, "{error}");
    rig.hypervisor.set(|knobs| knobs.fail_destroys = 0);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_dropped_closes_once_its_claims_are_over() {
    let rig = Rig::new(2);
    let claim = rig.claim().await.unwrap();
    rig.until_count(Phase::Ready, 1).await;
    let mut phases = rig.pool.phases();
    let Rig { pool, hypervisor, leases, .. } = rig;
    drop(pool);
    phases.wait_for(|phases| phases.total(Phase::Closed) == 1).await.unwrap();
    tokio::time::sleep(100 * SECOND).await;
    claim.session().ping(SECOND).await.expect("a claim outlives the handle");
    drop(claim);
    let _ = phases.wait_for(|phases| phases.all_closed()).await;
    assert_eq!((hypervisor.seen().live, leases.held()), (vec![], vec![]));
}
