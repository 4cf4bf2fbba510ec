//! The process test hypervisor, held to what every hypervisor promises. Skipped aloud where this machine cannot run it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod simulator;

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;
use hearth_pool::{
    fakes::{
        LeaseKnobs, MemoryLeases,
        process::{Chances, SNAPSHOT, left_of},
    },
    hypervisor::{Hypervisor, RestoreError, Slot},
    lease::Identity,
    pool::{Config, Lane, Pool, RuntimeSlots},
    session::{Channel, Command, Session},
};
use hearth_schemas::guest::messages::{ExecLimits, Exited, User};
use hearth_tests::process::{Left, ProcessMachine, RUNTIME, run_dir};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(60);

fn machine() -> Option<ProcessMachine> {
    let (agent, worker) = (env!("CARGO_BIN_EXE_process-agent"), env!("CARGO_BIN_EXE_process-worker"));
    ProcessMachine::find(Path::new(agent), Path::new(worker))
        .expect("processes that play VMs are required here")
}

fn slot(number: u32) -> Slot {
    Slot { runtime: RUNTIME.into(), number }
}

fn identity(cid: u32) -> Identity {
    Identity { cid, port: u16::try_from(9000 + cid).unwrap(), token: u64::from(cid) }
}

fn sh(script: &str) -> Command {
    Command {
        argv: ["bash", "-c", script].map(str::to_owned).into(),
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        cwd: String::new(),
        limits: ExecLimits { wall_ms: Some(60_000), memory_bytes: Some(64 << 20), ..ExecLimits::default() },
        user: User::Job,
        ip: false,
        fresh: false,
    }
}

async fn run(session: &Session, script: &str) -> (Exited, String) {
    let mut output = Vec::new();
    let keep = |channel, bytes: Bytes| {
        if channel == Channel::Stdout {
            output.extend_from_slice(&bytes);
        }
    };
    let running = session.exec(sh(script), false).await.unwrap();
    let exited = running.finish(Bytes::new(), keep, std::future::pending()).await.unwrap();
    (exited, String::from_utf8(output).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_a_process_and_ends_with_all_that_it_started() {
    let Some(machine) = machine() else { return };
    let directory = run_dir().unwrap();
    let takes = Duration::from_millis(300);
    let (hypervisor, _) = machine.hypervisor(directory.path(), "w", takes, None).await.unwrap();
    let began = Instant::now();
    let restored = hypervisor.restore(&slot(0), &identity(3)).await.unwrap();
    assert!(began.elapsed() >= takes, "the restore takes as long as it is told");
    assert_eq!(restored.snapshot, SNAPSHOT);
    // Whoever has the CID's lock has the CID.
    let other = hypervisor.restore(&slot(1), &identity(3)).await.unwrap_err();
    assert!(matches!(other, RestoreError::IdentityBusy { cid: 3 }), "{other}");
    let session = Session::connect(hypervisor.dial(&restored.vm).await.unwrap(), LONG).await.unwrap();
    let (exited, output) = run(&session, "echo hello >&2; pwd").await;
    assert_eq!(exited.exit_code, Some(0));
    assert!(output.starts_with(directory.path().to_str().unwrap()), "{output}");
    // A command that runs, with a child that has left its session.
    let escape = "setsid bash -c 'echo out; while :; do sleep 1; done' & echo $$; wait; sleep 600";
    let _running = session.exec(sh(escape), false).await.unwrap();
    let left = || Left::of(directory.path(), &machine.cgroups);
    let working = async {
        // The agent, and three or more of the command.
        while left().host.processes.len() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, working).await.unwrap();
    assert_eq!(left_of(&machine.cgroups, directory.path()).unwrap().len(), 1);
    hypervisor.destroy(&slot(0), Some(restored.vm)).await.unwrap();
    assert_eq!(left(), Left::default(), "at the moment when it is destroyed");
    hypervisor.destroy(&slot(0), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_tells_of_its_end_and_a_cancelled_restore_leaves_nothing() {
    let Some(machine) = machine() else { return };
    let directory = run_dir().unwrap();
    let chances = Chances { seed: 7, restore_fails: 0.0, dies: 1.0, dies_within: Duration::from_millis(50) };
    let (dying, _) = machine.hypervisor(directory.path(), "w", Duration::ZERO, Some(chances)).await.unwrap();
    let restored = dying.restore(&slot(0), &identity(3)).await.unwrap();
    tokio::time::timeout(LONG, dying.exited(&restored.vm)).await.expect("it dies by chance");
    dying.destroy(&slot(0), Some(restored.vm)).await.unwrap();
    let (slow, _) = machine.hypervisor(directory.path(), "x", LONG, None).await.unwrap();
    let (first, second) = (slot(0), identity(3));
    let restore = slow.restore(&first, &second);
    assert!(tokio::time::timeout(Duration::from_millis(200), restore).await.is_err());
    slow.destroy(&slot(0), None).await.unwrap();
    assert_eq!(Left::of(directory.path(), &machine.cgroups), Left::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_processes_survives_what_chance_brings() {
    let Some(machine) = machine() else { return };
    let directory = run_dir().unwrap();
    let chances = Chances { seed: 11, restore_fails: 0.2, dies: 0.2, dies_within: Duration::from_millis(20) };
    let takes = Duration::from_millis(10);
    let (hypervisor, _) = machine.hypervisor(directory.path(), "w", takes, Some(chances)).await.unwrap();
    let runtimes = vec![RuntimeSlots { name: RUNTIME.into(), slots: 3, warm_up: None }];
    let pool = Pool::spawn(Config::new(runtimes), hypervisor, MemoryLeases::new(LeaseKnobs::default()));
    for _ in 0..20 {
        let claim = pool.claim(RUNTIME, Lane::Normal, Instant::now() + LONG).await.unwrap();
        // It may be one that dies while it is asked.
        let _ = claim.session().ping(LONG).await;
    }
    pool.close(Duration::from_secs(5)).await.unwrap();
    drop(pool);
    assert_eq!(Left::within(directory.path(), &machine.cgroups, Duration::from_secs(5)), Left::default());
}
