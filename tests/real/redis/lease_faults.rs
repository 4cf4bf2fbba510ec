//! Leases when Redis fails, each failure once, by itself.

use std::time::Duration;

use hearth_pool::{
    lease::{Identity, Lease, LeaseError, LeaseStore, Release, Renewal, redis::RedisLeases},
    redis_server::{RedisConfig, RedisServer},
};
use hearth_tests::{
    lease_rules::{SLACK, TTL},
    redis::{Line, RealRedis, Weather},
    wait::{until_passed, until_some},
};
use tokio::time::Instant;

use crate::leases::{GRACE, Shared, config, settled};

fn store(redis: &RealRedis, identities: u32) -> RedisLeases {
    RedisLeases::new(redis.server(), config("host", identities))
}

fn lasting(redis: &RealRedis, identities: u32) -> RedisLeases {
    let mut config = config("lasting", identities);
    config.ttl = Duration::from_secs(60);
    RedisLeases::new(redis.server(), config)
}

/// A store whose data settles at once, as that of a server whose clock runs fast.
fn impatient(url: String) -> RedisServer {
    let config = RedisConfig {
        response_timeout: Duration::from_millis(300),
        patience: Duration::from_millis(600),
        ..RedisConfig::new(url)
    };
    RedisServer::new(config).unwrap()
}

async fn renew(store: &RedisLeases, lease: &Lease) -> Renewal {
    store.renew(&[lease.identity]).await.unwrap()[0]
}

fn is_exhausted<T: std::fmt::Debug>(result: Result<T, LeaseError>) -> bool {
    matches!(result, Err(LeaseError::Exhausted { .. }))
}

/// Leases as soon as the store gives a lease.
async fn when_given(store: &RedisLeases, request: &str) -> Lease {
    let take = async || match store.acquire(request).await {
        Ok(lease) => Some(lease),
        Err(LeaseError::Exhausted { retry_after, .. } | LeaseError::Settling { retry_after }) => {
            assert!(retry_after <= TTL + GRACE);
            None
        }
        Err(LeaseError::Unavailable { .. }) => None,
    };
    until_some(TTL + GRACE + SLACK, "a lease is given", take).await
}

#[tokio::test]
async fn a_restart_with_the_data_forgets_nothing() {
    let Some(Shared(mut redis)) = settled().await else { return };
    let (one, two) = (lasting(&redis, 1), lasting(&redis, 1));
    let lease = one.acquire("a").await.unwrap();
    for _ in 0..2 {
        redis.restart().await;
        assert!(is_exhausted(two.acquire("b").await), "neither forgotten nor new");
        assert!(matches!(renew(&one, &lease).await, Renewal::Until(_)));
    }
    assert_eq!(one.release(&lease.identity).await.unwrap(), Release::Released);
    redis.restart().await;
    assert!(two.acquire("b").await.unwrap().identity.token > lease.identity.token);
}

#[tokio::test]
async fn new_data_gives_nothing_until_holders_have_registered_again() {
    let Some(Shared(mut redis)) = settled().await else { return };
    let (one, two) = (store(&redis, 2), store(&redis, 2));
    let kept = one.acquire("kept").await.unwrap();
    let silent = one.acquire("silent").await.unwrap();
    redis.restart_without_data().await;
    let mut settling = 0;
    let settles = Instant::now() + TTL + GRACE + SLACK;
    let taken = loop {
        assert!(matches!(renew(&one, &kept).await, Renewal::Until(_)), "registered, then renewed");
        match two.acquire("b").await {
            Ok(lease) => break lease,
            Err(LeaseError::Settling { .. }) => settling += 1,
            Err(other) => panic!("{other:?}"),
        }
        assert!(Instant::now() < settles);
    };
    assert!(settling > 0, "it was new");
    assert!(silent.expires <= Instant::now(), "who was silent has lost its lease by its own clock");
    assert_eq!((taken.identity.cid, taken.identity.port), (silent.identity.cid, silent.identity.port));
    assert!(taken.identity.token > silent.identity.token.max(kept.identity.token));
    assert!(is_exhausted(two.acquire("c").await), "what was registered is held");
    assert_eq!(renew(&one, &silent).await, Renewal::Lost);
    assert_eq!(
        one.release(&kept.identity).await.unwrap(),
        Release::Released,
        "a registered lease is a lease"
    );
    assert_eq!(when_given(&two, "c").await.identity.cid, kept.identity.cid);
}

#[tokio::test]
async fn what_data_that_is_not_new_does_not_know_is_lost() {
    let Some(Shared(mut redis)) = settled().await else { return };
    let one = lasting(&redis, 2);
    let lease = one.acquire("a").await.unwrap();
    redis.restart_without_data().await;
    redis.server().trust_new_data().await.unwrap();
    assert_eq!(renew(&one, &lease).await, Renewal::Lost);
    assert_eq!(one.counts().lost, 1);
}

