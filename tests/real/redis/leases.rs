//! Leases in Redis keep the rules of all lease stores, and those of their own.

use std::time::Duration;

use hearth_pool::{
    lease::{
        LeaseError, LeaseStore, Ranges, Release,
        redis::{RedisLeaseConfig, RedisLeases, host_domain},
    },
    redis_server::{RedisConfig, RedisServer, ServerError},
};
use hearth_tests::{
    lease_rules::{Backing, IDENTITIES, TTL},
    redis::RealRedis,
};

/// How long after its end a lease is nobody's in these tests.
pub const GRACE: Duration = Duration::from_millis(200);

pub fn config(domain: &str, identities: u32) -> RedisLeaseConfig {
    let last = u16::try_from(identities).unwrap() + 8999;
    let ranges = Ranges { cids: 3..=2 + identities, ports: 9000..=last };
    RedisLeaseConfig { ranges, ttl: TTL, grace: GRACE, ..RedisLeaseConfig::new(domain) }
}

pub struct Shared(pub RealRedis);

impl Backing for Shared {
    type Store = RedisLeases;

    fn open(&self) -> RedisLeases {
        RedisLeases::new(self.0.server(), config("host", IDENTITIES))
    }
}

/// A server whose data may be trusted although it is new.
pub async fn settled() -> Option<Shared> {
    let redis = RealRedis::start().await?;
    redis.server().trust_new_data().await.unwrap();
    Some(Shared(redis))
}

mod rules {
    use super::settled;

    hearth_tests::lease_rules!(settled());
}

#[tokio::test]
async fn domains_share_nothing_and_their_keys_say_whose_they_are() {
    let Some(Shared(redis)) = settled().await else { return };
    let one = RedisLeases::new(redis.server(), config(&host_domain().unwrap(), 1));
    let two = RedisLeases::new(redis.server(), config("wider", 1));
    let (a, b) = (one.acquire("r").await.unwrap(), two.acquire("r").await.unwrap());
    assert_eq!((a.identity.cid, a.identity.port), (3, 9000));
    assert_eq!((b.identity.cid, b.identity.port), (3, 9000));
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis.aside().await).await.unwrap();
    let domain = host_domain().unwrap();
    let known = |key: &String| {
        key == "hearth:epoch"
            || key.starts_with(&format!("hearth:lease:{domain}:"))
            || key.starts_with("hearth:lease:wider:")
    };
    assert!(keys.iter().all(known), "{keys:?}");
}

#[tokio::test]
async fn a_prefix_keeps_installations_apart() {
    let Some(Shared(redis)) = settled().await else { return };
    let other =
        RedisServer::new(RedisConfig { prefix: "other:".into(), ..RedisConfig::new(redis.url()) }).unwrap();
    other.trust_new_data().await.unwrap();
    let one = RedisLeases::new(redis.server(), config("host", 1));
    let two = RedisLeases::new(other, config("host", 1));
    assert_eq!(one.acquire("r").await.unwrap().identity.cid, 3);
    assert_eq!(two.acquire("r").await.unwrap().identity.cid, 3);
}

#[tokio::test]
async fn other_ranges_of_one_domain_may_overlap() {
    let Some(Shared(redis)) = settled().await else { return };
    let of = |cids, ports| {
        let config = RedisLeaseConfig { ranges: Ranges { cids, ports }, ..config("host", 1) };
        RedisLeases::new(redis.server(), config)
    };
    let (low, high) = (of(3..=4, 9000..=9009), of(4..=5, 9005..=9014));
    let four = high.acquire("a").await.unwrap().identity;
    assert_eq!((four.cid, four.port), (4, 9005));
    assert_eq!(low.acquire("a").await.unwrap().identity.cid, 3);
    assert!(matches!(low.acquire("b").await, Err(LeaseError::Exhausted { what: "CID", .. })));
    assert_eq!(high.acquire("b").await.unwrap().identity.cid, 5);
    assert_eq!(high.release(&four).await.unwrap(), Release::Released);
    assert_eq!(low.acquire("b").await.unwrap().identity.cid, 4);
}

#[tokio::test]
async fn a_batch_of_any_size_is_one_command() {
    const SLOTS: u32 = 1000;
    let Some(Shared(redis)) = settled().await else { return };
    let config = RedisLeaseConfig { ttl: Duration::from_secs(60), ..config("host", SLOTS) };
    let store = RedisLeases::new(redis.server(), config);
    let mut held = Vec::new();
    for n in 0..SLOTS {
        held.push(store.acquire(&n.to_string()).await.unwrap().identity);
    }
    let mut aside = redis.aside().await;
    let mut commands = async || {
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut aside).await.unwrap();
        let calls = |line: &str| {
            let calls = line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?;
            calls.parse::<u64>().ok()
        };
        stats.lines().find_map(calls).unwrap()
    };
    // Warm: the script is known to the server.
    store.renew(&held).await.unwrap();
    let before = commands().await;
    for many in [1, 10, 100, 1000] {
        assert_eq!(store.renew(&held[..many]).await.unwrap().len(), many);
    }
    assert_eq!(commands().await - before, 4);
    assert_eq!(store.counts().renewed, 1000 + 1111);
}

#[tokio::test]
async fn a_server_that_may_forget_is_refused_unless_that_is_accepted() {
    let Some(redis) = RealRedis::start_with(&["--maxmemory-policy", "allkeys-lru"]).await else { return };
    let refused = redis.server().check().await.unwrap_err();
    let said = refused.to_string();
    assert!(matches!(refused, ServerError::NotKept(_)));
    assert!(said.contains("appendonly yes") && said.contains("maxmemory-policy noeviction"), "{said}");
    let store = RedisLeases::new(redis.server(), config("host", 1));
    assert!(matches!(store.acquire("a").await, Err(LeaseError::Unavailable { .. })));

    let accepting = RedisConfig { accept_loss: true, ..RedisConfig::new(redis.url()) };
    let accepting = RedisServer::new(accepting).unwrap();
    accepting.check().await.unwrap();
    accepting.trust_new_data().await.unwrap();
    RedisLeases::new(accepting, config("host", 1)).acquire("a").await.unwrap();
}

#[tokio::test]
async fn a_server_that_was_told_to_forget_later_is_found_out() {
    let Some(Shared(redis)) = settled().await else { return };
    let server = redis.server();
    server.check().await.unwrap();
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("appendonly").arg("no").exec_async(&mut redis.aside().await).await.unwrap();
    assert!(matches!(server.check().await, Err(ServerError::NotKept(_))));
}
