//! From a snapshot to a VM whose vsock answers.

mod load;
mod start;

use std::{
    fs::File,
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
    qmp::{Qmp, QmpError, commands::Cont},
    vsock::{SOCKET_PATH_MAX_BYTES, Vsock},
};
use crate::{
    guard::{GuardError, OpenVm, process::ProcessId},
    hypervisor::{RestoreError, RestoreStep, Restored, Slot},
    lease::Identity,
    net::{Network, network_of},
    snapshot::Snapshot,
    vm::{directory::unique_name, hybrid_vsock::port_socket, log::log_tail, reach::Reach},
};

/// Bound of each part of a restore. An idle host needs 0.2 s for all of them; a busy one may need many times that.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// The same for the guest's driver of vsock where its serial port would do.
const DRIVER_LIMIT: Duration = Duration::from_secs(8);
/// How often a state is asked for that nobody tells.
const POLL: Duration = Duration::from_millis(2);

const QEMU_LOG: &str = "qemu.log";
const DAEMON_LOG: &str = "vsock.log";
/// Where QEMU listens for whoever wants the guest's second serial port.
const CHANNEL: &str = "channel";

/// A VM that is being made: what there is of it.
#[derive(Debug)]
struct Parts {
    snapshot: Arc<Snapshot>,
    name: String,
    identity: Identity,
    directory: PathBuf,
    scratch: PathBuf,
    memory: MemoryFile,
    network: Option<Arc<Network>>,
    reach: Reach,
    steps: Vec<RestoreStep>,
}

/// Its vsock, if it has one that came up, and QEMU.
type Made = (Option<Vsock>, ProcessId);

/// And who makes it.
struct Making<'a> {
    qemu: &'a Qemu,
    parts: Parts,
}

/// QEMU with its devices and an empty memory, and the vsock daemon. Nothing of the snapshot's memory was read.
#[derive(Debug)]
pub struct DormantQemu {
    parts: Parts,
    scratch: File,
    qmp: Qmp,
    pid: u32,
}

impl DormantQemu {
    /// What it will restore.
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.parts.snapshot
    }

    /// What the guard calls it.
    pub(super) fn name(&self) -> &str {
        &self.parts.name
    }
}

impl Qemu {
    pub(super) async fn restore_slot(
        &self,
        slot: &Slot,
        identity: &Identity,
    ) -> Result<Restored<QemuVm>, RestoreError> {
        let mut making = self.begin(slot, identity).await?;
        let (name, log) = (making.parts.name.clone(), making.parts.directory.join(QEMU_LOG));
        let made = self.unless_it_ends(&name, &log, making.make()).await?;
        Ok(making.restored(made))
    }

    pub(super) async fn start_slot(
        &self,
        slot: &Slot,
        identity: &Identity,
    ) -> Result<DormantQemu, RestoreError> {
        let making = self.begin(slot, identity).await?;
        let (name, log) = (making.parts.name.clone(), making.parts.directory.join(QEMU_LOG));
        let (scratch, qmp, pid) = self.unless_it_ends(&name, &log, making.start()).await?;
        Ok(DormantQemu { parts: making.parts, scratch, qmp, pid })
    }

    pub(super) async fn load_dormant(&self, dormant: DormantQemu) -> Result<Restored<QemuVm>, RestoreError> {
        let DormantQemu { parts, scratch, mut qmp, pid } = dormant;
        let (name, log) = (parts.name.clone(), parts.directory.join(QEMU_LOG));
        // What was done ahead is no part of this restore.
        let mut making = Making { qemu: self, parts: Parts { steps: Vec::new(), ..parts } };
        let loaded = async {
            let begun = Instant::now();
            making.clone_files(scratch).await?;
            making.step("clone", begun);
            making.finish(&mut qmp, pid).await
        };
        let made = self.unless_it_ends(&name, &log, loaded).await?;
        Ok(making.restored(made))
    }