/// How long the server is stalled.
const STALL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_stall_of_10_s_ends_short_leases_and_no_long_ones() {
    let Some(Shared(redis)) = settled().await else { return };
    let (short, other, long) = (store(&redis, 1), store(&redis, 1), lasting(&redis, 1));
    let short_lease = short.acquire("a").await.unwrap();
    let long_lease = long.acquire("a").await.unwrap();
    redis.stall();
    let stalled = Instant::now();
    let in_vain = async || short.renew(&[short_lease.identity]).await;
    let answer = until_some(STALL, "the outage is told", async || in_vain().await.err()).await;
    assert!(matches!(answer, LeaseError::Unavailable { .. }));
    assert_eq!(renew(&short, &short_lease).await, Renewal::Lost, "by the holder's own clock, without asking");
    until_passed(stalled + STALL).await;
    redis.go_on();
    assert!(matches!(renew(&long, &long_lease).await, Renewal::Until(_)), "nobody has taken it");
    let taken = when_given(&other, "b").await;
    assert_eq!(taken.identity.cid, short_lease.identity.cid);
    assert!(taken.identity.token > short_lease.identity.token);
    assert_eq!(short.release(&short_lease.identity).await.unwrap(), Release::NotHeld);
    assert!(matches!(renew(&other, &taken).await, Renewal::Until(_)));
}

#[tokio::test]
async fn a_partitioned_holder_gives_up_before_somebody_else_is_given_its_lease() {
    let Some(Shared(redis)) = settled().await else { return };
    let line = Line::to(redis.port()).await;
    let cut_off = RedisLeases::new(impatient(line.url()), config("host", 1));
    let other = store(&redis, 1);
    let lease = cut_off.acquire("a").await.unwrap();
    line.set(Weather::Partition);
    let believes = async {
        let mut until = lease.expires;
        while Instant::now() < until {
            // Sent, held by the network, and delivered when the partition heals.
            if let Ok(renewed) = cut_off.renew(&[lease.identity]).await
                && let Renewal::Until(later) = renewed[0]
            {
                until = later;
            }
        }
        until
    };
    let take = async { (when_given(&other, "b").await, Instant::now()) };
    let (until, (taken, at)) = tokio::join!(believes, take);
    assert!(until < at, "two believed in one identity");
    line.set(Weather::Clear);
    assert_eq!(renew(&cut_off, &lease).await, Renewal::Lost);
    assert_eq!(cut_off.release(&lease.identity).await.unwrap(), Release::NotHeld);
    assert!(matches!(renew(&other, &taken).await, Renewal::Until(_)), "what was held back did no harm");
    let Identity { cid, port, token } = taken.identity;
    assert!((cid, port) == (lease.identity.cid, lease.identity.port) && token > lease.identity.token);
}

async fn set_clock(redis: &RealRedis, by: i64) {
    let mut aside = redis.aside().await;
    let seen: i64 = redis::cmd("HGET").arg("hearth:epoch").arg("seen").query_async(&mut aside).await.unwrap();
    // To the scripts it is the same whether the clock goes forward or what they saw goes back.
    redis::cmd("HSET").arg("hearth:epoch").arg("seen").arg(seen - by).exec_async(&mut aside).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_is_set_takes_no_lease_away_and_makes_none_last_for_ever() {
    const HOUR_US: i64 = 3_600_000_000;
    let Some(Shared(redis)) = settled().await else { return };
    let careful = RedisConfig { clock_step_max: GRACE, ..RedisConfig::new(redis.url()) };
    let careful = RedisServer::new(careful).unwrap();
    let one = RedisLeases::new(careful.clone(), config("host", 1));
    let two = RedisLeases::new(careful, config("host", 1));
    let lease = one.acquire("a").await.unwrap();
    set_clock(&redis, HOUR_US).await;
    assert!(is_exhausted(two.acquire("b").await), "an hour later by the clock alone");
    assert!(matches!(renew(&one, &lease).await, Renewal::Until(_)));
    set_clock(&redis, -HOUR_US).await;
    assert!(matches!(renew(&one, &lease).await, Renewal::Until(_)));
    let taken = when_given(&two, "b").await;
    assert_eq!(taken.identity.cid, lease.identity.cid);
    assert!(taken.identity.token > lease.identity.token);
}

#[tokio::test]
async fn a_lease_that_is_over_by_the_age_of_the_data_is_not_renewed_before_anybody_takes_it() {
    const HOUR_US: i64 = 3_600_000_000;
    let Some(Shared(redis)) = settled().await else { return };
    // Its clock may step further than a lease lasts.
    let one = store(&redis, 1);
    let (renewed, released) = (one.acquire("a").await.unwrap(), store(&redis, 2));
    let other = released.acquire("b").await.unwrap();
    set_clock(&redis, HOUR_US).await;
    assert!(Instant::now() < renewed.expires.min(other.expires), "their holders believe in them");
    assert_eq!(renew(&one, &renewed).await, Renewal::Lost);
    assert_eq!(released.release(&other.identity).await.unwrap(), Release::NotHeld);
}
