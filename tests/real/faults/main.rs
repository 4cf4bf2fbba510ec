//! Workers, broker and Redis are killed under load, and every job has exactly its one result. `SEED=n` replays a run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

use std::{io::Write, path::Path, time::Duration};

use hearth_pool::lease::local::TTL;
use hearth_tests::{
    faults::{
        crew::Program,
        plan::Shape,
        run::{Report, Setup, run, seed},
    },
    process::{ProcessMachine, RUNTIME},
    real::Machine,
};

const WORKERS: usize = 3;

/// Runs it, and tells even when it passes.
async fn told(setup: Setup) -> Option<Report> {
    let report = run(&setup).await.unwrap_or_else(|error| panic!("{error:#}"))?;
    std::io::stderr().write_all(format!("fault run, {report}\n").as_bytes()).unwrap();
    Some(report)
}

fn processes(shape: Shape, lease: Duration, spare: bool) -> Option<Setup> {
    let (agent, worker) = (env!("CARGO_BIN_EXE_process-agent"), env!("CARGO_BIN_EXE_process-worker"));
    let (agent, worker) = (Path::new(agent), Path::new(worker));
    ProcessMachine::find(agent, worker).expect("processes that play VMs are required here")?;
    let (restore, lease_s) = (Duration::from_millis(500), lease.as_secs());
    let program = Program::Process { worker: worker.into(), agent: agent.into(), restore, lease_s };
    let seed = seed(1).unwrap();
    let slack = Duration::from_millis(100);
    Some(Setup { seed, shape, program, slots: 3, window: 24, shards: 2, lease, slack, spare })
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_every_job_has_its_one_result() {
    let shape = Shape {
        lasts: Duration::from_secs(16),
        jobs: 0,
        workers: WORKERS,
        busy_kills: 6,
        other_kills: 2,
        broker_restarts: 1,
        redis_restarts: 1,
    };
    let Some(setup) = processes(shape, Duration::from_secs(12), true) else { return };
    let Some(report) = told(setup).await else { return };
    assert!(report.jobs > 20, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_storm() {
    if !full() {
        return;
    }
    let shape = Shape {
        // So long that by chance alone, three kills of one job, far less than 0.5 % are given up.
        lasts: Duration::from_secs(300),
        jobs: 500,
        workers: WORKERS,
        busy_kills: 44,
        other_kills: 18,
        broker_restarts: 2,
        redis_restarts: 2,
    };
    let Some(setup) = processes(shape, Duration::from_secs(60), false) else { return };
    let Some(report) = told(setup).await else { return };
    assert!(report.took >= Duration::from_secs(180) && report.kills >= 60 && report.busy_kills >= 40);
}

/// With `hearth worker`, and VMs that are VMs.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_every_job_in_a_real_vm_has_its_one_result() {
    if !full() {
        return;
    }
    let Some(machine) = Machine::find().expect("real VMs are required here") else { return };
    machine.baked(RUNTIME).unwrap();
    let shape = Shape {
        lasts: Duration::from_secs(120),
        jobs: 200,
        workers: WORKERS,
        busy_kills: 5,
        other_kills: 0,
        broker_restarts: 1,
        redis_restarts: 1,
    };
    let setup = Setup {
        seed: seed(1).unwrap(),
        shape,
        program: Program::Hearth(machine),
        slots: 1,
        window: 12,
        shards: 2,
        lease: TTL,
        // An emulated processor takes its time until a shell prints.
        slack: Duration::from_secs(5),
        spare: true,
    };
    let Some(report) = told(setup).await else { return };
    assert!(report.jobs >= 200 && report.busy_kills >= 5, "{report}");
}

/// Whether what takes long is wanted.
#[allow(clippy::disallowed_methods, reason = "a test is told by the environment what is wanted")]
fn full() -> bool {
    let full = std::env::var_os("HEARTH_TEST_FULL").is_some();
    if !full {
        std::io::stderr().write_all(b"SKIPPED: the long fault runs; HEARTH_TEST_FULL=1 runs them\n").unwrap();
    }
    full
}
