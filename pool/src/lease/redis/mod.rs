//! Leases in Redis, for workers that share a host.
//!
//! A lease lasts by two clocks: the holder's own monotonic one, counted from before it asked, and the age of the
//! server's data. The holder's always ends first, and the server gives a lease to somebody else only a grace
//! later. When the data is new, nothing is given for a lease's time and a grace, in which renewals put down again
//! what the old data knew.

mod domain;
mod reply;

use std::{
    collections::HashMap,
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Script, ScriptInvocation};
use tokio::time::Instant;

pub use self::domain::host_domain;
use self::reply::{Acquired, Foreign};
use super::{
    Identity, Lease, LeaseError, LeaseStore, Ranges, Release, Renewal,
    local::{CIDS, PORTS, TTL},
};
use crate::redis_server::{Answer, CLOCK_STEP_MAX, RedisServer, ServerError, micros, script};

/// How long after its expiry a lease is nobody's unless told otherwise.
pub const GRACE: Duration = Duration::from_secs(5);

const _: () =
    assert!(CLOCK_STEP_MAX.as_micros() <= GRACE.as_micros(), "a clock that is set ends no lease early");

/// What is leased, where, and for how long.
#[derive(Clone, Debug)]
pub struct RedisLeaseConfig {
    /// Within which an identity is unique: a host, see [`host_domain`], or wider.
    pub domain: String,
    /// What may be leased. The server lists all of it when it first hears of it, 50 ms for 65,000 CIDs.
    pub ranges: Ranges,
    /// How long a lease lasts without renewal.
    pub ttl: Duration,
    /// How long after its expiry a lease is nobody's: at least what it takes to kill a VM.
    pub grace: Duration,
}

impl RedisLeaseConfig {
    /// The defaults in a domain.
    pub fn new(domain: impl Into<String>) -> Self {
        Self { domain: domain.into(), ranges: Ranges { cids: CIDS, ports: PORTS }, ttl: TTL, grace: GRACE }
    }
}

/// How often something happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// Leases given to this store.
    pub acquired: u64,
    /// Expired leases of others that were taken over for it.
    pub taken_over: u64,
    /// Leases renewed.
    pub renewed: u64,
    /// Renewals refused.
    pub lost: u64,
    /// Leases given back.
    pub released: u64,
    /// Releases refused.
    pub not_held: u64,
}

/// Leases of one process. Only the store that acquired a lease can renew or release it.
#[derive(Debug)]
pub struct RedisLeases {
    server: RedisServer,
    config: RedisLeaseConfig,
    keys: Vec<String>,
    /// Distinguishes this store's requests from those of others.
    holder: String,
    /// What this process holds by its own clock.
    held: Mutex<HashMap<Identity, Instant>>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    acquired: AtomicU64,
    taken_over: AtomicU64,
    renewed: AtomicU64,
    lost: AtomicU64,
    released: AtomicU64,
    not_held: AtomicU64,
    releases_asked: AtomicU64,
}

static ACQUIRE: LazyLock<Script> = LazyLock::new(|| lease_script(include_str!("acquire.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| lease_script(include_str!("renew.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| lease_script(include_str!("release.lua")));

fn lease_script(body: &str) -> Script {
    script(&[include_str!("table.lua"), body].concat())
}

impl RedisLeases {
    /// A store of its own. Asks nothing of the server yet.
    pub fn new(server: RedisServer, config: RedisLeaseConfig) -> Self {
        let names = ["held", "expiry", "ports", "requests", "free_cids", "free_ports", "given"];
        let key = |name| server.key(&format!("lease:{}:{name}", config.domain));
        let keys = names.into_iter().map(key).collect();
        let holder = format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>());
        Self { server, config, keys, holder, held: Mutex::default(), counts: Counts::default() }
    }

    /// How often what happened.
    pub fn counts(&self) -> LeaseCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LeaseCounts {
            acquired: of(&self.counts.acquired),
            taken_over: of(&self.counts.taken_over),
            renewed: of(&self.counts.renewed),
            lost: of(&self.counts.lost),
            released: of(&self.counts.released),
            not_held: of(&self.counts.not_held),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Identity, Instant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a lease lasts by this process's own clock. What does not is over, whatever the server says.
    fn lasts(&self, identity: &Identity) -> bool {
        self.held().get(identity).is_some_and(|expires| Instant::now() < *expires)
    }

    fn question<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut question = self.server.question(script);
        for key in &self.keys {
            question.key(key);
        }
        question
    }

    fn acquire_question(&self, request: &str) -> ScriptInvocation<'static> {
        let RedisLeaseConfig { ranges: Ranges { cids, ports }, ttl, grace, .. } = &self.config;
        let mut question = self.question(&ACQUIRE);
        question.arg(micros(*ttl)).arg(micros(*grace)).arg(format!("{} {request}", self.holder));
        question.arg(cids.start()).arg(cids.end()).arg(ports.start()).arg(ports.end());
        question
    }

    fn renew_question(&self, identities: &[Identity]) -> ScriptInvocation<'static> {
        let mut question = self.question(&RENEW);
        question.arg(micros(self.config.ttl)).arg(micros(self.config.grace));
        for Identity { cid, port, token } in identities {
            question.arg(cid).arg(port).arg(token);
        }
        question
    }

    /// The age of the data goes no faster than it is asked.
    fn ask_again_in(&self, wait: Duration) -> Duration {
        wait.min(self.server.clock_step_max())
    }

    /// Notes what became of one renewal.
    fn renewed(&self, identity: &Identity, granted: bool, expires: Instant) -> Renewal {
        let mut held = self.held();
        if !granted {
            held.remove(identity);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(cid = identity.cid, port = identity.port, token = identity.token, "lease lost");
            return Renewal::Lost;
        }
        self.counts.renewed.fetch_add(1, Ordering::Relaxed);
        let known = held.entry(*identity).or_insert(expires);
        *known = expires.max(*known);
        Renewal::Until(*known)
    }
}

