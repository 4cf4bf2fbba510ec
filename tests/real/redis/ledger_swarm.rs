//! Many workers, every job delivered to several of them, and a server that fails: each job has one result.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use hearth_pool::redis_server::{RedisConfig, RedisServer};
use hearth_tests::{
    ledger_rules::{failed, job},
    redis::{Line, RealRedis, Weather},
    wait::{until, until_passed},
};
use hearth_worker::ledger::{
    Beat, Begun, Commit, HEARTBEAT_EVERY, JobKey, Ledger, RedisLedger, RedisLedgerConfig, Token,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep_until};

use crate::ledgers::{SETTLE, Shared, settled};

const WORKERS: usize = 6;
const JOBS: usize = 60;
const SPELL: Duration = Duration::from_millis(700);

/// What everybody was told to be the result of each job.
#[derive(Debug, Default)]
struct Results(Mutex<HashMap<JobKey, Bytes>>);

impl Results {
    fn told(&self, key: &JobKey, result: &Bytes) {
        let mut known = self.0.lock().unwrap();
        let first = known.entry(key.clone()).or_insert_with(|| result.clone());
        assert_eq!(first, result, "{key} has two results");
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// One worker: takes deliveries of every job in its own order until each has a result that it has seen.
async fn worker(ledger: RedisLedger, name: usize, results: &Results) {
    let mut dice = StdRng::seed_from_u64(name as u64);
    let mut open: Vec<JobKey> = (0..JOBS).map(|n| job("t", &n.to_string())).collect();
    while !open.is_empty() {
        let at = dice.random_range(0..open.len());
        match ledger.begin(&open[at], "digest", &name.to_string()).await {
            Ok(Begun::Begun { token, .. }) => attempt(&ledger, &token, results, &mut dice).await,
            Ok(Begun::Committed(result)) => {
                results.told(&open[at], &result);
                let _ = ledger.published(&open[at], "r").await;
            }
            Ok(Begun::Done { result, .. }) => {
                results.told(&open[at], &result);
                open.swap_remove(at);
            }
            Ok(Begun::Held { .. }) => sleep_until(Instant::now() + Duration::from_millis(20)).await,
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    }
}

/// Runs a job: mostly well, at times it fails, dies, or comes back from the dead with a late result.
async fn attempt(ledger: &RedisLedger, token: &Token, results: &Results, dice: &mut StdRng) {
    let result = Bytes::from(format!("{} by {}", token.number, token.owner));
    match dice.random_range(0..10) {
        0 => return,
        1 => return drop(ledger.give_back(token, failed(&token.owner, true)).await),
        2 => until_passed(Instant::now() + Duration::from_millis(3300)).await,
        _ => {
            for _ in 0..dice.random_range(0..3) {
                until_passed(Instant::now() + HEARTBEAT_EVERY / 4).await;
                if let Ok(Beat::Lost) = ledger.heartbeat(token).await {
                    return;
                }
            }
        }
    }
    // As long as the answer is not known, the same again.
    for _ in 0..3 {
        match ledger.commit(token, result.clone()).await {
            Ok(Commit::Committed) => return results.told(&token.key, &result),
            Ok(Commit::Lost) => return,
            Err(_) => {}
        }
    }
}

async fn fail(redis: &mut RealRedis, lines: &[Line], round: usize) {
    let spell = Instant::now() + SPELL;
    let some = || lines.iter().skip(round % 2).step_by(2);
    match round % 5 {
        0 => some().for_each(|line| line.set(Weather::AnswersLost)),
        1 => redis.stall(),
        2 => some().for_each(|line| line.set(Weather::Partition)),
        3 => redis.restart().await,
        _ => {
            let mut aside = redis.aside().await;
            redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec_async(&mut aside).await.unwrap();
        }
    }
    until_passed(spell).await;
    redis.go_on();
    lines.iter().for_each(|line| line.set(Weather::Clear));
    until_passed(Instant::now() + SPELL).await;
}

#[tokio::test]
async fn every_job_has_one_result_whatever_fails() {
    let Some(Shared { mut redis, .. }) = settled().await else { return };
    let results = Results::default();
    let mut lines = Vec::new();
    for _ in 0..WORKERS {
        lines.push(Line::to(redis.port()).await);
    }
    let ledger = |line: &Line| {
        let config = RedisConfig {
            response_timeout: Duration::from_millis(250),
            patience: Duration::from_millis(600),
            ..RedisConfig::new(line.url())
        };
        RedisLedger::new(RedisServer::new(config).unwrap(), RedisLedgerConfig::new(SETTLE))
    };
    let workers = join_all(lines.iter().enumerate().map(|(name, line)| worker(ledger(line), name, &results)));
    let faults = async {
        for round in 0..10 {
            fail(&mut redis, &lines, round).await;
        }
        until(Duration::from_secs(30), "every job has a result", async || results.count() == JOBS).await;
    };
    tokio::join!(workers, faults);
    let last = lines[0].url();
    let ledger =
        RedisLedger::new(RedisServer::new(RedisConfig::new(last)).unwrap(), RedisLedgerConfig::new(SETTLE));
    assert_eq!(ledger.unpublished(Duration::ZERO, 10).await.unwrap(), []);
    assert_eq!(ledger.running("t").await.unwrap(), 0);
}
