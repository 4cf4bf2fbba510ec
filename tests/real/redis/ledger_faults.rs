//! The ledger when Redis fails.

use std::time::Duration;

use bytes::Bytes;
use hearth_pool::redis_server::{RedisConfig, RedisServer};
use hearth_tests::{
    ledger_rules::{TAKEN_OVER_WITHIN, begin, due_in, failed, job},
    redis::{Line, Weather},
    wait::{until, until_passed, until_some},
};
use hearth_worker::ledger::{
    Beat, Begun, Commit, JobKey, Ledger, RedisLedger, RedisLedgerConfig, Seized, Token,
};
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::ledgers::{SETTLE, Shared, ledger, settled};

async fn field(aside: &mut MultiplexedConnection, id: &str, field: &str) -> Option<String> {
    redis::cmd("HGET").arg(format!("hearth:job:t/{id}")).arg(field).query_async(aside).await.unwrap()
}

/// Does something while answers get lost, until it has been done; returns the answer that comes after all.
async fn with_lost_answers<T>(
    line: &Line,
    what: impl Future<Output = T>,
    done: impl AsyncFnMut() -> bool,
) -> T {
    line.set(Weather::AnswersLost);
    let clear = async {
        until(Duration::from_secs(5), "the script ran", done).await;
        line.set(Weather::Clear);
    };
    tokio::join!(what, clear).0
}

#[tokio::test]
async fn a_question_whose_answer_is_lost_is_answered_once() {
    let Some(Shared { redis, .. }) = settled().await else { return };
    let line = Line::to(redis.port()).await;
    let config = RedisConfig { response_timeout: Duration::from_millis(300), ..RedisConfig::new(line.url()) };
    let ledger = RedisLedger::new(RedisServer::new(config).unwrap(), RedisLedgerConfig::new(SETTLE));
    // The server learns every script first, or the lost answer would be that it does not know it.
    let warm = begin(&ledger, &job("t", "warm"), "w").await;
    ledger.give_back(&warm, failed("w", true)).await.unwrap();
    let warm = begin(&ledger, &job("t", "warm"), "w").await;
    ledger.commit(&warm, "r".into()).await.unwrap();

    let mut aside = redis.aside().await;
    let key = job("t", "1");
    let held = async || field(&mut aside, "1", "phase").await.as_deref() == Some("held");
    let begun = with_lost_answers(&line, ledger.begin(&key, "digest", "w"), held).await.unwrap();
    let Begun::Begun { token, history, .. } = begun else { panic!("{begun:?}") };
    assert_eq!(history, [], "the second try found the first, and no attempt that failed");

    let free = async || field(&mut aside, "1", "phase").await.as_deref() == Some("free");
    let given = with_lost_answers(&line, ledger.give_back(&token, failed("w", true)), free).await.unwrap();
    assert_eq!(given, Beat::Ours);
    let Begun::Begun { token, history, .. } = ledger.begin(&key, "digest", "w").await.unwrap() else {
        panic!()
    };
    assert_eq!(history, [failed("w", true)], "noted once");

    let committed = async || field(&mut aside, "1", "phase").await.as_deref() == Some("committed");
    let commit = with_lost_answers(&line, ledger.commit(&token, "r".into()), committed).await.unwrap();
    assert_eq!(commit, Commit::Committed);
}

#[tokio::test]
async fn a_restart_with_the_data_forgets_nothing() {
    let Some(Shared { mut redis, ledgers: [one, two] }) = settled().await else { return };
    let (held, committed, done) = (job("t", "held"), job("t", "committed"), job("t", "done"));
    one.register(&held, "digest", &due_in(-1)).await.unwrap();
    let token = begin(&one, &held, "w").await;
    for key in [&committed, &done] {
        let token = begin(&one, key, "w").await;
        one.commit(&token, "r".into()).await.unwrap();
    }
    one.published(&done, "r").await.unwrap();
    redis.restart().await;
    assert_eq!(one.heartbeat(&token).await.unwrap(), Beat::Ours);
    assert!(matches!(two.begin(&held, "digest", "x").await.unwrap(), Begun::Held { .. }));
    assert_eq!(two.begin(&committed, "digest", "x").await.unwrap(), Begun::Committed("r".into()));
    assert_eq!(
        two.begin(&done, "digest", "x").await.unwrap(),
        Begun::Done { result: "r".into(), told: "r".into() }
    );
    assert_eq!(two.overdue(10).await.unwrap(), [held]);
    assert_eq!(two.unpublished(Duration::ZERO, 10).await.unwrap().len(), 1);
}

