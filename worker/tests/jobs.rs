//! Whole jobs through a worker, over fakes and under a paused clock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod rig;

use std::{sync::atomic::Ordering, time::Duration};

use hearth_pool::fakes::{Faults, Ran};
use hearth_schemas::{
    guest::messages::LimitHit,
    result::{Cause, RefusalCode, Status, Verdict},
};
use hearth_worker::{
    handle::{Handled, handle},
    ledger::{Cancel, JobKey, Ledger},
    seams::{Delivery, Properties, Receipt, Settled, Settlement},
};
use rig::Rig;
use serde_json::json;

fn argv(asked: &hearth_pool::fakes::Asked) -> Vec<&str> {
    asked.exec.argv.iter().map(String::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn files_go_in_stages_run_in_order_and_outputs_come_out() {
    let mut rig = Rig::new(1, |asked| match argv(asked)[0] {
        "cc" => Ran { files: [("main".to_owned(), asked.files["main.c"].clone())].into(), ..Ran::default() },
        _ => Ran::prints(asked.stdin.clone()),
    });
    rig.serve();
    let result = rig
        .submit(json!({
            "id": "j", "runtime": "python", "metadata": {"k": 1},
            "files": [{"path": "main.c", "text": "int main;"}],
            "stages": [
                {"name": "compile", "argv": ["cc"]},
                {"name": "run", "argv": ["./main"], "stdin": "42"},
            ],
            "outputs": ["main", "nothing*"],
        }))
        .await;
    assert_eq!((result.status, result.verdict), (Status::Finished, Some(Verdict::Accepted)));
    assert_eq!(result.stages[1].run.stdout.content.decode().unwrap(), b"42");
    assert_eq!((result.outputs.len(), result.outputs[0].path.as_str()), (1, "main"));
    assert_eq!(result.missing_outputs, ["nothing*"]);
    assert_eq!((result.attempt, result.worker.as_deref()), (1, Some("w1")));
    assert_eq!(result.metadata["k"], 1);
    assert!(result.snapshot.is_some() && result.timings.wake_ms.is_some() && result.timings.run_ms.is_some());
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_stage_that_is_not_accepted_ends_the_job_unless_it_may_go_on() {
    let mut rig = Rig::new(1, |asked| Ran { exit_code: argv(asked)[0].parse().unwrap(), ..Ran::default() });
    rig.serve();
    let stages = |go_on: bool| {
        json!({"runtime": "python", "stages": [
            {"name": "a", "argv": ["0"]},
            {"name": "b", "argv": ["3"], "continue_on_failure": go_on},
            {"name": "c", "argv": ["0"]},
        ]})
    };
    let ended = rig.submit(stages(false)).await;
    assert_eq!((ended.verdict, ended.stages[1].run.exit_code), (Some(Verdict::NonzeroExit), Some(3)));
    assert_eq!(ended.stages[2].run.verdict, Verdict::Skipped);
    assert_eq!(ended.stages[2].run.cause, Some(Cause::EarlierFailure));
    let went_on = rig.submit(stages(true)).await;
    assert_eq!(
        (went_on.verdict, went_on.stages[2].run.verdict),
        (Some(Verdict::NonzeroExit), Verdict::Accepted)
    );
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_and_a_missing_command_are_results_not_faults() {
    let mut rig = Rig::new(1, |asked| match argv(asked)[0] {
        "hog" => Ran { limit_hit: Some(LimitHit::Memory), ..Ran::default() },
        _ => Ran { exec_fault: Some("nope: not found".into()), ..Ran::default() },
    });
    rig.serve();
    let run = |command: &str| json!({"runtime": "python", "stages": [{"name": "s", "argv": [command]}]});
    let hog = rig.submit(run("hog")).await;
    assert_eq!((hog.verdict, hog.cause), (Some(Verdict::MemoryLimit), Some(Cause::Oom)));
    let missing = rig.submit(run("nope")).await;
    assert_eq!((missing.verdict, missing.cause), (Some(Verdict::FileError), Some(Cause::Exec)));
    assert!(missing.stages[0].run.message.as_deref().unwrap().contains("not found"));
    assert_eq!(rig.runs(), 2, "neither was tried again");
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_takes_no_vm_and_names_the_field() {
    let mut rig = Rig::new(1, |_| Ran::default());
    rig.serve();
    let refused = rig.submit(json!({"runtime": "cobol", "code": "x"})).await;
    assert_eq!(refused.status, Status::Refused);
    assert_eq!(refused.refusal.unwrap().field.as_deref(), Some("runtime"));
    assert_eq!(rig.runs(), 0);
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_resubmission_gets_the_stored_result_and_another_request_a_conflict() {
    let mut rig = Rig::new(1, |_| Ran::prints("once"));
    rig.serve();
    let job = json!({"id": "same", "runtime": "python", "code": "x"});
    let first = rig.submit(job.clone()).await;
    let again = rig.submit(job).await;
    assert_eq!((rig.runs(), &first), (1, &again));
    let other = rig.submit(json!({"id": "same", "runtime": "python", "code": "y"})).await;
    assert_eq!(other.refusal.unwrap().code, RefusalCode::IdConflict);
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_dies_running_the_job_is_tried_once() {
    let mut rig = Rig::new(1, |_| Ran { crash: true, ..Ran::default() });
    rig.serve();
    let result = rig.submit(json!({"runtime": "python", "code": "x"})).await;
    assert_eq!((result.status, rig.runs()), (Status::InfraError, 1));
    assert_eq!(result.infra_error.unwrap().attempts.len(), 1);
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_a_running_job_and_keeps_its_output() {
    let mut rig = Rig::new(1, |_| Ran { takes: Duration::from_secs(3), ..Ran::prints("partial") });
    rig.serve();
    let job = json!({"id": "j", "runtime": "python", "code": "x"});
    let key = JobKey { tenant: "default".into(), id: "j".into() };
    let (result, cancel) = tokio::join!(rig.submit(job), async {
        rig.running().await;
        rig.service.ledger.cancel(&key).await.unwrap()
    });
    assert_eq!((cancel, result.status), (Cancel::Marked, Status::Cancelled));
    assert_eq!(result.stages[0].run.stdout.content.decode().unwrap(), b"partial");
    assert_eq!(result.stages[0].run.cause, Some(Cause::Cancelled));
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_job_that_waits_and_one_that_runs() {
    let mut rig = Rig::new(1, |_| Ran { takes: Duration::from_secs(8), ..Ran::default() });
    rig.serve();
    let job = |id: &str, deadline: u64| json!({"id": id, "runtime": "python", "code": "x", "deadline_ms": deadline});
    let (running, waiting) = tokio::join!(rig.submit(job("a", 4000)), async {
        rig.running().await;
        rig.submit(job("b", 1000)).await
    });
    assert_eq!((running.status, waiting.status), (Status::Expired, Status::Expired));
    assert_eq!(waiting.stages[0].run.verdict, Verdict::Skipped);
    assert_eq!((running.attempt, waiting.attempt), (1, 0), "the second reached no VM");
    rig.check().await;
}

/// A receipt that looks at what the sink has confirmed when it is spent.
struct Witness(std::sync::Arc<std::sync::Mutex<Vec<&'static str>>>);

impl Receipt for Witness {
    fn executed(&mut self) {
        self.0.lock().unwrap().push("executed");
    }

    async fn settle(self, settlement: Settlement) -> Settled {
        assert_eq!(settlement, Settlement::Ack);
        self.0.lock().unwrap().push("ack");
        Settled::Taken
    }
}

#[tokio::test(start_paused = true)]
async fn publish_is_confirmed_before_ack() {
    let mut rig = Rig::new(1, |_| Ran::default());
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = order.clone();
    rig.service.sink.on_confirm(move || heard.lock().unwrap().push("confirmed"));
    rig.service.sink.lose_confirms.store(2, Ordering::SeqCst);
    let delivery = Delivery {
        body: serde_json::to_vec(&json!({"runtime": "python", "code": "x"})).unwrap().into(),
        properties: Properties { reply_to: Some("nobody".into()), ..Properties::default() },
        receipt: Witness(order.clone()),
    };
    assert_eq!(handle(&rig.service, delivery).await, Handled::Settled(Settled::Taken));
    // Others may have the job's place before its result is out; two confirms were lost and repeated before.
    assert_eq!(*order.lock().unwrap(), ["executed", "confirmed", "ack"]);
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_is_committed_before_it_is_published() {
    let mut rig = Rig::new(1, |_| Ran::default());
    rig.service.ledger.lose_commit_answers.store(100, Ordering::SeqCst);
    rig.serve();
    let job = rig.submit(json!({"id": "j", "runtime": "python", "code": "x"}));
    let (result, published) = tokio::join!(job, async {
        rig.running().await;
        // While no commit is answered nothing goes out, though the code has long run.
        tokio::time::sleep(Duration::from_millis(600)).await;
        rig.published().len()
    });
    assert_eq!((result.verdict, published), (Some(Verdict::Accepted), 0));
    rig.check().await; // and what was published was in the ledger before
}

/// Seeded faults everywhere: every job still has exactly one result, nothing leaks, no identity is shared.
#[tokio::test(start_paused = true)]
async fn every_receipt_is_settled_exactly_once() {
    let seed = option_env!("SEED").and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    let mut rig = Rig::new(6, |asked| match asked.exec.argv.last().map(String::as_str) {
        Some("slow") => Ran { takes: Duration::from_secs(5), ..Ran::prints("slow") },
        _ => Ran::prints("quick"),
    });
    rig.hypervisor.set(|knobs| knobs.faults = Some(Faults::new(seed, 0.05)));
    rig.service.ledger.lose_commit_answers.store(10, Ordering::SeqCst);
    rig.service.sink.lose_confirms.store(10, Ordering::SeqCst);
    rig.serve();
    let jobs = (0..300).map(|n| {
        let kind = if n % 3 == 0 { "slow" } else { "quick" };
        rig.submit(json!({"id": format!("j{n}"), "runtime": "python", "deadline_ms": 3_600_000,
            "stages": [{"name": "run", "argv": [kind]}]}))
    });
    let results = futures_util::future::join_all(jobs).await;
    let mut statuses = std::collections::BTreeMap::<&str, usize>::new();
    for result in &results {
        *statuses.entry(result.status.as_str()).or_default() += 1;
        match result.status {
            Status::Finished => assert_eq!(result.verdict, Some(Verdict::Accepted)),
            Status::InfraError => assert!(!result.infra_error.as_ref().unwrap().attempts.is_empty()),
            other => panic!("seed {seed}: {other}"),
        }
    }
    assert!(statuses["finished"] > 250, "seed {seed}: {statuses:?}");
    let mut by_id = std::collections::BTreeMap::<String, bytes::Bytes>::new();
    for body in rig.published() {
        let id =
            serde_json::from_slice::<serde_json::Value>(&body).unwrap()["id"].as_str().unwrap().to_owned();
        let first = by_id.entry(id).or_insert_with(|| body.clone());
        assert_eq!(*first, body, "seed {seed}: two different results for one job");
    }
    assert_eq!(by_id.len(), 300);
    rig.hypervisor.set(|knobs| knobs.faults = None);
    rig.check().await;
}
