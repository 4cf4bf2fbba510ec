//! The parts of a restore that follow one another: load the state, plug vsock, wait for the guest's driver.

use std::time::Duration;

use hearth_schemas::manifest::Transport;
use tokio::time::{Instant, sleep, timeout};

use super::{DAEMON_LOG, Making, POLL, QEMU_LOG, STEP_LIMIT, host, vmm};
use crate::{
    hypervisor::RestoreError,
    qemu::{
        arguments::VSOCK_ADDR,
        qmp::{
            Qmp, QmpError,
            commands::{
                Capability, ChardevAdd, ChardevBackend, DeviceAdd, MigrateIncoming, QueryMigrate,
                QueryVirtioStatus, SetCapabilities, SocketAddress,
            },
        },
        vsock::Vsock,
    },
    vm::{log::log_tail, seccomp::unfiltered_threads},
};

/// The plugged vsock in QEMU's object tree.
const VSOCK_DEVICE: &str = "/machine/peripheral/vsock/virtio-backend";

impl Making<'_> {
    pub(super) async fn load(&self, qmp: &mut Qmp) -> Result<(), RestoreError> {
        let ignore_shared = Capability { capability: "x-ignore-shared", state: true };
        qmp.execute(&SetCapabilities { capabilities: vec![ignore_shared] }).await.map_err(vmm)?;
        let uri = format!("file:{}", self.parts.snapshot.state().display());
        qmp.execute(&MigrateIncoming { uri }).await.map_err(vmm)?;
        let loaded = async {
            loop {
                let migration = qmp.execute(&QueryMigrate {}).await.map_err(vmm)?;
                match migration.status.as_deref() {
                    Some("completed") => return Ok(()),
                    Some("failed") => {
                        let why = migration
                            .error_desc
                            .unwrap_or_else(|| log_tail(&self.parts.directory.join(QEMU_LOG)));
                        return Err(RestoreError::Vmm(format!("the state cannot be loaded: {why}")));
                    }
                    _ => sleep(POLL).await,
                }
            }
        };
        let timed = timeout(STEP_LIMIT, loaded).await;
        timed.map_err(|_| RestoreError::Timeout { step: "load", limit: STEP_LIMIT })?
    }

    pub(super) async fn plug(&self, qmp: &mut Qmp) -> Result<Vsock, RestoreError> {
        if self.qemu.transport == Transport::VhostVsock {
            let guest_cid = self.parts.identity.cid;
            let device = DeviceAdd::VhostVsock { id: "vsock", guest_cid, addr: VSOCK_ADDR };
            qmp.execute(&device).await.map_err(vmm)?;
            return Ok(Vsock::Kernel(guest_cid));
        }
        self.connect_daemon(qmp).await?;
        let device = DeviceAdd::VhostUserVsock { id: "vsock", chardev: "vsock", addr: VSOCK_ADDR };
        qmp.execute(&device).await.map_err(vmm)?;
        Ok(Vsock::Daemon(self.parts.directory.join("vsock")))
    }

    /// The daemon was started long ago; that it listens by now is likely and not sure.
    async fn connect_daemon(&self, qmp: &mut Qmp) -> Result<(), RestoreError> {
        let deadline = Instant::now() + STEP_LIMIT;
        loop {
            let addr = SocketAddress::Unix { path: "vhost".to_owned() };
            let backend = ChardevBackend::Socket { addr, server: false };
            match qmp.execute(&ChardevAdd { id: "vsock", backend }).await {
                Ok(_) => return Ok(()),
                Err(QmpError::Refused { .. }) if Instant::now() < deadline => sleep(POLL).await,
                Err(error) => {
                    let said = log_tail(&self.parts.directory.join(DAEMON_LOG));
                    return Err(RestoreError::Vmm(format!("vsock daemon: {error}; {said}")));
                }
            }
        }
    }

    pub(super) fn check_seccomp(&self, pid: u32) -> Result<(), RestoreError> {
        let missing = unfiltered_threads(pid).map_err(host("look at QEMU's threads"))?;
        if missing.is_empty() || self.qemu.config.insecure_seccomp {
            return Ok(());
        }
        Err(RestoreError::Vmm(format!(
            "QEMU runs without a system call filter (allow it with insecure.seccomp): {}",
            missing.join(", ")
        )))
    }
}

/// Waits until the guest's driver has set the plugged device up. QEMU says so only after it has told the daemon about
/// the rings and had its answer, so a `CONNECT` from now on finds them.
pub(super) async fn wait_for_driver(qmp: &mut Qmp, limit: Duration) -> Result<(), RestoreError> {
    let ready = async {
        loop {
            let status = qmp.execute(&QueryVirtioStatus { path: VSOCK_DEVICE }).await.map_err(vmm)?;
            if status.driver_ok() {
                return Ok(());
            }
            sleep(POLL).await;
        }
    };
    let timed = timeout(limit, ready).await;
    timed.map_err(|_| RestoreError::Timeout { step: "driver", limit })?
}
