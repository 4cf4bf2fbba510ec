//! The ledger in Redis keeps the rules of all ledgers, and those of its own.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hearth_tests::{
    ledger_rules::{Backing, begin, due_in, job},
    redis::RealRedis,
    wait::until,
};
use hearth_worker::ledger::{Beat, Begun, Commit, Ledger, RedisLedger, RedisLedgerConfig};

/// How long new data waits in these tests.
pub const SETTLE: Duration = Duration::from_secs(1);

pub struct Shared {
    pub redis: RealRedis,
    pub ledgers: [RedisLedger; 2],
}

impl Backing for Shared {
    type Ledger = RedisLedger;

    fn ledgers(&self) -> [&RedisLedger; 2] {
        self.ledgers.each_ref()
    }
}

pub fn ledger(redis: &RealRedis) -> RedisLedger {
    RedisLedger::new(redis.server(), RedisLedgerConfig::new(SETTLE))
}

/// A server whose data may be trusted although it is new, and the ledgers of two workers.
pub async fn settled() -> Option<Shared> {
    let redis = RealRedis::start().await?;
    redis.server().trust_new_data().await.unwrap();
    let ledgers = [ledger(&redis), ledger(&redis)];
    Some(Shared { redis, ledgers })
}

mod rules {
    use super::settled;

    hearth_tests::ledger_rules!(settled());
}

async fn keys(redis: &RealRedis) -> Vec<String> {
    redis::cmd("KEYS").arg("*").query_async(&mut redis.aside().await).await.unwrap()
}

#[tokio::test]
async fn a_result_is_forgotten_in_time_and_leaves_nothing() {
    let Some(Shared { redis, .. }) = settled().await else { return };
    let config =
        RedisLedgerConfig { result_ttl: Duration::from_millis(300), ..RedisLedgerConfig::new(SETTLE) };
    let ledger = RedisLedger::new(redis.server(), config);
    let key = job("t", "1");
    ledger.register(&key, "digest", &due_in(60_000)).await.unwrap();
    let token = begin(&ledger, &key, "w").await;
    ledger.commit(&token, "r".into()).await.unwrap();
    ledger.published(&key, "r").await.unwrap();
    assert_eq!(
        ledger.begin(&key, "digest", "w").await.unwrap(),
        Begun::Done { result: "r".into(), told: "r".into() }
    );
    let empty = async || keys(&redis).await == ["hearth:epoch"];
    until(Duration::from_secs(5), "nothing is left", empty).await;
    assert!(matches!(ledger.begin(&key, "another", "w").await.unwrap(), Begun::Begun { .. }));
}

#[tokio::test]
async fn nothing_is_kept_for_ever_but_results_that_nobody_has_seen() {
    let Some(Shared { redis, ledgers: [ledger, _] }) = settled().await else { return };
    ledger.cancel(&job("t", "cancelled")).await.unwrap();
    ledger.register(&job("t", "waits"), "digest", &due_in(60_000)).await.unwrap();
    begin(&ledger, &job("t", "runs"), "w").await;
    let committed = begin(&ledger, &job("t", "committed"), "w").await;
    ledger.commit(&committed, "r".into()).await.unwrap();
    let mut aside = redis.aside().await;
    for (id, kept_for_ever) in [("cancelled", false), ("waits", false), ("runs", false), ("committed", true)]
    {
        let ttl: i64 =
            redis::cmd("TTL").arg(format!("hearth:job:t/{id}")).query_async(&mut aside).await.unwrap();
        assert_eq!(ttl == -1, kept_for_ever, "{id}: {ttl}");
    }
}

#[tokio::test]
async fn a_large_result_is_marked_and_kept_whole() {
    let Some(Shared { redis, ledgers: [ledger, other] }) = settled().await else { return };
    let large = Bytes::from((0..1 << 20).map(|n| (n % 251) as u8).collect::<Vec<u8>>());
    for (id, result) in [("large", large.clone()), ("small", large.slice(..64 * 1024))] {
        let token = begin(&ledger, &job("t", id), "w").await;
        assert_eq!(ledger.commit(&token, result.clone()).await.unwrap(), Commit::Committed);
        assert_eq!(other.begin(&job("t", id), "digest", "x").await.unwrap(), Begun::Committed(result));
    }
    let mark = async |id: &str| {
        let mut get = redis::cmd("HGET");
        get.arg(format!("hearth:job:t/{id}")).arg("large");
        get.query_async::<Option<usize>>(&mut redis.aside().await).await.unwrap()
    };
    assert_eq!((mark("large").await, mark("small").await), (Some(1 << 20), None));
}

#[tokio::test]
async fn many_large_results_are_listed_in_batches() {
    let Some(Shared { redis: _redis, ledgers: [ledger, _] }) = settled().await else { return };
    let large = Bytes::from(vec![7; 3 << 20]);
    for n in 0..5 {
        let token = begin(&ledger, &job("t", &n.to_string()), "w").await;
        ledger.commit(&token, large.clone()).await.unwrap();
    }
    let mut seen = Vec::new();
    loop {
        let batch = ledger.unpublished(Duration::ZERO, 100).await.unwrap();
        if batch.is_empty() {
            break;
        }
        assert!(batch.len() <= 2, "8 MiB at most");
        for unpublished in batch {
            ledger.published(&unpublished.key, "r").await.unwrap();
            seen.push(unpublished.key.id);
        }
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn heartbeats_cost_the_same_however_many_jobs_there_are() {
    const JOBS: usize = 500;
    let Some(Shared { redis, ledgers: [ledger, _] }) = settled().await else { return };
    let mut tokens = Vec::new();
    for n in 0..JOBS {
        tokens.push(begin(&ledger, &job("t", &n.to_string()), "w").await);
    }
    ledger.heartbeat(&tokens[0]).await.unwrap();
    let mut aside = redis.aside().await;
    let mut commands = async || {
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut aside).await.unwrap();
        let calls =
            |l: &str| l.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse::<u64>().ok();
        stats.lines().find_map(calls).unwrap()
    };
    let before = commands().await;
    let beats = join_all(tokens.iter().map(|token| ledger.heartbeat(token))).await;
    assert!(beats.into_iter().all(|beat| beat.unwrap() == Beat::Ours));
    let cost = commands().await - before;
    assert!(cost <= 3, "{cost} commands for {JOBS} heartbeats at once");
}

#[tokio::test]
async fn a_tenant_that_could_be_taken_for_another_is_refused() {
    let Some(Shared { redis: _redis, ledgers: [ledger, _] }) = settled().await else { return };
    assert!(ledger.begin(&job("a/b", "c"), "digest", "w").await.is_err());
    begin(&ledger, &job("a", "b/c"), "w").await;
    assert_eq!(ledger.overdue(1).await.unwrap(), []);
}
