//! Jobs that are ended without being run, and results that somebody else publishes.

use std::time::Duration;

use hearth_worker::ledger::{Beat, Begun, Commit, DEADLINE_GRACE, Ledger, Registered, Seized, Seizure};

use tokio::time::Instant;

use super::{Backing, TAKEN_OVER_WITHIN, begin, due_in, failed, job};
use crate::wait::{until, until_some};

async fn seize(ledger: &impl Ledger, id: &str) -> Option<Seizure> {
    match ledger.seize(&job("t", id), "reaper").await.unwrap() {
        Seized::Seized(seizure) => Some(*seizure),
        Seized::NotYet => None,
        Seized::Ended => panic!("ended"),
    }
}

/// A job that waited too long gets its one result from the reaper.
pub async fn an_overdue_job_that_waits_is_seized_once_and_ended<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    for (id, due) in [("late", -100), ("later", -50), ("early", 60_000)] {
        one.register(&job("t", id), "digest", &due_in(due)).await.unwrap();
    }
    let token = begin(one, &job("t", "late"), "w").await;
    one.give_back(&token, failed("w", false)).await.unwrap();
    assert_eq!(
        two.overdue(10).await.unwrap(),
        [job("t", "late"), job("t", "later")],
        "the longest overdue first"
    );
    assert_eq!(two.overdue(1).await.unwrap(), [job("t", "late")]);
    assert_eq!(seize(two, "early").await, None);
    let seizure = seize(two, "late").await.unwrap();
    assert!(seizure.overdue && !seizure.cancelled);
    assert_eq!((&seizure.route, &seizure.token.owner[..]), (&due_in(0).route, "reaper"));
    assert_eq!(seizure.history, [failed("w", false)]);
    assert!(seizure.token.number > token.number);
    assert_eq!(seize(one, "late").await, None, "one reaper ends it");
    let delivered = one.begin(&job("t", "late"), "digest", "w").await.unwrap();
    assert!(matches!(delivered, Begun::Held { .. }), "nobody runs it meanwhile");
    assert_eq!(one.running("t").await.unwrap(), 0, "it is not run");
    assert_eq!(two.commit(&seizure.token, "expired".into()).await.unwrap(), Commit::Committed);
    assert_eq!(one.overdue(10).await.unwrap(), [job("t", "later")]);
    assert_eq!(one.seize(&job("t", "late"), "reaper").await.unwrap(), Seized::Ended);
    assert_eq!(one.seize(&job("t", "unknown"), "reaper").await.unwrap(), Seized::Ended);
    let delivered = one.begin(&job("t", "late"), "digest", "w").await.unwrap();
    assert_eq!(delivered, Begun::Committed("expired".into()));
}

/// A job that is sent again when it has its result is not waited for, however late that is.
pub async fn a_resubmission_of_what_has_a_result_is_never_overdue<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    let token = begin(one, &key, "w").await;
    one.commit(&token, "result".into()).await.unwrap();
    for _ in ["committed", "done"] {
        one.register(&key, "digest", &due_in(-50)).await.unwrap();
        one.begin_with(&key, "digest", "w", &due_in(-50)).await.unwrap();
        assert_eq!(two.overdue(10).await.unwrap(), []);
        one.published(&key, "first").await.unwrap();
    }
    one.published(&key, "second").await.unwrap();
    let done = Begun::Done { result: "result".into(), told: "second".into() };
    assert_eq!(two.begin(&key, "digest", "w").await.unwrap(), done, "who was told last");
}

