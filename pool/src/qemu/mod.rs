//! VMs by QEMU: from the distribution's packages, with KVM where it works and by translation where it does not.

mod arguments;
mod bake;
mod boot;
mod clone;
mod memory;
mod probe;
pub mod qmp;
mod restore;
mod seccomp;
mod serial;
mod vsock;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use hearth_schemas::manifest::Transport;

pub use self::{
    bake::{BakeError, BakeRequest, Baked, bake_snapshot},
    boot::BootError,
    probe::{KvmAnswer, forget_kvm, known_kvm, probe_kvm},
    vsock::{GuestStream, Listener, transport_of_host},
};
use self::{memory::MemoryPlace, vsock::Vsock};
use crate::{
    guard::{Guard, GuardError, owner::Owner, vms_directory},
    hypervisor::{DestroyError, Hypervisor, RestoreError, Restored, Slot},
    lease::Identity,
    reclaim::reclaim,
    snapshot::{HostFacts, Snapshot, SnapshotError, SnapshotStore, Verification},
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
    /// The snapshot of each runtime that was restored last. Held in use, so that no bake removes it.
    snapshots: Mutex<BTreeMap<String, Arc<Snapshot>>>,
}

/// A running VM.
#[derive(Debug)]
pub struct QemuVm {
    /// What the guard calls it.
    name: String,
    vsock: Vsock,
    _snapshot: Arc<Snapshot>,
}

impl Qemu {
    /// VMs of this host, made by `guard`, which was started with the same run directory and worker.
    pub fn new(config: QemuConfig, here: HostFacts, guard: Guard) -> Self {
        Self {
            transport: transport_of_host(),
            memory: MemoryPlace::best(&config.memory_dir),
            store: SnapshotStore::new(&config.data_dir),
            snapshots: Mutex::default(),
            config,
            here,
            guard,
        }
    }

    /// The runtime's snapshot of now: a bake may have made another since the last restore. Blocks for a short time.
    pub fn snapshot(&self, runtime: &str) -> Result<Arc<Snapshot>, SnapshotError> {
        let mut snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let name = self.store.current_name(runtime);
        if let Some(known) = snapshots.get(runtime)
            && known.directory.file_name().and_then(|known| known.to_str()) == name.as_deref()
        {
            return Ok(Arc::clone(known));
        }
        let snapshot = Arc::new(self.store.current(runtime, &self.here, Verification::Size)?);
        snapshots.insert(runtime.to_owned(), Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// The guard died, and by that every VM of this worker: what is left lies on disk.
    async fn clear_without_guard(&self, slot: &Slot) -> Result<(), DestroyError> {
        let failed = |what: String| DestroyError { slot: slot.clone(), what };
        let run_dir = self.config.run_dir.clone();
        let reclaimed = tokio::task::spawn_blocking(move || reclaim(&run_dir)).await;
        match reclaimed {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(failed(format!("{error}: {}", error.source))),
            Err(error) => return Err(failed(error.to_string())),
        }
        match left_of(&self.config, slot) {
            Ok(None) => Ok(()),
            Ok(Some(path)) => Err(failed(format!("{} is still there", path.display()))),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// A directory of this worker's VM in the slot, if there still is one.
fn left_of(config: &QemuConfig, slot: &Slot) -> io::Result<Option<PathBuf>> {
    let prefix = restore::directory_prefix(slot);
    let entries = match std::fs::read_dir(vms_directory(&config.run_dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let ours =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix));
        if ours && Owner::read(&path).is_ok_and(|owner| owner.worker == config.worker) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

impl Hypervisor for Qemu {
    type Vm = QemuVm;
    type Io = GuestStream;
    type Accept = Listener;

    async fn restore(&self, slot: &Slot, identity: &Identity) -> Result<Restored<QemuVm>, RestoreError> {
        self.restore_slot(slot, identity).await
    }

    async fn dial(&self, vm: &QemuVm) -> io::Result<GuestStream> {
        vm.vsock.dial().await
    }

    fn listen(&self, vm: &QemuVm, port: u16) -> io::Result<Listener> {
        vm.vsock.listen(port)
    }

    async fn exited(&self, vm: &QemuVm) {
        let how = self.guard.exited(&vm.name).await;
        tracing::info!(vm = %vm.name, %how, "VM ended");
    }

    async fn destroy(&self, slot: &Slot, vm: Option<QemuVm>) -> Result<(), DestroyError> {
        let outcome = match self.guard.end(&slot.to_string()).await {
            Err(GuardError::Dead) => self.clear_without_guard(slot).await,
            Err(error) => Err(DestroyError { slot: slot.clone(), what: error.to_string() }),
            Ok(()) => Ok(()),
        };
        drop(vm);
        outcome
    }
}

/// The end of a log file, for an error's message; a word about it when there is none.
fn log_tail(path: &Path) -> String {
    const TAIL_BYTES: usize = 2048;
    match std::fs::read(path) {
        Ok(bytes) if bytes.is_empty() => "it said nothing".to_owned(),
        Ok(bytes) => {
            let tail = bytes.get(bytes.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
            String::from_utf8_lossy(tail).trim().to_owned()
        }
        Err(error) => format!("its log cannot be read: {error}"),
    }
}
