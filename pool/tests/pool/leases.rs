//! A VM never outlives its lease, and no lease is lost.

use std::time::Duration;

use hearth_pool::{
    phase::Phase,
    pool::{
        ClaimError, Lane, Loss,
        events::{Farewell, LeaseEvent},
    },
};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{LONG, Rig, SECOND, run};

#[tokio::test(start_paused = true)]
async fn all_leases_are_renewed_in_one_batch() {
    let rig = Rig::new(4);
    let claim = rig.claim().await.unwrap();
    sleep(1000 * SECOND).await;
    let batches = rig.leases.renewals();
    assert!((1000 / 20..1000 / 14).contains(&(batches as u32)), "every 17 s: {batches}");
    assert_eq!(rig.lease_events(LeaseEvent::Renewed) as u64, 4 * batches);
    assert_eq!(rig.farewells(), [], "none was in danger");
    drop(claim);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_not_renewed_after_its_release() {
    let rig = Rig::new(2);
    for n in 0..200 {
        let claim = rig.claim().await.unwrap();
        sleep(n % 23 * SECOND).await;
        drop(claim);
    }
    assert!(rig.lease_events(LeaseEvent::Renewed) > 0);
    assert_eq!(rig.lease_events(LeaseEvent::Lost), 0, "a renewal after a release is answered like this");
    assert_eq!(rig.lease_events(LeaseEvent::ReleasedLate), 0);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_ends_its_vm() {
    let rig = Rig::new(2);
    let claim = rig.claim().await.unwrap();
    rig.until_count(Phase::Ready, 1).await;
    let began = Instant::now();
    rig.leases.lose(3);
    rig.leases.lose(4);
    assert_eq!(timeout(LONG, claim.lost()).await, Ok(Loss::LeaseAtRisk));
    rig.until(|phases| phases.total(Phase::Ready) == 2).await;
    assert!(began.elapsed() < 20 * SECOND, "at the next renewal");
    let lost = rig.farewells().iter().filter(|(why, _)| *why == Farewell::LeaseAtRisk).count();
    assert_eq!(lost, 2);
    drop(claim);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn vms_die_before_leases_that_nobody_renews_expire() {
    for stall in [true, false] {
        let rig = Rig::new(3);
        let claim = rig.claim().await.unwrap();
        rig.until_count(Phase::Ready, 2).await;
        sleep(100 * SECOND).await;
        rig.leases.set(|knobs| (knobs.stall, knobs.unavailable) = (stall, !stall));
        let outage = Instant::now();
        assert_eq!(timeout(LONG, claim.lost()).await, Ok(Loss::LeaseAtRisk));
        assert!(outage.elapsed() >= 30 * SECOND, "a short outage ends nothing");
        while !rig.hypervisor.seen().live.is_empty() {
            assert_eq!(rig.leases.held().len(), 3, "a VM outlived its lease");
            sleep(Duration::from_millis(10)).await;
        }
        rig.leases.set(|knobs| (knobs.stall, knobs.unavailable) = (false, false));
        rig.until_count(Phase::Ready, 3).await;
        drop(claim);
        // Those that could not be given back.
        sleep(60 * SECOND).await;
        rig.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_margin_leaves_is_survived() {
    let rig = Rig::new(3);
    rig.until_count(Phase::Ready, 3).await;
    for _ in 0..5 {
        sleep(60 * SECOND).await;
        rig.leases.set(|knobs| knobs.stall = true);
        sleep(30 * SECOND).await;
        rig.leases.set(|knobs| knobs.stall = false);
    }
    assert_eq!(rig.farewells(), []);
    assert!(rig.lease_events(LeaseEvent::RenewalFailed) > 0);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_lease_cools_the_slot() {
    let rig = Rig::with(3, |_| {}, |_| {}, |leases| leases.ranges.cids = 3..=4);
    rig.until(|phases| phases.total(Phase::Ready) == 2 && phases.total(Phase::Cooling) == 1).await;
    let claims = [rig.claim().await.unwrap(), rig.claim().await.unwrap()];
    let error = rig.claim_within(Lane::Normal, 5 * SECOND).await.unwrap_err();
    let ClaimError::Timeout { last_failure: Some(why), .. } = error else { panic!("{error}") };
    assert!(why.starts_with("every CID is leased"), "{why}");
    rig.leases.set(|knobs| knobs.ranges.cids = 3..=5);
    rig.claim().await.unwrap();
    drop(claims);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_answer_was_lost_is_the_one_that_is_got() {
    let rig = Rig::with(
        1,
        |_| {},
        |_| {},
        |leases| {
            leases.lose_answers = 3;
            leases.ranges.cids = 3..=3;
        },
    );
    let began = Instant::now();
    rig.until_count(Phase::Ready, 1).await;
    assert!(began.elapsed() < 30 * SECOND, "it did not have to expire: {:?}", began.elapsed());
    assert_eq!(rig.leases.held(), [3], "with one CID there is no room for a forgotten lease");
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_given_back_expires() {
    let rig = Rig::new(1);
    rig.until_count(Phase::Ready, 1).await;
    rig.leases.set(|knobs| knobs.unavailable = true);
    rig.pool.close(60 * SECOND).await.unwrap();
    assert_eq!(rig.lease_events(LeaseEvent::ReleaseFailed), 1);
    assert_eq!(rig.leases.held(), [3]);
    sleep(61 * SECOND).await;
    rig.sound();
}

#[tokio::test(start_paused = true)]
async fn behind_the_hosts_lock_a_claimed_vm_outlives_its_lease_and_an_idle_one_does_not() {
    for lost in [true, false] {
        let rig = Rig::with(2, |_| {}, |knobs| knobs.locks = true, |leases| leases.ranges.cids = 3..=4);
        let claim = rig.claim().await.unwrap();
        rig.until_count(Phase::Ready, 1).await;
        let cid = claim.vm().identity.cid;
        let outage = Instant::now();
        match lost {
            true => [3, 4].into_iter().for_each(|cid| rig.leases.lose(cid)),
            false => rig.leases.set(|knobs| knobs.unavailable = true),
        }
        rig.until(|phases| phases.total(Phase::Ready) == 0).await;
        // Long after the lease was somebody else's, or nobody's.
        sleep(600 * SECOND).await;
        assert!(timeout(SECOND, claim.lost()).await.is_err(), "the job goes on");
        assert_eq!(run(&claim, &["still", "here"]).await.unwrap(), "still here");
        assert_eq!(rig.lease_events(LeaseEvent::Outlived), 1, "said once in {:?}", outage.elapsed());
        rig.leases.set(|knobs| knobs.unavailable = false);
        rig.until_count(Phase::Ready, 1).await;
        let other = rig.claim().await.unwrap();
        assert_ne!(other.vm().identity.cid, cid, "who is given the same meets the lock");
        drop((claim, other));
        rig.until_count(Phase::Ready, 2).await;
        rig.close().await;
    }
}