/// An owner that lives ends its job itself, with what it has; one that does not is fenced off.
pub async fn an_overdue_job_that_runs_is_left_to_its_owner_for_a_while<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let grace_ms = i64::try_from(DEADLINE_GRACE.as_millis()).unwrap();
    let key = job("t", "1");
    one.register(&key, "digest", &due_in(500 - grace_ms)).await.unwrap();
    let token = begin(one, &key, "w").await;
    assert_eq!(two.overdue(10).await.unwrap(), std::slice::from_ref(&key));
    assert_eq!(seize(two, "1").await, None, "its owner may end it");
    let seizure = until_some(TAKEN_OVER_WITHIN, "it is seized", async || seize(two, "1").await).await;
    assert_eq!(seizure.history, [], "no attempt failed");
    assert_eq!(one.heartbeat(&token).await.unwrap(), Beat::Lost);
    assert_eq!(one.commit(&token, "late".into()).await.unwrap(), Commit::Lost);
    assert_eq!(two.commit(&seizure.token, "expired".into()).await.unwrap(), Commit::Committed);
}

/// A queued job that is cancelled need not come out of its queue first.
pub async fn a_cancelled_job_that_nobody_runs_can_be_ended_at_once<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    for id in ["waits", "runs"] {
        let registered = one.register(&job("t", id), "digest", &due_in(60_000)).await.unwrap();
        assert_eq!(registered, Registered::Waiting { cancelled: false, shard: 0 });
    }
    let token = begin(one, &job("t", "runs"), "w").await;
    assert_eq!(seize(two, "waits").await, None);
    for id in ["waits", "runs"] {
        two.cancel(&job("t", id)).await.unwrap();
    }
    let seizure = seize(two, "waits").await.unwrap();
    assert!(seizure.cancelled && !seizure.overdue);
    assert_eq!(two.commit(&seizure.token, "cancelled".into()).await.unwrap(), Commit::Committed);
    assert_eq!(seize(two, "runs").await, None, "its owner ends it");
    assert_eq!(one.heartbeat(&token).await.unwrap(), Beat::Cancelled);
}

/// Whoever finds an old committed result publishes it.
pub async fn committed_results_are_listed_until_they_are_published<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    for id in ["a", "b"] {
        let key = job("t", id);
        one.register(&key, "digest", &due_in(60_000)).await.unwrap();
        let token = begin(one, &key, "w").await;
        one.commit(&token, format!("result {id}").into()).await.unwrap();
    }
    assert_eq!(two.unpublished(Duration::from_secs(60), 10).await.unwrap(), [], "their owners will");
    let list = async |at_most| two.unpublished(Duration::ZERO, at_most).await.unwrap();
    let found = list(10).await;
    let results: Vec<_> = found.iter().map(|u| (&u.key.id[..], &u.result[..])).collect();
    assert_eq!(results, [("a", &b"result a"[..]), ("b", b"result b")]);
    assert!(found.iter().all(|u| u.route == due_in(0).route));
    assert_eq!(list(1).await.len(), 1);
    one.published(&job("t", "a"), "r").await.unwrap();
    assert_eq!(list(10).await.len(), 1);
    one.published(&job("t", "b"), "r").await.unwrap();
    assert_eq!(list(10).await, []);
    assert_eq!(
        one.begin(&job("t", "a"), "digest", "w").await.unwrap(),
        Begun::Done { result: "result a".into(), told: "r".into() }
    );
}

/// Whoever leads goes on as long as it asks; another one follows when its lease is over.
pub async fn one_at_a_time_looks_after_jobs_and_another_follows_within_its_lease<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let period = Duration::from_secs(1);
    assert_eq!(one.lead("w", period).await.unwrap(), None);
    for _ in 0..3 {
        assert_eq!(one.lead("w", period).await.unwrap(), None);
        let left = two.lead("x", period).await.unwrap().expect("w leads");
        assert!(left <= period, "{left:?}");
    }
    let last_sign = Instant::now();
    until(TAKEN_OVER_WITHIN, "x follows", async || two.lead("x", period).await.unwrap().is_none()).await;
    assert!(last_sign.elapsed() >= period * 9 / 10);
    assert!(one.lead("w", period).await.unwrap().is_some(), "w is back, and x leads");
}
