//! One process's VMs, put together: reclaim, guard, leases of this host, hypervisor, pool.
//!
//! This and the `hearth` command are the only places of the worker that choose a hypervisor or a lease store.

mod vmm;

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use hearth_pool::{
    firecracker::Firecracker,
    guard::{Guard, GuardCommand, GuardError},
    lease::{
        LeaseError, LeaseStore,
        local::{LocalConfig, LocalLeases},
    },
    net::{Namespace, NetworkConfig, NetworkError, Networks, runtime_of},
    pool::{CloseError, Config, Pool},
    qemu::Qemu,
    rates::Rates,
    reclaim::{ReclaimError, Reclaimed, reclaim},
    session::Command,
    snapshot::{HostFacts, Snapshot, SnapshotError, Verification},
};
use hearth_schemas::{
    guest::messages::{ExecLimits, User},
    manifest::{Accelerator, Manifest},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::task::spawn_blocking;

pub use self::vmm::{Vmm, firecracker_config, qemu_config};
use crate::{admit::Offer, meters};

/// How long a guard without VMs may take to end.
const GUARD_LIMIT: Duration = Duration::from_secs(2);

/// This host, for one process.
#[derive(Clone, Debug)]
pub struct Host {
    /// Images and snapshots.
    pub data_dir: PathBuf,
    /// VMs, locks, leases.
    pub run_dir: PathBuf,
    /// What makes the VMs.
    pub vmm: Vmm,
    /// How the guard is started.
    pub guard: GuardCommand,
    /// This process's name: unique among the live ones of this host.
    pub worker: String,
    /// What snapshots are compared with.
    pub facts: HostFacts,
    /// How networks are made, where a VM has one.
    pub network: NetworkConfig,
    /// How fast the devices of its VMs may be.
    pub rates: Rates,
}

/// Why there are no VMs.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What an earlier process left could not be looked at.
    #[error(transparent)]
    Reclaim(#[from] ReclaimError),
    /// The guard could not be started.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The leases cannot be used.
    #[error(transparent)]
    Leases(#[from] LeaseError),
    /// There are no networks for VMs that are to have one.
    #[error("networks of VMs")]
    Network(#[from] NetworkError),
    /// The host refused something.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

impl Host {
    /// Where objects are on their way to a VM.
    pub fn object_spool(&self) -> PathBuf {
        self.data_dir.join("objects")
    }

    /// Clears up after earlier processes and starts a guard for this one's VMs.
    pub async fn guard(&self) -> Result<Guard, OpenError> {
        for directory in [&self.run_dir, &self.data_dir] {
            make(directory)?;
        }
        let run_dir = self.run_dir.clone();
        blocking(move || clear_up(&run_dir)).await??;
        Ok(Guard::start(&self.guard, &self.run_dir, &self.worker).await?)
    }

    /// Networks of this process's VMs.
    ///
    /// # Errors
    /// The host refuses them: they need root and `nft`.
    pub async fn networks(&self) -> Result<Networks, NetworkError> {
        let own = Namespace::own()
            .map_err(|source| NetworkError::Host { what: "open the host's network namespace", source })?;
        Networks::open(self.network.clone(), own).await
    }

    /// The snapshot of a runtime, if there is one and it fits. Held in use while it lives. Blocks for a short time.
    pub fn snapshot(&self, runtime: &str) -> Result<Snapshot, SnapshotError> {
        self.vmm.store(&self.data_dir).current(runtime, &self.facts, Verification::Size)
    }

    /// What the snapshots of these runtimes offer to jobs; those without a fitting one are left out. Blocks.
    pub fn offers<'a>(&self, runtimes: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, Offer> {
        let offer =
            |runtime: &str| Some((runtime.to_owned(), Offer::from(&self.snapshot(runtime).ok()?.manifest)));
        runtimes.into_iter().filter_map(offer).collect()
    }
}

/// Clears up after processes that died with their guards. Blocks.
///
/// # Errors
/// The directory cannot be looked at.
pub fn clear_up(run_dir: &Path) -> Result<Reclaimed, ReclaimError> {
    let reclaimed = reclaim(run_dir)?;
    meters::reclaimed(reclaimed);
    if reclaimed.directories > 0 {
        tracing::warn!(?reclaimed, "cleared up after a worker that had died with its guard");
    }
    Ok(reclaimed)
}

/// A pool of VMs of this host with all that it needs.
pub struct Local {
    pool: Pool,
    guard: u32,
    guard_dead: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Local {
    /// Clears up after earlier processes, starts a guard, and fills the pool that `config` asks for. Leases are kept in
    /// a file of this host.
    pub async fn open(host: &Host, config: Config) -> Result<Self, OpenError> {
        // The run directory is made by then.
        let guard = host.guard().await?;
        let leases = LocalConfig::new(&host.run_dir);
        let leases = blocking(move || LocalLeases::open(leases)).await??;
        Self::with_guard(host, config, guard, leases).await
    }

    /// The same with leases kept elsewhere.
    pub async fn open_with<L: LeaseStore>(host: &Host, config: Config, leases: L) -> Result<Self, OpenError> {
        let guard = host.guard().await?;
        Self::with_guard(host, config, guard, leases).await
    }

    async fn with_guard<L: LeaseStore>(
        host: &Host,
        config: Config,
        guard: Guard,
        leases: L,
    ) -> Result<Self, OpenError> {
        let networks = match config.runtimes.iter().any(|runtime| runtime_of(&runtime.name).1) {
            true => Some(Arc::new(host.networks().await?)),
            false => None,
        };
        let (pid, guard_dead) = (guard.pid(), Box::pin(guard.dead()));
        let facts = host.facts.clone();
        let pool = match &host.vmm {
            Vmm::Qemu { qemu, vsock_daemon } => {
                let hypervisor = Qemu::new(qemu_config(host, qemu, vsock_daemon), facts, guard);
                Pool::spawn(config, hypervisor.with_networks(networks), leases)
            }
            Vmm::Firecracker { firecracker, confinement, insecure_seccomp } => {
                let made = firecracker_config(host, firecracker, confinement, *insecure_seccomp);
                Pool::spawn(config, Firecracker::new(made, facts, guard).with_networks(networks), leases)
            }
        };
        Ok(Self { pool, guard: pid, guard_dead })
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Resolves when the guard has died, and every VM with it: this pool will never have one again. To be asked for once.
    pub fn guard_dead(&mut self) -> impl Future<Output = ()> + Send + 'static {
        std::mem::replace(&mut self.guard_dead, Box::pin(std::future::pending()))
    }

    /// Closes the pool and waits until the guard is gone, so that nothing of this process's VMs is left. Claims may
    /// go on for `grace`. Other clones of the pool, and claims, must be dropped by then.
    pub async fn close(self, grace: Duration) -> Result<(), CloseError> {
        let Self { pool, guard, .. } = self;
        let process = i32::try_from(guard).ok().and_then(Pid::from_raw);
        let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        pool.close(grace).await?;
        drop(pool);
        // It ends when its last handle is dropped, which the pool's tasks do as they end.
        if let Some(process) = process {
            let _ = spawn_blocking(move || wait_for_end(&process, GUARD_LIMIT)).await;
        }
        Ok(())
    }
}

/// Returns when the process is gone, or the time is over. Blocks.
fn wait_for_end(process: &OwnedFd, limit: Duration) {
    let limit = Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)) {
        Ok(0) => tracing::warn!("the guard takes its time"),
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "the guard is not waited for"),
    }
}

fn make(directory: &PathBuf) -> Result<(), OpenError> {
    std::fs::create_dir_all(directory)
        .map_err(|source| OpenError::Host { what: format!("make {}", directory.display()), source })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OpenError> {
    spawn_blocking(work).await.map_err(|error| OpenError::Host {
        what: "a blocking task ended early".to_owned(),
        source: error.into(),
    })
}

/// The command that warms a fresh VM up before anybody may claim it, where it pays: the translation cache of TCG is
/// cold after a restore, and the first command takes about a second more than the next.
pub fn warm_up(manifest: &Manifest) -> Option<Command> {
    (manifest.accelerator == Accelerator::Tcg).then(|| Command {
        argv: vec!["/bin/true".to_owned()],
        env: BTreeMap::new(),
        cwd: String::new(),
        limits: ExecLimits::default(),
        user: User::Job,
        ip: false,
        fresh: false,
    })
}
