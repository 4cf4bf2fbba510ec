//! Stages with cases, over fakes and under a paused clock.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may")]

mod rig;

use std::time::Duration;

use hearth_pool::fakes::{Asked, Ran};
use hearth_schemas::{
    guest::messages::LimitHit,
    result::{Cause, StageReport, Status, Verdict},
};
use hearth_worker::ledger::{JobKey, Ledger};
use rig::Rig;
use serde_json::{Value, json};

/// Does what the last argument says, with its stdin.
fn program(asked: &Asked) -> Ran {
    let stdin = asked.stdin.clone();
    match asked.exec.argv.last().unwrap().as_str() {
        "fail" => Ran { exit_code: 3, ..Ran::prints(stdin) },
        "hog" => Ran { limit_hit: Some(LimitHit::Memory), ..Ran::prints(stdin) },
        "sleep" => Ran { takes: Duration::from_secs(2), ..Ran::prints(stdin) },
        "fresh" => Ran::prints(if asked.exec.fresh { "fresh" } else { "the tree itself" }),
        "missing" => Ran { exec_fault: Some("not found".into()), ..Ran::default() },
        "long" => Ran::prints("x".repeat(100_000)),
        _ => Ran::prints(stdin),
    }
}

fn verdicts(stage: &StageReport) -> Vec<(Verdict, Option<Cause>)> {
    stage.cases.iter().map(|case| (case.run.verdict, case.run.cause)).collect()
}

fn job(cases: Value, stop_on_failure: bool) -> Value {
    json!({"id": "j", "runtime": "python", "stages": [
        {"name": "run", "argv": ["./a"], "stdin": "own", "cases": cases, "stop_on_failure": stop_on_failure},
        {"name": "after", "argv": ["fresh"]},
    ]})
}

#[tokio::test(start_paused = true)]
async fn every_case_has_its_verdict_and_the_stage_that_of_the_first_bad_one() {
    let mut rig = Rig::new(1, program);
    rig.serve();
    let cases = json!([
        {"name": "own", "expect": {"stdout": "own"}},
        {"name": "wrong", "stdin": "1 2\n", "expect": {"stdout": "1 3\n", "match": "tokens"}},
        {"name": "close", "stdin": "1.001", "expect": {"stdout": "1", "match": {"float": {"abs": 0.01}}}},
        {"name": "fails", "argv_extra": ["fail"], "expect": {"stdout": "not this"}},
        {"name": "hogs", "argv_extra": ["hog"], "expect": {"stdout": "not this"}},
        {"name": "missing", "argv_extra": ["missing"]},
        {"name": "fresh", "argv_extra": ["fresh"], "expect": {"stdout": "fresh\n", "match": "trim"}},
        {"name": "exit", "stdin": "whatever", "expect": {"match": "none"}},
    ]);
    let result = rig.submit(job(cases, false)).await;
    let stage = &result.stages[0];
    assert_eq!(
        verdicts(stage),
        [
            (Verdict::Accepted, None),
            (Verdict::WrongAnswer, Some(Cause::Mismatch)),
            (Verdict::Accepted, None),
            (Verdict::NonzeroExit, None),
            (Verdict::MemoryLimit, Some(Cause::Oom)),
            (Verdict::FileError, Some(Cause::Exec)),
            (Verdict::Accepted, None),
            (Verdict::Accepted, None),
        ]
    );
    let why = "line 1, token 2: expected \"3\", got \"2\"";
    assert_eq!(stage.cases[1].run.message.as_deref(), Some(why));
    assert_eq!((result.verdict, stage.run.verdict), (Some(Verdict::WrongAnswer), Verdict::WrongAnswer));
    assert_eq!(stage.run.message, Some(format!("case `wrong`: {why}")));
    assert_eq!(stage.run.usage.unwrap().user_ms.as_micros(), 7 * 1000, "of the seven that ran");
    assert_eq!(result.stages[1].run.verdict, Verdict::Skipped);
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn stop_on_failure_skips_the_rest_and_a_stage_with_cases_may_be_gone_over() {
    let mut rig = Rig::new(1, program);
    rig.serve();
    let cases = json!([
        {"name": "1", "expect": {"stdout": "own"}},
        {"name": "2", "expect": {"stdout": "other"}},
        {"name": "3", "expect": {"stdout": "own"}},
    ]);
    let mut request = job(cases, true);
    request["stages"][0]["continue_on_failure"] = true.into();
    let result = rig.submit(request).await;
    let skipped = (Verdict::Skipped, Some(Cause::EarlierFailure));
    let wrong = (Verdict::WrongAnswer, Some(Cause::Mismatch));
    assert_eq!(verdicts(&result.stages[0]), [(Verdict::Accepted, None), wrong, skipped]);
    assert_eq!(result.stages[1].run.stdout.content.decode().unwrap(), b"the tree itself");
    assert_eq!(rig.runs(), 3, "two cases and the stage after");
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_keeps_the_cases_that_ran_and_names_the_others() {
    let mut rig = Rig::new(1, program);
    rig.serve();
    let cases = json!([
        {"name": "wrong", "expect": {"stdout": "other"}},
        {"name": "ran", "stdin": "partial", "argv_extra": ["sleep"]},
        {"name": "never"},
    ]);
    let key = JobKey { tenant: "default".into(), id: "j".into() };
    let (result, ()) = tokio::join!(rig.submit(job(cases, false)), async {
        rig.running().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.service.ledger.cancel(&key).await.unwrap();
    });
    assert_eq!(result.status, Status::Cancelled);
    let cancelled = Some(Cause::Cancelled);
    assert_eq!(
        verdicts(&result.stages[0]),
        [
            (Verdict::WrongAnswer, Some(Cause::Mismatch)),
            (Verdict::Signalled, cancelled),
            (Verdict::Skipped, cancelled)
        ]
    );
    assert_eq!(result.stages[0].cases[1].run.stdout.content.decode().unwrap(), b"partial");
    assert_eq!((result.stages[1].run.verdict, result.stages[1].run.cause), (Verdict::Skipped, cancelled));
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_long_outputs_are_compared_whole_and_make_a_small_result() {
    let mut rig = Rig::new(1, program);
    rig.serve();
    let expected = format!("{}\n", "x".repeat(100_000));
    let case = |n: usize, stdout: &str| json!({"name": n.to_string(), "argv_extra": ["long"], "expect": {"stdout": stdout, "match": "trim"}});
    let cases: Vec<Value> = (0..100).map(|n| case(n, if n == 99 { "x" } else { &expected })).collect();
    let result = rig.submit(job(cases.into(), false)).await;
    let stage = &result.stages[0];
    assert_eq!(
        stage.run.message.as_deref().map(|why| why.starts_with("case `99`: line 1, column 2")),
        Some(true)
    );
    assert!(stage.cases[..99].iter().all(|case| case.run.verdict == Verdict::Accepted));
    let kept = &stage.cases[0].run.stdout;
    assert_eq!((kept.bytes, kept.truncated_bytes), (100_000, 100_000 - 2 * 5242));
    assert!(serde_json::to_vec(&result).unwrap().len() < 2 << 20);
    rig.check().await;
}
