//! Live events of whole jobs, over fakes and under a paused clock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod rig;

use std::time::Duration;

use hearth_pool::{fakes::Ran, hypervisor::RestoreError};
use hearth_schemas::{
    event::{Event, LiveBy, OutputStream, State, What},
    result::{Status, Verdict},
};
use hearth_worker::live::Events;
use rig::Rig;
use serde_json::{Value, json};

fn job(stream: bool) -> Value {
    let stage = |name: &str| json!({"name": name, "argv": [name]});
    json!({"id": "j", "runtime": "python", "stages": [stage("a"), stage("b")], "stream": stream})
}

async fn all(mut events: Events) -> Vec<Event> {
    let mut all = Vec::new();
    while let Some(event) = events.next().await {
        all.push(event);
    }
    assert!(all.iter().zip(1..).all(|(event, seq)| event.seq == seq), "{all:#?}");
    all
}

fn states(events: &[Event]) -> Vec<State> {
    let state = |event: &Event| match &event.what {
        What::State(state) => Some(state.clone()),
        _ => None,
    };
    events.iter().filter_map(state).collect()
}

#[tokio::test(start_paused = true)]
async fn a_job_that_asks_is_told_of_in_order_and_another_is_not() {
    let mut rig =
        Rig::new(1, |asked| Ran { stderr: "err".into(), ..Ran::prints(asked.exec.argv[0].clone()) });
    rig.serve();
    rig.submit(job(false)).await;
    assert!(rig.watched.lock().unwrap().is_empty());
    rig.submit(json!({"id": "k", "runtime": "python", "code": "1", "stream": true, "outputs": ["x"]})).await;
    let watched = rig.watched.lock().unwrap().pop().unwrap();
    rig.check().await;
    let events = all(watched).await;
    let stage = || "run".to_owned();
    let expected = [
        State::Started { worker: "w1".into() },
        State::Claimed { live: LiveBy::Result },
        State::Uploading,
        State::StageStarted { stage: stage() },
        State::StageEnded { stage: stage(), verdict: Verdict::Accepted, cause: None },
        State::Downloading,
        State::Finished { status: Status::Finished, verdict: Some(Verdict::Accepted) },
    ];
    assert_eq!(states(&events), expected);
    let output: Vec<_> = events.iter().filter(|event| !matches!(event.what, What::State(_))).collect();
    assert_eq!(output.len(), 2);
    assert!(output.iter().all(|event| (5..=6).contains(&event.seq)), "between start and end of the stage");
    assert!(events.iter().all(|event| (event.id.as_str(), event.attempt) == ("k", 1)));
}

