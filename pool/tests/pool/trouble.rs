//! VMs that end, restores that fail, destroys that do not.

use std::time::Duration;

use hearth_pool::{
    hypervisor::RestoreError,
    phase::Phase,
    pool::{ClaimError, Lane, Loss, events::Farewell},
};
use tokio::time::Instant;

use crate::rig::{Heard, MS, Rig, SECOND, run};

fn snapshot() -> RestoreError {
    RestoreError::Snapshot("no snapshot of python; run `hearth bake python`".into())
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ends_is_replaced() {
    let rig = Rig::new(1);
    rig.until_count(Phase::Ready, 1).await;
    rig.hypervisor.kill(3);
    rig.until_count(Phase::Ready, 0).await;
    rig.until_count(Phase::Ready, 1).await;
    rig.hypervisor.deafen(3);
    rig.until_count(Phase::Ready, 0).await;
    rig.until_count(Phase::Ready, 1).await;
    let farewells: Vec<_> = rig.farewells().into_iter().map(|(why, _)| why).collect();
    assert_eq!(farewells, [Farewell::Exited, Farewell::Exited], "its process, and then its agent");
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_learns_that_its_vm_ended() {
    let rig = Rig::new(1);
    let claim = rig.claim().await.unwrap();
    rig.hypervisor.kill(claim.vm().identity.cid);
    assert_eq!(claim.lost().await, Loss::Exited);
    assert_eq!(claim.lost().await, Loss::Exited, "as often as it is asked");
    assert!(run(&claim, &["x"]).await.is_err());
    rig.until_count(Phase::Ready, 1).await;
    assert_ne!(
        rig.claim().await.unwrap().vm().identity,
        claim.vm().identity,
        "the slot does not wait for it"
    );
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn failing_restores_do_not_spin() {
    let rig = Rig::with(
        1,
        |_| {},
        |knobs| {
            knobs.fail_restores.extend((0..500).map(|n| RestoreError::Vmm(format!("no {n}"))));
        },
        |_| {},
    );
    let error = rig.claim_within(Lane::Normal, 300 * SECOND).await.unwrap_err();
    assert!(
        matches!(&error, ClaimError::Timeout { last_failure: Some(why), .. } if why.starts_with("no ")),
        "{error}"
    );
    let made = rig.hypervisor.seen().made;
    assert!((300 / 11..60).contains(&made), "about one in ten seconds: {made}");
    rig.hypervisor.set(|knobs| knobs.fail_restores.clear());
    let claim = rig.claim().await.unwrap();
    rig.hypervisor.set(|knobs| knobs.fail_restores.push_back(RestoreError::Vmm("once".into())));
    drop(claim);
    let waited = rig.claim().await.unwrap().waited();
    assert!(waited < 2 * SECOND, "what went well is not held against the next: {waited:?}");
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn claimers_of_a_broken_snapshot_are_told_at_once() {
    let rig = Rig::with(1, |_| {}, |knobs| knobs.fail_restores.extend([snapshot(), snapshot()]), |_| {});
    let began = Instant::now();
    let expected = ClaimError::Broken { runtime: "python".into(), reason: snapshot().to_string() };
    assert_eq!(rig.claim().await.unwrap_err(), expected, "who waited");
    assert_eq!(began.elapsed(), 500 * MS);
    assert_eq!(rig.claim().await.unwrap_err(), expected, "who comes");
    assert_eq!(began.elapsed(), 500 * MS);
    rig.until_count(Phase::Ready, 1).await;
    let claim = rig.claim().await.expect("somebody has baked it");
    assert_eq!(
        rig.claim_within(Lane::Normal, MS).await.unwrap_err().to_string(),
        "no VM of runtime python within 1ms"
    );
    drop(claim);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_ready_is_claimed_although_the_snapshot_broke_since() {
    let rig = Rig::new(2);
    rig.until_count(Phase::Ready, 2).await;
    rig.hypervisor.set(|knobs| knobs.fail_restores.extend((0..99).map(|_| snapshot())));
    rig.claim().await.unwrap().finish();
    rig.until_count(Phase::Cooling, 1).await;
    let last = rig.claim().await.expect("one is left");
    assert!(matches!(rig.claim().await, Err(ClaimError::Broken { .. })));
    drop(last);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_hangs_is_given_up() {
    let rig = Rig::with(1, |_| {}, |knobs| knobs.stall_restores = true, |_| {});
    rig.until_count(Phase::Retiring, 1).await;
    let expected = Farewell::RestoreFailed("restore took longer than 60s".into());
    assert_eq!(rig.farewells(), [(expected, None)]);
    rig.hypervisor.set(|knobs| knobs.stall_restores = false);
    rig.until_count(Phase::Ready, 1).await;
    rig.close().await;
}

/// A slot that cannot destroy takes no second VM, keeps its lease, and goes on trying.
async fn quarantine(stall: bool) {
    let rig = Rig::new(1);
    let claim = rig.claim().await.unwrap();
    let cid = claim.vm().identity.cid;
    rig.hypervisor.set(|knobs| {
        knobs.stall_destroys = stall;
        knobs.fail_destroys = if stall { 0 } else { u32::MAX };
    });
    drop(claim);
    rig.until_count(Phase::Quarantined, 1).await;
    let quarantined = Instant::now();
    while quarantined.elapsed() < 300 * SECOND {
        tokio::time::sleep(SECOND).await;
        let seen = rig.hypervisor.seen();
        assert_eq!((seen.made, seen.destroyed), (1, 0));
        assert_eq!(rig.leases.held(), [cid], "renewed all the time");
    }
    let tries =
        rig.heard().iter().filter(|heard| matches!(heard, Heard::Moved(_, Phase::Quarantined, _))).count();
    assert!((300 / 40..30).contains(&tries), "with backoff: {tries}");
    rig.hypervisor.set(|knobs| (knobs.stall_destroys, knobs.fail_destroys) = (false, 0));
    rig.until_count(Phase::Ready, 1).await;
    assert!(quarantined.elapsed() < 340 * SECOND + Duration::from_secs(10));
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_cannot_be_destroyed_is_quarantined() {
    quarantine(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_destroy_that_hangs_is_quarantined() {
    quarantine(true).await;
}
