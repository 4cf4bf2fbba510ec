//! VMs by QEMU: from the distribution's packages, with KVM where it works and by translation where it does not.

pub mod arguments;
mod bake;
mod boot;
mod memory;
mod probe;
pub mod qmp;
mod restore;
mod vsock;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use hearth_schemas::manifest::Transport;
use tokio::net::UnixStream;

pub use self::{
    bake::{BakeError, BakeRequest, bake_snapshot},
    boot::BootError,
    probe::probe_kvm,
    restore::DormantQemu,
    vsock::{Listener, transport_of_host},
};
use self::{memory::MemoryPlace, vsock::Vsock};
use crate::{
    guard::{Guard, GuardError, process::ProcessId},
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

/// Where things are and what is allowed.
#[derive(Clone, Debug)]
pub struct QemuConfig {
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// `vhost-device-vsock`; not used where the kernel has vhost-vsock.
    pub vsock_daemon: PathBuf,
    /// Directory of VMs and locks. Its path is short: sockets are below it.
    pub run_dir: PathBuf,
    /// Directory of snapshots.
    pub data_dir: PathBuf,
    /// Where VMs' memory goes if this process may not mount a tmpfs: best a tmpfs, such as `/dev/shm/hearth`.
    pub memory_dir: PathBuf,
    /// Where VMs' scratch disks go: a file system on disk.
    pub scratch_dir: PathBuf,
    /// Limits of a VM's disks. That of its network card is not kept.
    pub rates: Rates,
    /// Accept a QEMU whose threads are not all under a system call filter.
    pub insecure_seccomp: bool,
    /// Who this worker is, for the records of its VMs. Unique among live workers of this host.
    pub worker: String,
}

/// VMs by QEMU, under a guard.
#[derive(Debug)]
pub struct Qemu {
    config: QemuConfig,
    here: HostFacts,
    transport: Transport,
    guard: Guard,
    memory: MemoryPlace,
    store: SnapshotStore,
    networks: Option<Arc<Networks>>,
    /// The snapshot of each runtime that was restored last. Held in use, so that no bake removes it.
    snapshots: Mutex<BTreeMap<String, Arc<Snapshot>>>,
}

/// A running VM.
#[derive(Debug)]
pub struct QemuVm {
    /// What the guard calls it.
    name: String,
    reach: Reach,
    /// QEMU itself.
    process: ProcessId,
    /// Its vsock, if it has one that came up.
    vsock: Option<Vsock>,
    /// Where QEMU listens for whoever wants the guest's second serial port.
    channel: PathBuf,
    network: Option<Arc<Network>>,
    snapshot: Arc<Snapshot>,
}

impl Qemu {
    /// VMs of this host, made by `guard`, which was started with the same run directory and worker.
    pub fn new(config: QemuConfig, here: HostFacts, guard: Guard) -> Self {
        if config.rates.network_bytes.is_some() {
            tracing::warn!("QEMU keeps no limit of a network card: vms.network_mib_per_s has no effect");
        }
        Self {
            transport: transport_of_host(),
            memory: MemoryPlace::best(&config.memory_dir),
            store: SnapshotStore::new(&config.data_dir),
            snapshots: Mutex::default(),
            networks: None,
            config,
            here,
            guard,
        }
    }

    /// The same, with networks for VMs that have a card.
    pub fn with_networks(self, networks: Option<Arc<Networks>>) -> Self {
        Self { networks, ..self }
    }

    /// The runtime's snapshot of now: a bake may have made another since the last restore. Blocks for a short time.
    pub fn snapshot(&self, runtime: &str) -> Result<Arc<Snapshot>, SnapshotError> {
        let mut snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let name = self.store.current_name(runtime);
        if let Some(known) = snapshots.get(runtime)
            && Some(known.name()) == name.as_deref()
        {
            return Ok(Arc::clone(known));
        }
        let snapshot = Arc::new(self.store.current(runtime, &self.here, Verification::Size)?);
        snapshots.insert(runtime.to_owned(), Arc::clone(&snapshot));
        Ok(snapshot)
    }
}

impl Hypervisor for Qemu {
    type Vm = QemuVm;
    type Dormant = DormantQemu;
    type Io = GuestStream;
    type Accept = Listener;

    async fn restore(&self, slot: &Slot, identity: &Identity) -> Result<Restored<QemuVm>, RestoreError> {
        self.restore_slot(slot, identity).await
    }

    fn starts_ahead(&self) -> bool {
        true
    }

    async fn start(&self, slot: &Slot, identity: &Identity) -> Result<DormantQemu, RestoreError> {
        self.start_slot(slot, identity).await
    }

    async fn load(&self, dormant: DormantQemu) -> Result<Restored<QemuVm>, RestoreError> {
        self.load_dormant(dormant).await
    }

    async fn dormant_exited(&self, dormant: &DormantQemu) {
        let how = self.guard.exited(dormant.name()).await;
        tracing::info!(vm = dormant.name(), %how, "a dormant QEMU ended");
    }

    fn dormant_from<'a>(&self, dormant: &'a DormantQemu) -> Option<&'a str> {
        Some(dormant.snapshot().name())
    }

    fn current(&self, runtime: &str) -> Option<String> {
        self.store.current_name(runtime)
    }

    fn came_from<'a>(&self, vm: &'a QemuVm) -> Option<&'a str> {
        Some(vm.snapshot.name())
    }

    async fn dial(&self, vm: &QemuVm) -> io::Result<GuestStream> {
        let by_vsock = || async {
            match &vm.vsock {
                Some(vsock) => vsock.dial().await,
                None => Err(io::ErrorKind::NotConnected.into()),
            }
        };
        let by_serial = || async {
            let port: GuestStream = Box::new(UnixStream::connect(&vm.channel).await?);
            Ok(port)
        };
        vm.reach.dial(by_vsock, by_serial).await
    }

    fn is_gone(&self) -> bool {
        self.guard.is_dead()
    }

    fn is_cut_off(&self, vm: &QemuVm) -> bool {
        ProcessId::of(vm.process.pid).is_ok_and(|now| now == vm.process)
    }

    /// The guard has the CID's lock until it has ended the VM.
    fn is_locked(&self, _vm: &QemuVm) -> bool {
        true
    }

    fn transport(&self, vm: &QemuVm) -> &'static str {
        vm.reach.transport().as_str()
    }

    fn network<'a>(&self, vm: &'a QemuVm) -> Option<&'a Arc<Network>> {
        vm.network.as_ref()
    }

    fn listen(&self, vm: &QemuVm, port: u16) -> io::Result<Listener> {
        match &vm.vsock {
            Some(vsock) if vm.reach.transport() != Transport::Serial => vsock.listen(port),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "a serial port carries one session only")),
        }
    }

    async fn exited(&self, vm: &QemuVm) {
        let how = self.guard.exited(&vm.name).await;
        tracing::info!(vm = %vm.name, %how, "VM ended");
    }

    async fn destroy(&self, slot: &Slot, vm: Option<QemuVm>) -> Result<(), DestroyError> {
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
