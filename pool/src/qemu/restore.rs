//! From a snapshot to a VM whose vsock answers.

mod load;
mod start;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hearth_schemas::manifest::{HypervisorKind, Transport};
use tokio::time::{Instant, timeout};

use self::load::wait_for_driver;
use super::{
    Qemu, QemuVm,
    boot::END_GRACE,
    memory::MemoryFile,
    qmp::{QmpError, commands::Cont},
    vsock::{SOCKET_PATH_MAX_BYTES, Vsock},
};
use crate::{
    guard::{GuardError, OpenVm},
    hypervisor::{RestoreError, RestoreStep, Restored, Slot},
    lease::Identity,
    net::{Network, network_of},
    snapshot::Snapshot,
    vm::{directory::unique_name, hybrid_vsock::port_socket, log::log_tail},
};

/// Bound of each part of a restore. An idle host needs 0.2 s for all of them; a busy one may need many times that.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// How often a state is asked for that nobody tells.
const POLL: Duration = Duration::from_millis(2);

const QEMU_LOG: &str = "qemu.log";
const DAEMON_LOG: &str = "vsock.log";

/// A VM that is being made.
struct Making<'a> {
    qemu: &'a Qemu,
    snapshot: Arc<Snapshot>,
    name: String,
    identity: Identity,
    directory: PathBuf,
    scratch: PathBuf,
    memory: MemoryFile,
    network: Option<Arc<Network>>,
    steps: Vec<RestoreStep>,
}

impl Qemu {
    pub(super) async fn restore_slot(
        &self,
        slot: &Slot,
        identity: &Identity,
    ) -> Result<Restored<QemuVm>, RestoreError> {
        let snapshot = self.snapshot(&slot.runtime).map_err(|e| RestoreError::Snapshot(e.to_string()))?;
        if snapshot.manifest.hypervisor != HypervisorKind::Qemu {
            return Err(RestoreError::Snapshot(format!("{} is not a snapshot of QEMU", slot.runtime)));
        }
        let mut making = self.open(slot, identity, snapshot).await?;
        let name = making.name.clone();
        let log = making.directory.join(QEMU_LOG);
        let ended = |how| RestoreError::Vmm(format!("{how}; {}", log_tail(&log)));
        let made = tokio::select! {
            made = making.make() => made,
            how = self.guard.exited(&name) => Err(ended(how)),
        };
        let vsock = match made {
            Ok(vsock) => vsock,
            // A QEMU that ends closes its sockets first, and says more by its end than they do.
            Err(error @ RestoreError::Vmm(_)) => match timeout(END_GRACE, self.guard.exited(&name)).await {
                Ok(how) => return Err(ended(how)),
                Err(_) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let Making { snapshot, name, network, steps, .. } = making;
        let named = snapshot.manifest.inputs_sha256.clone();
        Ok(Restored { vm: QemuVm { name, vsock, network, _snapshot: snapshot }, snapshot: named, steps })
    }

    /// The lock, the directories, and the files as large as they will be.
    async fn open(
        &self,
        slot: &Slot,
        identity: &Identity,
        snapshot: Arc<Snapshot>,
    ) -> Result<Making<'_>, RestoreError> {
        let (network, network_took) = network_of(&snapshot, self.networks.as_deref()).await?;
        let begun = Instant::now();
        let unique = unique_name(slot, identity);
        let scratch_directory = self.config.scratch_dir.join(&unique);
        let mut also = vec![scratch_directory.clone()];
        also.extend(self.memory.directory(&unique));
        let name = slot.to_string();
        let open = OpenVm { vm: name.clone(), directory: unique.clone(), cid: identity.cid, also };
        let opened = self.guard.open(open).await.map_err(|error| refused(&error, identity))?;
        check_socket_paths(&opened.directory)?;
        let memory = self.memory.create(&unique, snapshot.manifest.machine.vm_memory_mib << 20);
        let memory = memory.map_err(host("make the memory"))?;
        let mut making = Making {
            qemu: self,
            snapshot,
            name,
            identity: *identity,
            directory: opened.directory,
            scratch: scratch_directory.join("scratch.img"),
            memory,
            network,
            steps: network_took.into_iter().collect(),
        };
        making.step("open", begun);
        Ok(making)
    }

    /// Whether the memory is the VM's own copy, which a vsock daemon needs, or the template's, copied on write.
    fn memory_is_copied(&self) -> bool {
        self.transport != Transport::VhostVsock
    }
}

impl Making<'_> {
    fn step(&mut self, name: &'static str, begun: Instant) {
        self.steps.push(RestoreStep { name, took: begun.elapsed() });
    }

    async fn make(&mut self) -> Result<Vsock, RestoreError> {
        let scratch = self.empty_scratch()?;
        let begun = Instant::now();
        // QEMU needs as long to come up as the files need to be copied, and does not look into them meanwhile.
        let ((cloned, clone_took), started, daemon) = tokio::join!(
            async { (self.clone_files(scratch).await, begun.elapsed()) },
            self.start_qemu(),
            self.start_daemon(),
        );
        cloned?;
        daemon?;
        let (mut qmp, pid) = started?;
        self.steps.push(RestoreStep { name: "clone", took: clone_took });
        self.step("start", begun);

        let begun = Instant::now();
        self.load(&mut qmp).await?;
        self.step("load", begun);

        let begun = Instant::now();
        let vsock = self.plug(&mut qmp).await?;
        qmp.execute(&Cont {}).await.map_err(vmm)?;
        self.step("plug", begun);

        let begun = Instant::now();
        wait_for_driver(&mut qmp).await?;
        self.check_seccomp(pid)?;
        self.step("driver", begun);
        Ok(vsock)
    }
}

fn check_socket_paths(directory: &Path) -> Result<(), RestoreError> {
    let longest = port_socket(&directory.join("vsock"), u16::MAX);
    let length = longest.as_os_str().len();
    if length <= SOCKET_PATH_MAX_BYTES {
        return Ok(());
    }
    let what = format!(
        "{} has {length} bytes, and a socket's path at most {SOCKET_PATH_MAX_BYTES}: choose a shorter run directory",
        longest.display()
    );
    Err(host("name sockets")(io::Error::new(io::ErrorKind::InvalidInput, what)))
}

fn refused(error: &GuardError, identity: &Identity) -> RestoreError {
    match error {
        GuardError::IdentityBusy => RestoreError::IdentityBusy { cid: identity.cid },
        other => RestoreError::Vmm(other.to_string()),
    }
}

fn host(what: &'static str) -> impl Fn(io::Error) -> RestoreError {
    move |source| RestoreError::Host { what: what.to_owned(), source }
}

fn vmm(error: QmpError) -> RestoreError {
    match error {
        QmpError::Timeout { command, limit } => RestoreError::Timeout { step: command, limit },
        other => RestoreError::Vmm(other.to_string()),
    }
}
