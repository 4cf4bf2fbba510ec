//! VMs by Firecracker, in production: jailed, restored from a snapshot whose memory every clone shares until it writes.

pub mod api;
mod bake;
mod boot;
mod group;
mod host;
pub mod kernel;
mod place;
mod probe;
mod restore;
mod serial;
mod vsock;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hearth_schemas::manifest::Transport;

pub use self::{
    bake::{BakeError, BakeRequest, bake_snapshot},
    boot::BootError,
    host::{HostError, host_facts},
    place::{Confinement, Jailer, NoUid},
    probe::probe_kvm,
    restore::DormantFirecracker,
    vsock::Listener,
};
use self::{place::Place, serial::SerialPort};
use crate::{
    guard::{Guard, GuardError},
    hypervisor::{DestroyError, Hypervisor, RestoreError, Restored, Slot},
    lease::Identity,
    net::{Network, Networks, remove_network},
    rates::Rates,
    snapshot::{HostFacts, Snapshot, SnapshotError, SnapshotStore, Verification},
    vm::{
        directory::clear_without_guard,
        reach::{GuestStream, Reach},
    },
};

/// How long the agent of a restored VM may take to answer. It listened before the snapshot, so this is scheduling only.
const DIAL_LIMIT: Duration = Duration::from_secs(20);
/// The same for one try where the serial port would do.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// Below the data directory.
const DIRECTORY: &str = "firecracker";
/// What the process says, in the VM's directory.
const LOG: &str = "firecracker.log";

/// Where things are and what is allowed.
#[derive(Clone, Debug)]
pub struct FirecrackerConfig {
    /// `firecracker`. The jailer wants that word in the file's name.
    pub firecracker: PathBuf,
    /// How its processes are held.
    pub confinement: Confinement,
    /// Directory of VMs and locks.
    pub run_dir: PathBuf,
    /// Directory of snapshots; below it, in `firecracker/`, also what VMs write, since a jail takes files of its own file
    /// system only. Not mounted `nodev` or `noexec`.
    pub data_dir: PathBuf,
    /// Limits of a VM's devices.
    pub rates: Rates,
    /// Accept a Firecracker whose threads are not all under a system call filter.
    pub insecure_seccomp: bool,
    /// Who this worker is, for the records of its VMs. Unique among live workers of this host.
    pub worker: String,
}

impl FirecrackerConfig {
    /// Its snapshots: not those of another hypervisor.
    pub fn store(&self) -> SnapshotStore {
        Self::store_in(&self.data_dir)
    }

    /// The same, of a data directory.
    pub fn store_in(data_dir: &Path) -> SnapshotStore {
        SnapshotStore::new(&data_dir.join(DIRECTORY))
    }

    fn directory(&self) -> PathBuf {
        self.data_dir.join(DIRECTORY)
    }

    fn jails(&self) -> PathBuf {
        self.directory().join("jails")
    }
}

/// VMs by Firecracker, under a guard.
#[derive(Debug)]
pub struct Firecracker {
    config: FirecrackerConfig,
    here: HostFacts,
    guard: Guard,
    store: SnapshotStore,
    networks: Option<Arc<Networks>>,
    /// The snapshot of each runtime that was restored last. Held in use, so that no bake removes it.
    snapshots: Mutex<BTreeMap<String, Arc<Snapshot>>>,
}

/// A running VM.
#[derive(Debug)]
pub struct FirecrackerVm {
    /// What the guard calls it.
    name: String,
    place: Place,
    reach: Reach,
    serial: Option<SerialPort>,
    network: Option<Arc<Network>>,
    snapshot: Arc<Snapshot>,
}

impl Firecracker {
    /// VMs of this host, made by `guard`, which was started with the same run directory and worker. What is insecure is
    /// logged.
    pub fn new(config: FirecrackerConfig, here: HostFacts, guard: Guard) -> Self {
        if config.confinement == Confinement::InsecureDirect {
            tracing::warn!("insecure: Firecracker runs without its jailer");
        }
        if config.insecure_seccomp {
            tracing::warn!("insecure: a Firecracker without system call filters is accepted");
        }
        Self { store: config.store(), networks: None, snapshots: Mutex::default(), config, here, guard }
    }

    /// The same, with networks for VMs that have a card.
    pub fn with_networks(self, networks: Option<Arc<Networks>>) -> Self {
        Self { networks, ..self }
    }

