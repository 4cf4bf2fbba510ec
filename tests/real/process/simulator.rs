//! The simulator against the pool over VMs that are processes: real starts, handshakes, wakes and ends, in real time.
//!
//! What this machine makes late is told to the simulator, too: restores, ends, and when jobs came. What is left is chance, which a
//! few hundred jobs do not average out, so only the long form (`HEARTH_TEST_FULL`) is held to what is promised. The same over a
//! virtual clock is in `it/simulator.rs`.

#![allow(clippy::disallowed_methods, reason = "whether to take long is told by the environment")]

use hearth_pool::scale::sim::Job;
use hearth_tests::{
    agreement::{Agreement, RESTORE, agreement, policy, steady, step},
    process::{ProcessMachine, RUNTIME, run_dir},
};
use tokio::sync::Mutex;

use super::machine;

/// One at a time: they load the machine.
static ROOM: Mutex<()> = Mutex::const_new(());

fn full() -> bool {
    std::env::var_os("HEARTH_TEST_FULL").is_some()
}

/// Points of the hit ratio, part of the p95 wait.
fn bounds() -> (f64, f64) {
    if full() { (2.0, 0.1) } else { (6.0, 0.3) }
}

async fn run(machine: &ProcessMachine, scaled: bool, jobs: fn(u64, u64) -> Vec<Job>) -> Agreement {
    let _room = ROOM.lock().await;
    let (seconds, seeds) = if full() { (45, 1..5) } else { (24, 1..2) };
    let mut all = Agreement::default();
    for seed in seeds {
        let directory = run_dir().unwrap();
        let (hypervisor, _) = machine.hypervisor(directory.path(), "w", RESTORE, None).await.unwrap();
        let scaling = scaled.then(policy);
        all = all.and(agreement(hypervisor, RUNTIME, scaling, &jobs(seconds, seed)).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_of_processes_is_simulated_as_it_is() {
    let Some(machine) = machine() else { return };
    let (points, part) = bounds();
    run(&machine, false, steady).await.hold("every slot filled", points, part);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_processes_that_follows_its_load_is_simulated_as_it_is() {
    let Some(machine) = machine() else { return };
    let (points, part) = bounds();
    run(&machine, true, step).await.hold("following its load", points, part);
}