impl LeaseStore for RedisLeases {
    async fn acquire(&self, request: &str) -> Result<Lease, LeaseError> {
        let question = self.acquire_question(request);
        let Answer { value, asked } = self.server.ask::<Vec<String>>(&question).await?;
        let (identity, taken_over) = match Acquired::read(&value) {
            Some(Acquired::Leased { identity, taken_over }) => (identity, taken_over),
            Some(Acquired::Full { what, wait }) => {
                return Err(LeaseError::Exhausted { what, retry_after: self.ask_again_in(wait) });
            }
            Some(Acquired::New { wait }) => {
                return Err(LeaseError::Settling { retry_after: self.ask_again_in(wait) });
            }
            None => return Err(Foreign(format!("{value:?}")).into()),
        };
        self.counts.acquired.fetch_add(1, Ordering::Relaxed);
        self.counts.taken_over.fetch_add(taken_over, Ordering::Relaxed);
        let expires = asked + self.config.ttl;
        let mut held = self.held();
        // A renewal may have put back what was released while it was under way.
        held.retain(|_, until| asked < *until);
        held.insert(identity, expires);
        Ok(Lease { identity, expires })
    }

    async fn renew(&self, identities: &[Identity]) -> Result<Vec<Renewal>, LeaseError> {
        let lasting: Vec<Identity> = identities.iter().copied().filter(|i| self.lasts(i)).collect();
        let mut granted = HashMap::new();
        let mut expires = Instant::now();
        if !lasting.is_empty() {
            let Answer { value, asked } = self.server.ask::<Vec<i64>>(&self.renew_question(&lasting)).await?;
            if value.len() != lasting.len() {
                return Err(Foreign(format!("{} answers to {}", value.len(), lasting.len())).into());
            }
            granted = lasting.into_iter().zip(value.into_iter().map(|v| v == 1)).collect();
            expires = asked + self.config.ttl;
        }
        let answer = |i: &Identity| self.renewed(i, granted.get(i).copied().unwrap_or(false), expires);
        Ok(identities.iter().map(answer).collect())
    }

    async fn release(&self, identity: &Identity) -> Result<Release, LeaseError> {
        let mut released = false;
        if self.lasts(identity) {
            let asked = self.counts.releases_asked.fetch_add(1, Ordering::Relaxed);
            let mut question = self.question(&RELEASE);
            question.arg(identity.cid).arg(identity.port).arg(identity.token);
            question.arg(format!("{} {asked}", self.holder));
            released = self.server.ask::<i64>(&question).await?.value == 1;
        }
        self.held().remove(identity);
        if released {
            self.counts.released.fetch_add(1, Ordering::Relaxed);
            return Ok(Release::Released);
        }
        self.counts.not_held.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(cid = identity.cid, port = identity.port, token = identity.token, "late release");
        Ok(Release::NotHeld)
    }
}

impl From<ServerError> for LeaseError {
    fn from(error: ServerError) -> Self {
        Self::Unavailable { what: "redis".into(), source: Box::new(error) }
    }
}
