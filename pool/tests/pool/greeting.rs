//! Nobody gets a VM that has not confirmed its wake.

use hearth_pool::{
    fakes::{Knobs, WakeAnswer},
    phase::Phase,
    pool::{ClaimError, Lane, events::Farewell},
};

use crate::rig::{LONG, Rig, SECOND, command, run};

/// Claims while every greeting goes wrong, then when none does.
async fn refused(turn: impl Fn(&mut Knobs), expected: &str) {
    let rig = Rig::with(2, |config| config.runtimes[0].warm_up = Some(command(&["true"])), &turn, |_| {});
    let error = rig.claim_within(Lane::Interactive, 200 * SECOND).await.unwrap_err();
    let ClaimError::Timeout { last_failure: Some(why), .. } = &error else { panic!("{error}") };
    assert!(why.contains(expected), "{why}");
    assert!(error.to_string().contains(expected), "the claimer is told: {error}");
    let never = |heard: &_| !matches!(heard, crate::rig::Heard::Moved(_, _, Phase::Ready));
    assert!(rig.heard().iter().all(never));
    rig.hypervisor.set(|knobs| *knobs = Knobs::default());
    let claim = rig.claim().await.unwrap();
    assert_eq!(run(&claim, &["ok"]).await.unwrap(), "ok");
    drop(claim);
    // The fake agent notes all work that comes before a confirmed wake.
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn no_job_reaches_a_vm_that_has_not_confirmed_its_wake() {
    for answer in WakeAnswer::WRONG {
        let expected = match answer {
            WakeAnswer::Fault => "no entropy device",
            WakeAnswer::Silent => "no answer to wake within 15s",
            _ => "the wake is not confirmed: ",
        };
        refused(|knobs| knobs.agent.wake = answer, expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_without_an_agent_is_not_ready() {
    refused(|knobs| knobs.stall_dials = true, "could not be reached within 30s").await;
    refused(|knobs| knobs.agent.mute = true, "no answer to hello within 10s").await;
    refused(|knobs| knobs.die_after = Some(SECOND / 50), "the VM ended").await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_a_woken_agent_is_not_ready() {
    refused(|knobs| knobs.agent.woken_before = true, "woken before").await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_warm_up_is_not_ready() {
    let rig = Rig::with(1, |config| config.runtimes[0].warm_up = Some(command(&["fail"])), |_| {}, |_| {});
    let error = rig.claim().await.unwrap_err().to_string();
    assert!(error.ends_with("last failure: the warm-up ended with exit code 1"), "{error}");
    let failed = Farewell::GreetingFailed("the warm-up ended with exit code 1".into());
    assert!(rig.farewells().iter().all(|(why, _)| *why == failed));
    tokio::time::timeout(LONG, rig.close()).await.unwrap();
}
