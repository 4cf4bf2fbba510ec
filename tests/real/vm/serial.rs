//! Jobs whose VM is reached over its serial port, and what becomes of jobs whose way to the VM ends.

use std::{fs, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hearth_schemas::{
    event::{Event, LiveBy, State, What},
    result::{Cause, JobResult, OutputContent, Status, Verdict},
};
use hearth_tests::{
    real::{Leftovers, Machine, Worker},
    wait::until_some,
    workspace,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{machine, only, room, stdout};

/// The machine with the runtime `bash` under other names, whose agents are reached in other ways.
fn with_ports(machine: &Machine) -> (Machine, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let bash = fs::read_to_string(workspace().join("deploy/runtimes/bash.toml")).unwrap();
    for (name, transport) in [("port", "serial"), ("either", "vsock_or_serial")] {
        let named = format!("name = \"{name}\"\ntransport = \"{transport}\"");
        let text = bash.replace("name = \"bash\"", &named);
        assert_ne!(text, bash);
        fs::write(directory.path().join(format!("{name}.toml")), text).unwrap();
    }
    (Machine { runtimes: Some(directory.path().into()), ..machine.clone() }, directory)
}

async fn with_worker(runtime: &str, test: impl AsyncFnOnce(&Worker)) {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    let (machine, _directory) = with_ports(machine);
    let worker = Worker::open(&machine, &[(runtime, 1)]).await.unwrap();
    test(&worker).await;
    worker.close().await.unwrap();
}

async fn sh(worker: &Worker, script: &str, limits: Value) -> JobResult {
    let stages = json!([{"name": "run", "argv": ["bash", "-c", script], "limits": limits}]);
    let result = worker.run(&json!({"runtime": "port", "stages": stages})).await.unwrap();
    assert_eq!(
        (result.status, result.transport.as_deref()),
        (Status::Finished, Some("serial")),
        "{result:#?}"
    );
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_over_a_serial_port_with_files_both_ways_and_limits_that_hold() {
    with_worker("port", async |worker| {
        let hello = sh(worker, "echo hello", json!({})).await;
        assert_eq!((hello.verdict, stdout(only(&hello))), (Some(Verdict::Accepted), "hello\n".to_owned()));

        // Every byte, and more of them than any buffer on the way holds.
        let mut bytes = vec![0_u8; 300_000];
        rand::fill(&mut bytes[..]);
        let encoded = STANDARD.encode(&bytes);
        let job = json!({
            "runtime": "port",
            "files": [{"path": "in.bin", "base64": encoded}],
            "stages": [{"name": "run", "argv": ["sh", "-c", "wc -c < in.bin; cat in.bin in.bin > out.bin"]}],
            "limits": {"wall_ms": 120_000},
            "outputs": ["out.bin"]
        });
        let copied = worker.run(&job).await.unwrap();
        assert_eq!(
            (copied.verdict, copied.transport.as_deref()),
            (Some(Verdict::Accepted), Some("serial")),
            "{copied:#?}"
        );
        assert_eq!(stdout(only(&copied)), "300000\n");
        let OutputContent::Base64(out) = &copied.outputs[0].content else { panic!("{:?}", copied.outputs) };
        assert!(*out == STANDARD.encode([&bytes[..], &bytes[..]].concat()));

        for (script, limits, verdict, cause) in [
            ("exec sleep 600", json!({"wall_ms": 5000}), Verdict::TimeLimit, Cause::Idle),
            (
                "exec tail /dev/zero",
                json!({"memory_mib": 32, "wall_ms": 60_000}),
                Verdict::MemoryLimit,
                Cause::Oom,
            ),
            ("yes", json!({"output_kib": 256, "wall_ms": 60_000}), Verdict::OutputLimit, Cause::Stdout),
            (
                "f() { f | f & }; f; sleep 600",
                json!({"processes": 16, "wall_ms": 60_000}),
                Verdict::ProcessLimit,
                Cause::Pids,
            ),
        ] {
            let result = sh(worker, script, limits).await;
            assert_eq!((result.verdict, result.cause), (Some(verdict), Some(cause)), "{script}: {result:#?}");
        }
    })
    .await;
}

/// Runs a job that is watched, and kills what `victim` is in the command line of once the job runs.
async fn killed_once(worker: &Worker, runtime: &str, victim: &str) -> (JobResult, Vec<Event>) {
    let script = "echo begun; sleep 4; echo done";
    let job = json!({"id": "killed", "runtime": runtime, "stream": true, "limits": {"wall_ms": 60_000},
                     "stages": [{"name": "run", "argv": ["bash", "-c", script]}]});
    let (result, events) = tokio::join!(worker.run(&job), async {
        let begins = async || worker.watched();
        let mut events = until_some(Duration::from_secs(120), "the attempt begins", begins).await;
        let mut all = Vec::new();
        while !all.iter().any(|event: &Event| matches!(event.what, What::Stdout(_))) {
            all.push(events.next().await.unwrap());
        }
        let processes = Leftovers::of(worker.path()).processes;
        let process = processes.iter().find(|process| process.contains(victim)).expect("it runs");
        let pid = process.trim_start_matches("/proc/").split(':').next().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        all
    });
    (result.unwrap(), events)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_killed_in_the_middle_of_a_job_over_its_serial_port_is_lost_like_any_other() {
    with_worker("port", async |worker| {
        let (result, events) = killed_once(worker, "port", "qemu-system").await;
        assert_eq!((result.status, result.attempt), (Status::InfraError, 1), "{result:#?}");
        let by_result =
            |event: &Event| matches!(event.what, What::State(State::Claimed { live: LiveBy::Result }));
        assert!(events.iter().any(by_result), "a serial port has no second connection: {events:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vsock_that_dies_in_the_middle_of_a_job_costs_an_attempt_and_is_not_replaced_by_the_serial_port() {
    with_worker("either", async |worker| {
        let (result, _) = killed_once(worker, "either", "vhost-device-vsock").await;
        assert_eq!((result.verdict, result.attempt), (Some(Verdict::Accepted), 2), "{result:#?}");
        assert_eq!(result.transport.as_deref(), Some("vhost_user_vsock"));
    })
    .await;
}
