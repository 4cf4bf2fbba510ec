//! Attempts: who has a job, who had it, and how many a tenant has.

use hearth_worker::ledger::{
    Beat, Begun, Cancel, Commit, HEARTBEAT_EVERY, HEARTBEAT_LAPSES_AFTER, Ledger, Registered, Registration,
    Token,
};
use tokio::time::Instant;

use super::{Backing, TAKEN_OVER_WITHIN, begin, failed, job, take_over};
use crate::wait::until_some;

/// A worker that dies keeps nobody waiting, and one that was only slow cannot commit.
pub async fn a_silent_owner_is_taken_over_within_5_s_and_can_do_nothing_any_more<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    let first = begin(one, &key, "w").await;
    assert_eq!(one.heartbeat(&first).await.unwrap(), Beat::Ours);
    let last_sign = Instant::now();
    let (second, history) = take_over(two, &key, "x").await;
    assert!(last_sign.elapsed() >= HEARTBEAT_LAPSES_AFTER * 9 / 10, "not before it lapsed");
    assert!(second.number > first.number);
    let [silent] = &history[..] else { panic!("{history:?}") };
    assert_eq!((silent.worker.as_str(), silent.counted), ("w", true));
    assert_eq!(silent.message, "the worker fell silent");
    assert!(silent.failed_unix_ms > 1_600_000_000_000);
    assert_eq!(one.heartbeat(&first).await.unwrap(), Beat::Lost);
    assert_eq!(one.commit(&first, "late".into()).await.unwrap(), Commit::Lost);
    assert_eq!(one.give_back(&first, failed("w", true)).await.unwrap(), Beat::Lost);
    assert_eq!(two.commit(&second, "new".into()).await.unwrap(), Commit::Committed);
    assert_eq!(one.commit(&first, "late".into()).await.unwrap(), Commit::Lost);
    assert_eq!(one.begin(&key, "digest", "w").await.unwrap(), Begun::Committed("new".into()));
}

/// Whoever speaks keeps its jobs; a batch is answered in order.
pub async fn heartbeats_hold_jobs_and_are_answered_in_order<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let (a, b) = (begin(one, &job("t", "a"), "w").await, begin(one, &job("u", "b"), "w").await);
    assert_eq!(one.cancel(&b.key).await.unwrap(), Cancel::Marked);
    let stale = Token { number: a.number - 1, ..a.clone() };
    let unknown = Token { key: job("t", "unknown"), ..a.clone() };
    let batch = [b.clone(), stale, a.clone(), unknown];
    let enough = Instant::now() + HEARTBEAT_LAPSES_AFTER * 3 / 2;
    let mut next = Instant::now();
    let speak = async || {
        if Instant::now() >= next {
            next += HEARTBEAT_EVERY;
            let beats = one.heartbeats(&batch).await.unwrap();
            assert_eq!(beats, [Beat::Cancelled, Beat::Lost, Beat::Ours, Beat::Lost]);
        }
        assert!(matches!(two.begin(&a.key, "digest", "x").await.unwrap(), Begun::Held { .. }));
        assert_eq!(two.running("t").await.unwrap(), 1);
        (Instant::now() > enough).then_some(())
    };
    until_some(enough + TAKEN_OVER_WITHIN - Instant::now(), "the time is over", speak).await;
    assert_eq!(one.heartbeats(&[]).await.unwrap(), []);
}

/// An attempt that failed gives the job back with its record, and a lost answer adds no second one.
pub async fn a_failure_of_ours_is_noted_once_and_the_next_attempt_begins_at_once<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    let first = begin(one, &key, "w").await;
    let record = failed("w", false);
    assert_eq!(one.give_back(&first, record.clone()).await.unwrap(), Beat::Ours);
    assert_eq!(one.give_back(&first, record.clone()).await.unwrap(), Beat::Ours);
    assert_eq!(one.heartbeat(&first).await.unwrap(), Beat::Lost);
    assert_eq!(one.commit(&first, "late".into()).await.unwrap(), Commit::Lost);
    assert_eq!(one.running("t").await.unwrap(), 0);
    let Begun::Begun { token, history, .. } = two.begin(&key, "digest", "x").await.unwrap() else { panic!() };
    assert_eq!(history, std::slice::from_ref(&record));
    assert_eq!(one.give_back(&first, record.clone()).await.unwrap(), Beat::Lost);
    assert_eq!(two.give_back(&token, failed("x", true)).await.unwrap(), Beat::Ours);
    let Begun::Begun { history, .. } = one.begin(&key, "digest", "w").await.unwrap() else { panic!() };
    assert_eq!(history, [record, failed("x", true)]);
}

/// A running job's owner learns of a cancel, and so does whoever comes next.
pub async fn a_cancel_is_seen_by_the_owner_and_by_the_next_begin<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    let token = begin(one, &key, "w").await;
    assert_eq!(two.cancel(&key).await.unwrap(), Cancel::Marked);
    assert_eq!(two.cancel(&key).await.unwrap(), Cancel::Marked);
    assert_eq!(one.heartbeat(&token).await.unwrap(), Beat::Cancelled);
    assert_eq!(one.give_back(&token, failed("w", false)).await.unwrap(), Beat::Cancelled);
    let again = two.begin(&key, "digest", "x").await.unwrap();
    assert!(matches!(again, Begun::Begun { cancelled: true, .. }), "{again:?}");
}

/// A cancel is kept for a job that nobody knows yet, and changes no result.
pub async fn a_cancel_may_come_before_the_job_and_may_be_too_late<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    assert_eq!(one.cancel(&key).await.unwrap(), Cancel::Marked);
    let registered = two.register(&key, "digest", &Registration::default()).await.unwrap();
    assert_eq!(registered, Registered::Waiting { cancelled: true, shard: 0 });
    let Begun::Begun { token, cancelled: true, .. } = two.begin(&key, "digest", "w").await.unwrap() else {
        panic!("the cancel was forgotten")
    };
    assert_eq!(two.commit(&token, "cancelled".into()).await.unwrap(), Commit::Committed);
    assert_eq!(one.cancel(&key).await.unwrap(), Cancel::TooLate);
    two.published(&key, "r").await.unwrap();
    assert_eq!(one.cancel(&key).await.unwrap(), Cancel::TooLate);
}
