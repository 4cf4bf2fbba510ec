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
async fn run_shows_what_a_job_prints_when_it_is_followed() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    machine.baked("python").unwrap();
    let run_dir = Worker::run_dir().unwrap();
    let source = run_dir.path().join("prints.py");
    std::fs::write(&source, "import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)").unwrap();
    let hearth =
        |arguments: &[&str]| machine.command(run_dir.path()).args(arguments).arg(&source).output().unwrap();
    let followed = hearth(&["run", "--follow"]);
    assert_eq!((followed.status.code(), result(&followed).verdict), (Some(0), Some(Verdict::Accepted)));
    let stderr = String::from_utf8_lossy(&followed.stderr);
    for line in ["[hearth] has a VM\n", "to stdout\n", "to stderr\n", "[hearth] finished, accepted\n"] {
        assert!(stderr.contains(line), "{line}: {stderr}");
    }
    let json = hearth(&["run", "--follow", "--json"]);
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&json.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, events) = lines.split_last().unwrap();
    assert_eq!((last["verdict"].as_str(), json.stderr.len()), (Some("accepted"), 0));
    let schema = hearth_schemas::json_schemas().into_iter().find(|(name, _)| *name == "event").unwrap().1;
    let schema = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    for (event, seq) in events.iter().zip(1_u64..) {
        assert!(schema.is_valid(event) && event["seq"] == seq, "{event:#}");
    }
}

/// Many jobs without a broker: each in a VM of its own, one refused, one there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_runs_some_at_a_time_and_goes_on_where_it_stopped() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    machine.baked("python").unwrap();
    let run_dir = Worker::run_dir().unwrap();
    let out = run_dir.path().join("results");
    let out = out.to_str().unwrap();
    let job = |n: usize| {
        format!(
            "{{\"id\":\"j{n}\",\"runtime\":\"python\",\"code\":\"print({n})\",\"limits\":{{\"wall_ms\":60000}}}}\n"
        )
    };
    let mut lines: String = (0..4).map(job).collect();
    lines += "{\"runtime\":\"cobol\",\"code\":\"x\"}\n";
    lines += &job(2);
    let file = run_dir.path().join("jobs");
    std::fs::write(&file, &lines).unwrap();
    let batch = |more: &[&str]| {
        let all =
            [&["run", "--batch", file.to_str().unwrap(), "--parallel", "2", "--out", out], more].concat();
        machine.command(run_dir.path()).args(all).output().unwrap()
    };
    let first = batch(&["--ordered"]);
    assert_eq!(first.status.code(), Some(1), "one is refused: {first:?}");
    let written = std::fs::read_to_string(out).unwrap();
    let results: Vec<JobResult> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 5, "{written}");
    for (n, result) in results.iter().take(4).enumerate() {
        let printed = result.stages[0].run.stdout.content.decode().unwrap();
        assert_eq!((result.id.as_str(), printed), (format!("j{n}").as_str(), format!("{n}\n").into_bytes()));
    }
    assert_eq!(results[4].status.as_str(), "refused");
    assert!(String::from_utf8_lossy(&first.stderr).contains("5 results"), "{first:?}");
    // The last two are gone, one of them half.
    let kept: String = written.lines().take(3).map(|line| format!("{line}\n")).collect();
    std::fs::write(out, kept + &written.lines().nth(3).unwrap()[..20]).unwrap();
    let again = batch(&["--resume"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let written = std::fs::read_to_string(out).unwrap();
    let ids: std::collections::BTreeSet<String> =
        written.lines().map(|line| serde_json::from_str::<JobResult>(line).unwrap().id).collect();
    assert_eq!((ids.len(), written.lines().count()), (5, 5));
    assert!(String::from_utf8_lossy(&again.stderr).contains("2 results"), "{again:?}");
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