#[tokio::test(start_paused = true)]
async fn output_is_there_before_the_job_is_over() {
    let takes = Duration::from_secs(5);
    let mut rig = Rig::new(1, move |_| Ran { takes, ..Ran::prints("early") });
    rig.serve();
    let (result, seen) = tokio::join!(rig.submit(job(true)), async {
        rig.running().await;
        let mut events = rig.watched.lock().unwrap().pop().unwrap();
        loop {
            let event = events.next().await.expect("the job runs");
            if let What::Stdout(chunk) = event.what {
                assert!(rig.published().is_empty(), "the result is there already");
                return chunk;
            }
        }
    });
    assert_eq!((seen.stage.as_str(), seen.content.decode().unwrap()), ("a", b"early".to_vec()));
    assert_eq!(result.verdict, Some(Verdict::Accepted));
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_reads_nothing_holds_nothing_up_and_misses_what_is_marked() {
    let large = vec![b'y'; 30 << 20];
    let mut rig = Rig::new(1, move |_| Ran::prints(large.clone()));
    rig.serve();
    let result = rig.submit(job(true)).await;
    assert_eq!(result.verdict, Some(Verdict::Accepted));
    let watched = rig.watched.lock().unwrap().pop().unwrap();
    rig.check().await;
    let (mut shown, mut dropped) = (0, 0);
    let events = all(watched).await;
    for event in &events {
        match &event.what {
            What::Stdout(chunk) => shown += chunk.content.decode().unwrap().len() as u64,
            What::Dropped(mark) => {
                assert_eq!(mark.stream, OutputStream::Stdout);
                dropped += mark.bytes;
            }
            _ => {}
        }
    }
    assert!(shown <= 1 << 20 && dropped > 0, "{shown} {dropped}");
    assert_eq!(shown + dropped, 2 * (30 << 20));
    assert_eq!(states(&events).len(), 3 + 2 * 2 + 1, "states are never left out");
}

#[tokio::test(start_paused = true)]
async fn a_retry_says_so_by_its_attempt() {
    let mut rig = Rig::new(1, |_| Ran::prints("x"));
    rig.hypervisor.set(|knobs| knobs.fail_restores.push_back(RestoreError::Snapshot("stale".into())));
    rig.serve();
    let result = rig.submit(job(true)).await;
    assert_eq!(result.attempt, 1, "the first reached no VM");
    let watched = std::mem::take(&mut *rig.watched.lock().unwrap());
    rig.check().await;
    let attempts = u32::try_from(watched.len()).unwrap();
    assert!(attempts >= 2);
    for (events, attempt) in watched.into_iter().zip(1..) {
        let events = all(events).await;
        assert!(events.iter().all(|event| event.attempt == attempt), "{events:#?}");
        let states = states(&events);
        assert!(matches!(states[0], State::Started { .. }), "{events:#?}");
        match states.last().unwrap() {
            State::AttemptFailed { .. } => assert!(attempt < attempts),
            State::Finished { .. } => assert_eq!(attempt, attempts),
            other => panic!("{other:?}"),
        }
    }
}

/// What is told of a stage with cases, a word for each event.
async fn of_cases(rig: &mut Rig, id: &str, stream_cases: bool) -> Vec<String> {
    let case = |name: &str, stdin: &str| json!({"name": name, "stdin": stdin, "expect": {"stdout": "1"}});
    let cases = [case("a", "1"), case("b", "2"), case("c", "1")];
    let stage = json!({"name": "run", "argv": ["run"], "cases": cases, "stop_on_failure": true, "stream_cases": stream_cases});
    let job = json!({"id": id, "runtime": "python", "stages": [stage], "stream": true});
    let result = rig.submit(job).await;
    assert_eq!(result.verdict, Some(Verdict::WrongAnswer), "{result:#?}");
    let watched = rig.watched.lock().unwrap().pop().unwrap();
    let word = |event: Event| match event.what {
        What::State(State::StageStarted { stage }) => format!("+{stage}"),
        What::State(State::StageEnded { stage, verdict, .. }) => format!("-{stage} {}", verdict.as_str()),
        What::State(State::CaseStarted { stage, case }) => format!("+{stage}/{case}"),
        What::State(State::CaseEnded { stage, case, verdict, .. }) => {
            format!("-{stage}/{case} {}", verdict.as_str())
        }
        What::Stdout(chunk) => {
            let text = String::from_utf8(chunk.content.decode().unwrap()).unwrap();
            format!("{}/{} {text}", chunk.stage, chunk.case.unwrap())
        }
        other => other.kind().to_owned(),
    };
    all(watched).await.into_iter().skip(3).map(word).collect()
}

#[tokio::test(start_paused = true)]
async fn cases_are_told_of_one_by_one_and_what_they_print_where_the_stage_asks() {
    let mut rig = Rig::new(1, |asked| Ran::prints(asked.stdin.clone()));
    rig.serve();
    let (one, two) = (["+run", "+run/a"], ["-run/a accepted", "+run/b"]);
    let end = ["-run/b wrong_answer", "-run wrong_answer", "state"];
    assert_eq!(of_cases(&mut rig, "j", false).await, [&one[..], &two, &end].concat());
    assert_eq!(
        of_cases(&mut rig, "k", true).await,
        [&one[..], &["run/a 1"], &two, &["run/b 2"], &end].concat()
    );
    let again = rig.submit(json!({"id": "l", "runtime": "python", "stages": [{"name": "a", "argv": ["a"], "stream_cases": true}]}));
    let refusal = again.await.refusal.unwrap();
    assert_eq!(refusal.field.as_deref(), Some("stages[0].stream_cases"));
    rig.check().await;
}