    /// The runtime's snapshot of now: a bake may have made another since the last restore. A new one is read ahead, so that
    /// the first VMs do not wait for the disk. Blocks for a short time.
    pub fn snapshot(&self, runtime: &str) -> Result<Arc<Snapshot>, SnapshotError> {
        let mut snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let name = self.store.current_name(runtime);
        if let Some(known) = snapshots.get(runtime)
            && known.directory.file_name().and_then(|known| known.to_str()) == name.as_deref()
        {
            return Ok(Arc::clone(known));
        }
        let snapshot = Arc::new(self.store.current(runtime, &self.here, Verification::Size)?);
        for file in [snapshot.memory(), snapshot.root()] {
            if let Err(error) = read_ahead(&file) {
                tracing::warn!(file = %file.display(), %error, "cannot be read ahead");
            }
        }
        snapshots.insert(runtime.to_owned(), Arc::clone(&snapshot));
        Ok(snapshot)
    }
}

/// Asks the kernel to have the file in its page cache soon.
fn read_ahead(file: &Path) -> io::Result<()> {
    Ok(rustix::fs::fadvise(std::fs::File::open(file)?, 0, None, rustix::fs::Advice::WillNeed)?)
}

impl Hypervisor for Firecracker {
    type Vm = FirecrackerVm;
    type Dormant = DormantFirecracker;
    type Io = GuestStream;
    type Accept = Listener;

    async fn restore(
        &self,
        slot: &Slot,
        identity: &Identity,
    ) -> Result<Restored<FirecrackerVm>, RestoreError> {
        self.restore_slot(slot, identity).await
    }

    fn starts_ahead(&self) -> bool {
        true
    }

    async fn start(&self, slot: &Slot, identity: &Identity) -> Result<DormantFirecracker, RestoreError> {
        self.start_slot(slot, identity).await
    }

    async fn load(&self, dormant: DormantFirecracker) -> Result<Restored<FirecrackerVm>, RestoreError> {
        self.load_dormant(dormant).await
    }

    async fn dormant_exited(&self, dormant: &DormantFirecracker) {
        let how = self.guard.exited(dormant.name()).await;
        tracing::info!(vm = dormant.name(), %how, "a dormant Firecracker ended");
    }

    fn dormant_from<'a>(&self, dormant: &'a DormantFirecracker) -> Option<&'a str> {
        Some(dormant.snapshot().name())
    }

    fn current(&self, runtime: &str) -> Option<String> {
        self.store.current_name(runtime)
    }

    fn came_from<'a>(&self, vm: &'a FirecrackerVm) -> Option<&'a str> {
        Some(vm.snapshot.name())
    }

    async fn dial(&self, vm: &FirecrackerVm) -> io::Result<GuestStream> {
        let limit = if vm.reach.has_serial() { TRY_LIMIT } else { DIAL_LIMIT };
        let by_vsock = || async move {
            let stream: GuestStream = Box::new(vsock::dial(&vm.place, limit).await?);
            Ok(stream)
        };
        let by_serial = || async {
            let port = vm.serial.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let stream: GuestStream = Box::new(port.pipe()?);
            Ok(stream)
        };
        vm.reach.dial(by_vsock, by_serial).await
    }

    fn is_gone(&self) -> bool {
        self.guard.is_dead()
    }

    /// The guard has the CID's lock until it has ended the VM.
    fn is_locked(&self, _vm: &FirecrackerVm) -> bool {
        true
    }

    fn transport(&self, vm: &FirecrackerVm) -> &'static str {
        vm.reach.transport().as_str()
    }

    fn network<'a>(&self, vm: &'a FirecrackerVm) -> Option<&'a Arc<Network>> {
        vm.network.as_ref()
    }

    fn listen(&self, vm: &FirecrackerVm, port: u16) -> io::Result<Listener> {
        match vm.reach.transport() {
            Transport::Serial => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "a serial port carries one session only"))
            }
            _ => vsock::listen(&vm.place, port),
        }
    }

    async fn exited(&self, vm: &FirecrackerVm) {
        let how = self.guard.exited(&vm.name).await;
        tracing::info!(vm = %vm.name, %how, "VM ended");
    }

    async fn destroy(&self, slot: &Slot, vm: Option<FirecrackerVm>) -> Result<(), DestroyError> {
        let outcome = match self.guard.end(&slot.to_string()).await {
            Err(GuardError::Dead) => {
                clear_without_guard(&self.config.run_dir, &self.config.worker, slot).await
            }
            Err(error) => Err(DestroyError { slot: slot.clone(), what: error.to_string() }),
            Ok(()) => Ok(()),
        };
        outcome?;
        match vm.and_then(|vm| vm.network) {
            Some(network) => remove_network(&network, slot).await,
            None => Ok(()),
        }
    }
}
