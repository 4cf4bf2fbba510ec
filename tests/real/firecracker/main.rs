//! The `hearth` command on a host with KVM and Firecracker. Run by `make test-firecracker`; anywhere else these say that they
//! were skipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may"
)]

mod worker;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use hearth_schemas::result::{Cause, JobResult, OutputContent, Verdict};
use hearth_tests::real::{Leftovers, Worker};
use serde_json::json;
use tempfile::TempDir;

/// Generous: everything inside the rig is emulated.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// A machine with Firecracker, and a run directory of its own for each test.
struct Rig {
    hearth: PathBuf,
    data: PathBuf,
    agent: PathBuf,
    jailer: bool,
    run_dir: TempDir,
}

impl Rig {
    /// `None`, said aloud, where there is no Firecracker or no KVM for it. The first bakes.
    fn start() -> Option<Self> {
        let named = |name: &str| env::var_os(name).map(PathBuf::from);
        if named("HEARTH_RIG_FIRECRACKER").is_none() {
            println!("SKIPPED: needs Firecracker and KVM; `make test-firecracker` runs it");
            return None;
        }
        let rig = Self {
            hearth: named("HEARTH_BIN").unwrap(),
            data: named("HEARTH_RIG_DATA").unwrap(),
            agent: named("HEARTH_AGENT").unwrap(),
            jailer: named("HEARTH_RIG_JAILER").is_some(),
            run_dir: Worker::run_dir().unwrap(),
        };
        // By name: under emulation on a busy machine a guest may need longer than a proof of KVM may take. The other commands
        // choose by themselves.
        let baked = rig.command(&["bake", "bash", "--hypervisor", "firecracker"]).output().unwrap();
        assert!(baked.status.success(), "{}", String::from_utf8_lossy(&baked.stderr));
        Some(rig)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.hearth);
        command.args(arguments).env("HEARTH_DATA", &self.data).env("HEARTH_RUN", self.run_dir.path());
        command.env("HEARTH_AGENT", &self.agent).stdin(Stdio::null());
        let insecure: Vec<&str> =
            [("no-jailer", !self.jailer), ("no-seccomp", env::var_os("HEARTH_RIG_NO_SECCOMP").is_some())]
                .into_iter()
                .filter_map(|(what, without)| without.then_some(what))
                .collect();
        if !insecure.is_empty() {
            command.env("HEARTH_INSECURE", insecure.join(","));
        }
        command
    }

    /// Runs a job of the runtime `bash`, which nothing outlives.
    fn run(&self, job: &serde_json::Value) -> JobResult {
        let path = self.run_dir.path().join("job.json");
        std::fs::write(&path, serde_json::to_vec(job).unwrap()).unwrap();
        let output = self.command(&["run", "--json", path.to_str().unwrap()]).output().unwrap();
        std::fs::remove_file(path).unwrap();
        self.nothing_is_left();
        result(&output)
    }

    fn nothing_is_left(&self) {
        assert_eq!(Leftovers::within(self.run_dir.path(), GONE_WITHIN), Leftovers::default());
        assert_eq!(jails(&self.data), Vec::<PathBuf>::new());
    }
}

