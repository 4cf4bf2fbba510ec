//! Leases of one host in a file, for a machine without Redis.
//!
//! Several processes may use one file: a lock beside it makes their changes one after another. A lease ends by
//! release, by expiry, or with the process that holds it, and is given again only when no VM holds its CID's
//! lock. Expiry is in time since boot, which no change of the wall clock moves.

mod file;
mod host;

use std::{
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{sync::Mutex, time::Instant};

use self::{
    file::LoadError,
    host::{Host, Locked},
};
use super::{
    Identity, Lease, LeaseError, LeaseStore, Release, Renewal,
    table::{Ask, Ranges, Table},
};

/// CIDs that are leased unless told otherwise: as many as ports.
pub const CIDS: RangeInclusive<u32> = hearth_schemas::limits::CID_FIRST..=1002;
/// Ports that are leased unless told otherwise.
pub const PORTS: RangeInclusive<u16> = 9000..=9999;
/// How long a lease lasts unless told otherwise.
pub const TTL: Duration = Duration::from_secs(60);

/// How leases are kept.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The run directory; the file is `leases/leases.json` in it, CID locks are in `cid/`.
    pub run_dir: PathBuf,
    /// What may be leased.
    pub ranges: Ranges,
    /// How long a lease lasts without renewal.
    pub ttl: Duration,
}

impl LocalConfig {
    /// The defaults in a run directory.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self { run_dir: run_dir.into(), ranges: Ranges { cids: CIDS, ports: PORTS }, ttl: TTL }
    }
}

/// The local store. Its leases end with the process, so keep it for as long as the pool.
#[derive(Debug)]
pub struct LocalLeases {
    ttl: Duration,
    /// One operation at a time, so that a lock that is never given up holds one thread and not all of them.
    store: Arc<Mutex<Store>>,
}

#[derive(Debug)]
struct Store {
    config: LocalConfig,
    path: PathBuf,
    lock: PathBuf,
    boot: String,
    host: Host,
    holder: String,
    _alive: Locked,
}

impl LocalLeases {
    /// Opens the store, or makes it. A file that cannot be read is set aside when no other process holds a lease
    /// in it, and is an error otherwise. Blocks on the file system.
    pub fn open(config: LocalConfig) -> Result<Self, LeaseError> {
        let dir = config.run_dir.join("leases");
        fs::create_dir_all(&dir).map_err(|e| unavailable(format!("making {}", dir.display()), e))?;
        let ttl = config.ttl;
        let store = Store::open(config, &dir)?;
        Ok(Self { ttl, store: Arc::new(Mutex::new(store)) })
    }

    /// Runs one change of the table where it may block.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Table, &Store, u64) -> T + Send + 'static,
    ) -> Result<T, LeaseError> {
        // The guard goes with the work: it is still at it when its caller has given up.
        let store = Arc::clone(&self.store).lock_owned().await;
        let work = tokio::task::spawn_blocking(move || store.change(change));
        work.await.map_err(|e| unavailable("the change was not carried out".into(), e))?
    }
}

impl Store {
    fn open(config: LocalConfig, dir: &Path) -> Result<Self, LeaseError> {
        let read = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| unavailable(what, e)
        };
        let path = dir.join("leases.json");
        let lock = dir.join("lock");
        let host = Host::new(&config.run_dir, dir.join("holders"));
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(read("boot_id"))?;
        let boot = boot.trim().to_owned();
        let unix_us = unix_us();
        let holder = format!("{}-{unix_us}", std::process::id());
        let _held = host::lock(&lock).map_err(read("locking the lease file"))?;
        let others = host.sweep_holders().map_err(read("reading the holders of leases"))?;
        match file::load(&path, &boot) {
            Err(error @ LoadError::Corrupt { .. }) if !others => {
                let aside = file::set_aside(&path, unix_us).map_err(read("setting the lease file aside"))?;
                tracing::warn!(%error, aside = %aside.display(), "lease file set aside");
            }
            loaded => drop(loaded.map_err(|e| unavailable("the lease file".into(), e))?),
        }
        let alive = host.register(&holder).map_err(read("registering as a holder of leases"))?;
        Ok(Self { config, path, lock, boot, host, holder, _alive: alive })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table, &Self, u64) -> T) -> Result<T, LeaseError> {
        let _held = host::lock(&self.lock).map_err(|e| unavailable("locking the lease file".into(), e))?;
        let before =
            file::load(&self.path, &self.boot).map_err(|e| unavailable("the lease file".into(), e))?;
        let mut table = before.clone();
        let done = change(&mut table, self, boot_us());
        if table != before {
            file::save(&self.path, &self.boot, table)
                .map_err(|e| unavailable("writing the lease file".into(), e))?;
        }
        Ok(done)
    }

    fn ttl_us(&self) -> u64 {
        u64::try_from(self.config.ttl.as_micros()).unwrap_or(u64::MAX)
    }
}

impl LeaseStore for LocalLeases {
    async fn acquire(&self, request: &str) -> Result<Lease, LeaseError> {
        let request = request.to_owned();
        // A lease counts from before the store was asked: on this side it ends first.
        let until = Instant::now() + self.ttl;
        let identity = self.change(move |table, store, now_us| {
            let ask = Ask {
                request: &request,
                holder: &store.holder,
                now_us,
                unix_us: unix_us(),
                ttl_us: store.ttl_us(),
            };
            table.acquire(ask, &store.config.ranges, &store.host)
        });
        let identity = identity
            .await?
            .map_err(|full| LeaseError::Exhausted { what: full.what, retry_after: full.retry_after })?;
        Ok(Lease { identity, expires: until })
    }

    async fn renew(&self, identities: &[Identity]) -> Result<Vec<Renewal>, LeaseError> {
        let identities = identities.to_vec();
        // A lease counts from before the store was asked: on this side it ends first.
        let until = Instant::now() + self.ttl;
        let renewed = self.change(move |table, store, now_us| {
            let mut renew = |identity| table.renew(identity, now_us, store.ttl_us());
            identities.iter().map(&mut renew).collect::<Vec<bool>>()
        });
        let answer = |held| if held { Renewal::Until(until) } else { Renewal::Lost };
        Ok(renewed.await?.into_iter().map(answer).collect())
    }

    async fn release(&self, identity: &Identity) -> Result<Release, LeaseError> {
        let identity = *identity;
        self.change(move |table, _, now_us| table.release(&identity, now_us)).await
    }
}

fn unavailable(what: String, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LeaseError {
    LeaseError::Unavailable { what, source: source.into() }
}

/// Microseconds since boot, time asleep included. One clock for every process of the host.
fn boot_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let whole = u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(1_000_000);
    whole.saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0) / 1000)
}

/// Microseconds since 1970.
fn unix_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
