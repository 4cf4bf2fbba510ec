//! Many holders, few identities, and a server that fails in every way: nobody ever shares.

use std::time::Duration;

use hearth_pool::{
    lease::{Identity, Lease, LeaseError, LeaseStore, Renewal, redis::RedisLeases},
    redis_server::{RedisConfig, RedisServer},
};
use hearth_tests::{
    beliefs::Beliefs,
    lease_rules::{SLACK, TTL},
    redis::{Line, RealRedis, Weather},
    wait::{until, until_passed},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep_until};

use crate::leases::{GRACE, Shared, config, settled};

const HOLDERS: usize = 8;
const IDENTITIES: u32 = 5;
/// How long one fault and the calm after it take: some leases outlast either, some do not.
const SPELL: Duration = Duration::from_millis(1200);
const ROUNDS: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Stall,
    PartitionOfSome,
    AnswersLost,
    Restart,
    RestartWithoutData,
    ConnectionsKilled,
}

const FAULTS: [Fault; 6] = [
    Fault::Stall,
    Fault::PartitionOfSome,
    Fault::AnswersLost,
    Fault::Restart,
    Fault::RestartWithoutData,
    Fault::ConnectionsKilled,
];

/// Ends whoever waits for the faults to end.
type Over = tokio::sync::watch::Receiver<bool>;

async fn holder(store: RedisLeases, beliefs: &Beliefs, name: usize, over: Over) -> u64 {
    let mut dice = StdRng::seed_from_u64(name as u64);
    let mut served = 0;
    let mut request = 0;
    while !*over.borrow() {
        match store.acquire(&format!("{name} {request}")).await {
            Ok(lease) => {
                beliefs.given(&lease);
                serve(&store, beliefs, lease, &mut dice).await;
                served += 1;
                request += 1;
            }
            Err(LeaseError::Exhausted { .. } | LeaseError::Settling { .. }) => {
                sleep_until(Instant::now() + Duration::from_millis(dice.random_range(5..40))).await;
            }
            Err(LeaseError::Unavailable { .. }) => {}
        }
    }
    served
}

/// Uses a lease for a while: renews it as long as that works, then gives it back or, now and then, is silent.
async fn serve(store: &RedisLeases, beliefs: &Beliefs, lease: Lease, dice: &mut StdRng) {
    let Lease { identity, mut expires } = lease;
    let silent = dice.random_bool(0.2);
    for _ in 0..dice.random_range(0..5) {
        until_passed(expires - TTL * 2 / 3).await;
        match renewed(store, &identity).await {
            Some(Renewal::Until(later)) => {
                expires = later;
                beliefs.renewed(&identity, later);
            }
            Some(Renewal::Lost) => return beliefs.stopped(&identity),
            None => {}
        }
    }
    if silent {
        return until_passed(expires).await;
    }
    beliefs.stopped(&identity);
    let _ = store.release(&identity).await;
}

/// `None` when nobody answers in time.
async fn renewed(store: &RedisLeases, identity: &Identity) -> Option<Renewal> {
    store.renew(&[*identity]).await.ok().map(|answers| answers[0])
}

async fn fail(redis: &mut RealRedis, lines: &[Line], fault: Fault, dice: &mut StdRng) {
    let spell = Instant::now() + SPELL;
    match fault {
        Fault::Stall => {
            redis.stall();
            until_passed(spell).await;
            redis.go_on();
        }
        Fault::PartitionOfSome | Fault::AnswersLost => {
            let weather = match fault {
                Fault::AnswersLost => Weather::AnswersLost,
                _ => Weather::Partition,
            };
            lines.iter().filter(|_| dice.random_bool(0.5)).for_each(|line| line.set(weather));
            until_passed(spell).await;
            lines.iter().for_each(|line| line.set(Weather::Clear));
        }
        Fault::Restart => redis.restart().await,
        Fault::RestartWithoutData => redis.restart_without_data().await,
        Fault::ConnectionsKilled => {
            let mut aside = redis.aside().await;
            redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec_async(&mut aside).await.unwrap();
        }
    }
    until_passed(Instant::now() + SPELL).await;
}

#[tokio::test]
async fn no_identity_is_believed_in_by_two_whatever_fails() {
    let Some(Shared(mut redis)) = settled().await else { return };
    let beliefs = Beliefs::default();
    let (end, over) = tokio::sync::watch::channel(false);
    let mut lines = Vec::new();
    for _ in 0..HOLDERS {
        lines.push(Line::to(redis.port()).await);
    }
    let store = |line: &Line| {
        let config_of = RedisConfig {
            response_timeout: Duration::from_millis(250),
            patience: Duration::from_millis(500),
            clock_step_max: GRACE,
            ..RedisConfig::new(line.url())
        };
        RedisLeases::new(RedisServer::new(config_of).unwrap(), config("host", IDENTITIES))
    };
    let holders =
        lines.iter().enumerate().map(|(name, line)| holder(store(line), &beliefs, name, over.clone()));
    let holders = futures_util::future::join_all(holders);
    let faults = async {
        let mut dice = StdRng::seed_from_u64(1);
        for fault in (0..ROUNDS).flat_map(|_| FAULTS) {
            let before = beliefs.leases();
            fail(&mut redis, &lines, fault, &mut dice).await;
            let within = TTL + GRACE + SLACK;
            until(within, "leases are given again", async || beliefs.leases() > before + HOLDERS as u64)
                .await;
        }
        end.send_replace(true);
    };
    let (served, ()) = tokio::join!(holders, faults);
    assert!(served.iter().all(|n| *n > 0), "everybody had a turn: {served:?}");
}