    /// Does a part of a restore. A QEMU that ends says more by its end than by what it closes first.
    async fn unless_it_ends<T>(
        &self,
        name: &str,
        log: &Path,
        part: impl Future<Output = Result<T, RestoreError>>,
    ) -> Result<T, RestoreError> {
        let ended = |how| RestoreError::Vmm(format!("{how}; {}", log_tail(log)));
        let made = tokio::select! {
            made = part => made,
            how = self.guard.exited(name) => return Err(ended(how)),
        };
        match made {
            Err(error @ RestoreError::Vmm(_)) => match timeout(END_GRACE, self.guard.exited(name)).await {
                Ok(how) => Err(ended(how)),
                Err(_) => Err(error),
            },
            other => other,
        }
    }

    /// The lock, the directories, and the files as large as they will be.
    async fn begin(&self, slot: &Slot, identity: &Identity) -> Result<Making<'_>, RestoreError> {
        let snapshot = self.snapshot(&slot.runtime).map_err(|e| RestoreError::Snapshot(e.to_string()))?;
        if snapshot.manifest.hypervisor != HypervisorKind::Qemu {
            return Err(RestoreError::Snapshot(format!("{} is not a snapshot of QEMU", slot.runtime)));
        }
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
        let reach = Reach::of(&snapshot.manifest, self.transport);
        let memory = self.memory.create(&unique, snapshot.manifest.machine.vm_memory_mib << 20);
        let memory = memory.map_err(host("make the memory"))?;
        let parts = Parts {
            snapshot,
            name,
            identity: *identity,
            directory: opened.directory,
            scratch: scratch_directory.join("scratch.img"),
            memory,
            network,
            reach,
            steps: network_took.into_iter().collect(),
        };
        let mut making = Making { qemu: self, parts };
        making.step("open", begun);
        Ok(making)
    }
}

impl Making<'_> {
    /// Whether the memory is the VM's own copy, which a vsock daemon needs, or the template's, copied on write.
    fn memory_is_copied(&self) -> bool {
        self.needs_daemon()
    }

    /// Whether a daemon carries the VM's vsock.
    fn needs_daemon(&self) -> bool {
        self.parts.reach.has_vsock() && self.qemu.transport != Transport::VhostVsock
    }

    fn step(&mut self, name: &'static str, begun: Instant) {
        self.parts.steps.push(RestoreStep { name, took: begun.elapsed() });
    }

    fn restored(self, (vsock, process): Made) -> Restored<QemuVm> {
        let Parts { snapshot, name, directory, network, reach, steps, .. } = self.parts;
        let named = snapshot.manifest.inputs_sha256.clone();
        let channel = directory.join(CHANNEL);
        let vm = QemuVm { name, reach, process, vsock, channel, network, snapshot };
        Restored { vm, snapshot: named, steps }
    }

    /// QEMU and the vsock daemon, with nothing in memory and scratch disk.
    async fn start(&self) -> Result<(File, Qmp, u32), RestoreError> {
        let scratch = self.empty_scratch()?;
        let (started, daemon) = tokio::join!(self.start_qemu(), self.start_daemon());
        daemon?;
        let (qmp, pid) = started?;
        Ok((scratch, qmp, pid))
    }

    async fn make(&mut self) -> Result<Made, RestoreError> {
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
        self.parts.steps.push(RestoreStep { name: "clone", took: clone_took });
        self.step("start", begun);
        self.finish(&mut qmp, pid).await
    }

    /// What follows once memory and disk are copied and QEMU is there.
    async fn finish(&mut self, qmp: &mut Qmp, pid: u32) -> Result<Made, RestoreError> {
        let process = ProcessId::of(pid).map_err(host("look at QEMU"))?;
        let begun = Instant::now();
        self.load(qmp).await?;
        self.step("load", begun);

        let begun = Instant::now();
        let mut vsock = match self.parts.reach.has_vsock() {
            true => Some(self.plug(qmp).await?),
            false => None,
        };
        qmp.execute(&Cont {}).await.map_err(vmm)?;
        self.step("plug", begun);

        let begun = Instant::now();
        if vsock.is_some() {
            let reach = &self.parts.reach;
            let limit = if reach.has_serial() { DRIVER_LIMIT } else { STEP_LIMIT };
            match wait_for_driver(qmp, limit).await {
                Err(late @ RestoreError::Timeout { .. }) if reach.without_vsock(&late) => vsock = None,
                waited => waited?,
            }
        }
        self.check_seccomp(pid)?;
        self.step("driver", begun);
        Ok((vsock, process))
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