/// Begins a job as soon as somebody may.
async fn when_begun(ledger: &RedisLedger, key: &JobKey) -> Token {
    let begin = async || match ledger.begin(key, "digest", "x").await.unwrap() {
        Begun::Begun { token, .. } => Some(token),
        Begun::Held { .. } => None,
        other => panic!("{other:?}"),
    };
    until_some(SETTLE + TAKEN_OVER_WITHIN, "the job is begun", begin).await
}

#[tokio::test]
async fn new_data_begins_nothing_until_owners_have_registered_again() {
    let Some(Shared { mut redis, ledgers: [one, two] }) = settled().await else { return };
    let (beats, commits, silent) = (job("t", "beats"), job("t", "commits"), job("t", "silent"));
    let beating = begin(&one, &beats, "w").await;
    let committing = begin(&one, &commits, "w").await;
    let silenced = begin(&one, &silent, "w").await;
    redis.restart_without_data().await;
    let lost = Instant::now();
    assert!(
        matches!(two.begin(&beats, "digest", "x").await.unwrap(), Begun::Held { .. }),
        "somebody may hold it"
    );
    assert_eq!(two.seize(&beats, "reaper").await.unwrap(), Seized::NotYet);
    assert_eq!(one.heartbeat(&beating).await.unwrap(), Beat::Ours, "registered again");
    assert_eq!(one.running("t").await.unwrap(), 1);
    let early = one.commit(&committing, "r".into()).await.unwrap();
    assert_eq!(early, Commit::Committed, "its result is not thrown away");
    assert_eq!(two.begin(&commits, "digest", "x").await.unwrap(), Begun::Committed("r".into()));
    assert_eq!(
        two.begin(&commits, "other", "x").await.unwrap(),
        Begun::Conflict,
        "the digest came with the token"
    );
    let fresh = when_begun(&two, &silent).await;
    assert!(lost.elapsed() >= SETTLE * 9 / 10);
    assert!(fresh.number > silenced.number, "tokens grow by the clock");
    assert_eq!(one.heartbeat(&silenced).await.unwrap(), Beat::Lost);
    assert_eq!(one.commit(&silenced, "late".into()).await.unwrap(), Commit::Lost);
    assert_eq!(one.heartbeat(&beating).await.unwrap(), Beat::Ours);
    assert_eq!(one.commit(&beating, "r".into()).await.unwrap(), Commit::Committed);
    let unknown = Token { key: job("t", "unknown"), ..beating };
    assert_eq!(one.commit(&unknown, "late".into()).await.unwrap(), Commit::Lost, "it is not new any more");
}

/// How long the server is stalled.
const STALL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn after_a_stall_of_10_s_one_of_two_owners_commits() {
    let Some(Shared { redis, ledgers: [one, two] }) = settled().await else { return };
    let key = job("t", "1");
    let first = begin(&one, &key, "w").await;
    redis.stall();
    let stalled = Instant::now();
    assert!(one.heartbeat(&first).await.is_err(), "told in bounded time");
    until_passed(stalled + STALL).await;
    // Whoever comes first after the stall.
    let (beat, taken, ()) =
        tokio::join!(one.heartbeat(&first), when_begun(&two, &key), async { redis.go_on() });
    let beat = beat.unwrap();
    let results = [
        (one.commit(&first, "first".into()).await.unwrap(), "first"),
        (two.commit(&taken, "second".into()).await.unwrap(), "second"),
    ];
    let won: Vec<_> = results.iter().filter(|(c, _)| *c == Commit::Committed).map(|(_, r)| *r).collect();
    assert_eq!(won, ["second"], "the heartbeat said {beat:?}");
    assert_eq!(
        ledger(&redis).begin(&key, "digest", "x").await.unwrap(),
        Begun::Committed(Bytes::from("second"))
    );
}
