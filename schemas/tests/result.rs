//! The result as clients see it.

#![allow(clippy::unwrap_used, reason = "a test may")]

use hearth_schemas::result::{
    Attempt, Capture, Cause, InfraError, JobResult, Millis, OutputContent, OutputFile, Refusal, RefusalCode,
    RunReport, SkippedOutput, SkippedReason, StageReport, Status, Step, Timings, UsageReport, Verdict,
};
use serde_json::{Value, json};

fn finished() -> JobResult {
    let mut stdout = Capture::new(4, 4);
    stdout.push(b"0123456789");
    let run = RunReport {
        exit_code: Some(1),
        stdout: stdout.finish(),
        usage: Some(UsageReport {
            wall_ms: Millis::from_micros(12_345),
            memory_peak_bytes: Some(4096),
            ..UsageReport::default()
        }),
        ..RunReport::not_run(Verdict::NonzeroExit, None)
    };
    let skipped = RunReport::not_run(Verdict::Skipped, Some(Cause::EarlierFailure));
    let mut result = JobResult::new("j1", "t", "gcc", Status::Finished);
    result.verdict = Some(Verdict::NonzeroExit);
    result.stages = vec![
        StageReport { name: "compile".into(), run, cases: vec![] },
        StageReport { name: "run".into(), run: skipped, cases: vec![] },
    ];
    result.outputs = vec![OutputFile {
        path: "a.txt".into(),
        mode: "0644".into(),
        size_bytes: 1,
        sha256: "00".repeat(32),
        content: OutputContent::Text("x".into()),
    }];
    result.skipped_outputs = vec![SkippedOutput {
        path: "l".into(),
        reason: SkippedReason::NotRegular,
        size_bytes: None,
        message: None,
    }];
    result.missing_outputs = vec!["*.png".into()];
    result.timings = Timings { run_ms: Some(Millis::from_micros(13_000)), ..Timings::default() };
    result.attempt = 1;
    result
}

fn failed() -> JobResult {
    let mut result = JobResult::new("j1", "t", "gcc", Status::InfraError);
    let attempt = Attempt {
        attempt: 1,
        worker: "w1".into(),
        step: Step::Upload,
        message: "the agent is gone".into(),
        failed_unix_ms: 1,
        took_ms: Millis::from_micros(1),
    };
    result.infra_error = Some(InfraError { message: "the agent is gone".into(), attempts: vec![attempt] });
    result
}

fn refused() -> JobResult {
    let mut result = JobResult::new("j1", "t", "", Status::Refused);
    result.refusal = Some(Refusal::new(RefusalCode::Invalid, "limits.wall_ms", "0 is …"));
    result
}

#[test]
fn a_result_reads_as_it_should() {
    let json = serde_json::to_value(finished()).unwrap();
    let expected = json!({
        "version": 1, "id": "j1", "tenant": "t", "runtime": "gcc", "status": "finished", "verdict": "nonzero_exit",
        "stages": [
            {"name": "compile", "verdict": "nonzero_exit", "exit_code": 1,
             "stdout": {"text": "0123", "tail": {"text": "6789"}, "bytes": 10, "truncated_bytes": 2},
             "stderr": {"text": "", "bytes": 0, "truncated_bytes": 0},
             "usage": {"wall_ms": 12.345, "user_ms": 0.0, "system_ms": 0.0, "memory_peak_bytes": 4096}},
            {"name": "run", "verdict": "skipped", "cause": "earlier_failure",
             "stdout": {"text": "", "bytes": 0, "truncated_bytes": 0},
             "stderr": {"text": "", "bytes": 0, "truncated_bytes": 0}}],
        "outputs": [{"path": "a.txt", "mode": "0644", "size_bytes": 1, "sha256": "00".repeat(32), "text": "x"}],
        "missing_outputs": ["*.png"],
        "skipped_outputs": [{"path": "l", "reason": "not_regular"}],
        "timings": {"run_ms": 13.0}, "attempt": 1,
    });
    assert_eq!(json, expected);
}

#[test]
fn a_result_survives_json_and_fits_its_schema() {
    let schemas = hearth_schemas::json_schemas();
    let (_, schema) = schemas.iter().find(|(name, _)| *name == "result").unwrap();
    let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    for result in [finished(), failed(), refused()] {
        let json = serde_json::to_value(&result).unwrap();
        assert_eq!(schema.validate(&json).map_err(|error| error.to_string()), Ok(()));
        assert_eq!(serde_json::from_value::<JobResult>(json).unwrap(), result);
    }
}

#[test]
fn clients_ignore_what_is_added_later() {
    let mut json = serde_json::to_value(finished()).unwrap();
    json.as_object_mut().unwrap().insert("added_later".into(), Value::Null);
    assert_eq!(serde_json::from_value::<JobResult>(json).unwrap(), finished());
}
