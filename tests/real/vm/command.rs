//! The `hearth` command with a real VM behind it.

use std::process::Output;

use hearth_schemas::result::{JobResult, Verdict};
use hearth_tests::real::Worker;

use crate::{crash::workspace_example, machine, room};

fn result(output: &Output) -> JobResult {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?} {stderr}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn run_prints_the_result_and_exits_by_its_verdict() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    machine.baked("python").unwrap();
    let run_dir = Worker::run_dir().unwrap();
    let hearth = |arguments: &[&str]| machine.command(run_dir.path()).args(arguments).output().unwrap();

    let hello = hearth(&["run", "--json", &workspace_example("hello.json")]);
    assert_eq!((hello.status.code(), result(&hello).verdict), (Some(0), Some(Verdict::Accepted)));
    let source = run_dir.path().join("fails.py");
    std::fs::write(&source, "raise SystemExit(3)").unwrap();
    let fails = hearth(&["run", source.to_str().unwrap()]);
    assert_eq!((fails.status.code(), result(&fails).stages[0].run.exit_code), (Some(1), Some(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bake_with_nothing_changed_does_nothing() {
    let Some(machine) = machine() else { return };
    machine.baked("python").unwrap();
    let run_dir = Worker::run_dir().unwrap();
    let again = machine.command(run_dir.path()).args(["bake", "python"]).output().unwrap();
    assert!(again.status.success());
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(said.contains("nothing"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_without_a_snapshot_names_the_command_that_bakes_it() {
    let Some(machine) = machine() else { return };
    let run_dir = Worker::run_dir().unwrap();
    let mut command = machine.command(run_dir.path());
    command.env("HEARTH_DATA", run_dir.path().join("data"));
    let output = command.args(["run", &workspace_example("hello.json")]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("hearth bake python"));
}