fn jails(data: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(data.join("firecracker/jails")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn result(output: &Output) -> JobResult {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?} {stderr}"))
}

#[test]
fn the_doctor_says_that_firecracker_runs_the_jobs() {
    let Some(rig) = Rig::start() else { return };
    let output = rig.command(&["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let hypervisor = findings.iter().find(|finding| finding["name"] == "hypervisor").unwrap();
    let detail = hypervisor["detail"].as_str().unwrap();
    assert!(detail.starts_with("firecracker"), "{detail}");
    assert_eq!(rig.jailer, !detail.contains("insecure"), "{detail}");
    assert!(report["jobs_can_run"].as_bool().unwrap(), "{findings:#?}");
}

#[test]
fn a_job_runs_with_its_files_both_ways() {
    let Some(rig) = Rig::start() else { return };
    let result = rig.run(&json!({
        "runtime": "bash",
        "files": [{"path": "in.bin", "base64": "AAECA/8="}, {"path": "deep/in.txt", "text": "hello"}],
        "stages": [{"name": "run", "argv": ["sh", "-c", "cat deep/in.txt; cp in.bin out.bin"]}],
        "outputs": ["out.bin"]
    }));
    assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:?}");
    assert!(result.snapshot.is_some());
    assert_eq!(result.outputs[0].content, OutputContent::Base64("AAECA/8=".to_owned()));
}

#[test]
fn limits_hold_and_give_their_verdicts() {
    let Some(rig) = Rig::start() else { return };
    let stage = |name: &str, script: &str, limits: serde_json::Value| json!({"name": name, "argv": ["bash", "-c", script], "limits": limits, "continue_on_failure": true});
    let result = rig.run(&json!({
        "runtime": "bash",
        "stages": [
            stage("wall", "exec sleep 600", json!({"wall_ms": 15000})),
            stage("cpu", "while :; do :; done", json!({"cpu_ms": 700, "wall_ms": 60000})),
            stage("memory", "exec tail /dev/zero", json!({"memory_mib": 32, "wall_ms": 60000})),
            stage("processes", "f() { f | f & }; f; sleep 600", json!({"processes": 16, "wall_ms": 60000})),
            stage("output", "while :; do echo aaaaaaaaaaaaaaaa; done", json!({"output_kib": 64, "wall_ms": 60000})),
            stage("exit", "exit 7", json!({})),
        ]
    }));
    let seen: Vec<_> = result.stages.iter().map(|stage| (stage.run.verdict, stage.run.cause)).collect();
    assert_eq!(
        seen,
        [
            (Verdict::TimeLimit, Some(Cause::Idle)),
            (Verdict::TimeLimit, Some(Cause::Cpu)),
            (Verdict::MemoryLimit, Some(Cause::Oom)),
            (Verdict::ProcessLimit, Some(Cause::Pids)),
            (Verdict::OutputLimit, Some(Cause::Stdout)),
            (Verdict::NonzeroExit, None),
        ],
        "{result:?}"
    );
}

/// Whoever does without a jail is told so, by every command that makes VMs.
#[test]
fn without_its_jailer_firecracker_runs_only_where_that_was_asked_for_and_says_so() {
    let Some(rig) = Rig::start() else { return };
    let path = rig.run_dir.path().join("job.json");
    std::fs::write(&path, r#"{"runtime": "bash", "code": "echo hello"}"#).unwrap();
    let insecure = std::env::var("HEARTH_RIG_NO_SECCOMP").map_or("no-jailer", |_| "no-jailer,no-seccomp");
    let run =
        rig.command(&["run", "--json", path.to_str().unwrap()]).env("HEARTH_INSECURE", insecure).output();
    let run = run.unwrap();
    assert_eq!(result(&run).verdict, Some(Verdict::Accepted));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("insecure: Firecracker runs without its jailer"), "{said}");
    let doctor = rig.command(&["doctor"]).env("HEARTH_INSECURE", insecure).output().unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains("insecure: without its jailer"), "{said}");
    std::fs::remove_file(path).unwrap();
    rig.nothing_is_left();
    if rig.jailer {
        let run = rig.command(&["doctor"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&run.stdout).contains("insecure"));
    }
}

#[test]
fn a_killed_run_leaves_nothing() {
    let Some(rig) = Rig::start() else { return };
    let path = rig.run_dir.path().join("job.json");
    let job = json!({"runtime": "bash", "stages": [{"name": "run", "argv": ["sleep", "600"]}]});
    std::fs::write(&path, serde_json::to_vec(&job).unwrap()).unwrap();
    let mut run = rig.command(&["run", path.to_str().unwrap()]).spawn().unwrap();
    while jails(&rig.data).is_empty() {
        assert!(run.try_wait().unwrap().is_none(), "it ended before it had a VM");
        std::thread::yield_now();
    }
    run.kill().unwrap();
    run.wait().unwrap();
    std::fs::remove_file(path).unwrap();
    rig.nothing_is_left();
}

#[test]
fn qemu_is_used_where_it_is_asked_for_or_said_to_be_missing() {
    let Some(rig) = Rig::start() else { return };
    let output = rig.command(&["--hypervisor", "qemu", "run", "missing.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(66), "the job's file comes first: {output:?}");
    let output = rig.command(&["--hypervisor", "qemu", "bake", "bash"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("qemu-system-x86_64 not found"), "{said}");
}
