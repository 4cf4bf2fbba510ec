//! Which hypervisor makes this host's VMs.

use std::path::{Path, PathBuf};

use hearth_pool::{
    firecracker::{Confinement, FirecrackerConfig},
    qemu::QemuConfig,
    snapshot::SnapshotStore,
};

use super::Host;

/// The programs that make VMs, and how they are held.
#[derive(Clone, Debug)]
pub enum Vmm {
    /// From the distribution's packages, with or without KVM.
    Qemu {
        /// `qemu-system-x86_64`.
        qemu: PathBuf,
        /// `vhost-device-vsock`; not used where the kernel has vhost-vsock.
        vsock_daemon: PathBuf,
    },
    /// With KVM only.
    Firecracker {
        /// `firecracker`.
        firecracker: PathBuf,
        /// By its jailer, unless told otherwise.
        confinement: Confinement,
        /// Accept a Firecracker whose threads are not all under a system call filter.
        insecure_seccomp: bool,
    },
}

impl Vmm {
    /// What people call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Qemu { .. } => "qemu",
            Self::Firecracker { .. } => "firecracker",
        }
    }

    /// Its snapshots: not those of another hypervisor.
    pub fn store(&self, data_dir: &Path) -> SnapshotStore {
        match self {
            Self::Qemu { .. } => SnapshotStore::new(data_dir),
            Self::Firecracker { .. } => FirecrackerConfig::store_in(data_dir),
        }
    }
}

/// How VMs are made by QEMU here.
pub fn qemu_config(host: &Host, qemu: &Path, vsock_daemon: &Path) -> QemuConfig {
    QemuConfig {
        qemu: qemu.to_owned(),
        vsock_daemon: vsock_daemon.to_owned(),
        run_dir: host.run_dir.clone(),
        data_dir: host.data_dir.clone(),
        memory_dir: host.run_dir.join("memory"),
        scratch_dir: host.data_dir.join("scratch"),
        rates: host.rates,
        insecure_seccomp: false,
        worker: host.worker.clone(),
    }
}

/// How VMs are made by Firecracker here.
pub fn firecracker_config(
    host: &Host,
    firecracker: &Path,
    confinement: &Confinement,
    insecure_seccomp: bool,
) -> FirecrackerConfig {
    FirecrackerConfig {
        firecracker: firecracker.to_owned(),
        confinement: confinement.clone(),
        run_dir: host.run_dir.clone(),
        data_dir: host.data_dir.clone(),
        rates: host.rates,
        insecure_seccomp,
        worker: host.worker.clone(),
    }
}
