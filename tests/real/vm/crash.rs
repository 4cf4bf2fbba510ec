//! Nothing is left of a worker that dies, however it dies.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use hearth_tests::real::{Leftovers, Machine, Worker};
use rustix::process::{Pid, Signal, kill_process};

use crate::{machine, room};

/// What DESIGN promises: the guard ends a dead worker's VMs in this time, without any restart.
const GUARD_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Starts `hearth run` with a job that runs for long, and returns when the job does.
fn running_job(machine: &Machine, run_dir: &Path) -> Child {
    let mut command = machine.command(run_dir);
    command.args(["-v", "run", "-"]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(br#"{"runtime": "python", "code": "import time; time.sleep(300)", "limits": {"wall_ms": 300000}}"#).unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let running = lines.any(|line| line.unwrap().contains("running"));
    assert!(running, "the job never ran");
    // Keep the pipe open and read: a full one would stop the worker.
    std::thread::spawn(move || lines.for_each(drop));
    assert!(!Leftovers::of(run_dir).processes.is_empty(), "a VM is there to be killed");
    child
}

fn cids(run_dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(run_dir.join("cid")).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_worker_leaves_nothing_and_the_next_takes_the_same_cids() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    machine.baked("python").unwrap();
    let run_dir = Worker::run_dir().unwrap();
    let mut worker = running_job(machine, run_dir.path());
    let before = cids(run_dir.path());
    worker.kill().unwrap();
    worker.wait().unwrap();
    let left = Leftovers::within(run_dir.path(), GUARD_ENDS_WITHIN);
    assert_eq!(left, Leftovers::default(), "after {GUARD_ENDS_WITHIN:?}");

    let mut again = machine.command(run_dir.path());
    let hello = workspace_example("hello.json");
    let output = again.args(["run", &hello]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(cids(run_dir.path()), before, "the second worker took the same CIDs");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_nothing() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    machine.baked("python").unwrap();
    let run_dir = Worker::run_dir().unwrap();
    let mut worker = running_job(machine, run_dir.path());
    kill_process(Pid::from_child(&worker), Signal::INT).unwrap();
    assert_eq!(worker.wait().unwrap().code(), Some(130));
    assert_eq!(Leftovers::of(run_dir.path()), Leftovers::default(), "at the moment of its exit");
}

pub fn workspace_example(name: &str) -> String {
    hearth_tests::workspace().join("schemas/examples").join(name).to_string_lossy().into_owned()
}
