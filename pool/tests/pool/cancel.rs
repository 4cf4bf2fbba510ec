//! A claim that is given up at any moment costs no VM.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use hearth_pool::{phase::Phase, pool::Lane};
use tokio::{task::yield_now, time::sleep};

use crate::rig::{Rig, SECOND};

/// Polls a future so many times, with everybody else in between, and drops it.
async fn give_up_after<F: Future>(polls: u32, future: F, between: Duration) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        match between {
            Duration::ZERO => yield_now().await,
            between => sleep(between).await,
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn a_claim_given_up_at_any_await_loses_no_vm() {
    let rig = Rig::new(2);
    let mut given_up = 0;
    // With no time in between the hand-over is caught in the act; with some, the wait for a restore.
    for between in [Duration::ZERO, Duration::from_millis(90)] {
        for busy in [0, 2] {
            for polls in 0..12 {
                rig.until_count(Phase::Ready, 2).await;
                let mut held = Vec::new();
                for _ in 0..busy {
                    held.push(rig.claim().await.unwrap());
                }
                held.truncate(1);
                let claim = rig.claim_within(Lane::Normal, 60 * SECOND);
                match give_up_after(polls, claim, between).await {
                    Some(claim) => drop(claim.unwrap()),
                    None => given_up += 1,
                }
                drop(held);
                let claim = rig.claim().await.expect("the pool still serves");
                assert_eq!(claim.session().ping(SECOND).await.unwrap().monotonic_ns, 1);
            }
        }
    }
    assert!(given_up > 10, "{given_up}");
    rig.until_count(Phase::Ready, 2).await;
    assert_eq!(rig.hypervisor.seen().live.len(), 2);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn who_gave_up_is_not_served() {
    let rig = Rig::new(1);
    let held = rig.claim().await.unwrap();
    for _ in 0..100 {
        assert!(rig.claim_within(Lane::Interactive, SECOND / 10).await.is_err());
    }
    let made = rig.hypervisor.seen().made;
    drop(held);
    let claim = rig.claim().await.unwrap();
    assert_eq!(rig.hypervisor.seen().made, made + 1, "one VM for one who waits, none for those who went");
    drop(claim);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_behind_who_gave_up() {
    let rig = Rig::new(2);
    rig.until_count(Phase::Ready, 2).await;
    for _ in 0..50 {
        // Joins the queue, wakes a slot, and goes before the slot has looked.
        assert!(give_up_after(1, rig.claim(), Duration::ZERO).await.is_none());
    }
    let (one, two) =
        tokio::join!(rig.claim_within(Lane::Normal, SECOND), rig.claim_within(Lane::Normal, SECOND));
    assert!(one.is_ok() && two.is_ok());
    drop((one, two));
    rig.close().await;
}
