//! From a snapshot to a VM whose vsock answers.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hearth_schemas::manifest::{HypervisorKind, Transport};
use tokio::{
    net::UnixListener,
    time::{Instant, sleep, timeout},
};

use super::{
    Qemu, QemuVm,
    arguments::{MachineSpec, Start, VSOCK_ADDR, arguments},
    boot::END_GRACE,
    clone::{StopOnDrop, clone_file},
    log_tail,
    memory::MemoryFile,
    qmp::{
        Qmp, QmpError,
        commands::{
            Capability, ChardevAdd, ChardevBackend, Cont, DeviceAdd, MigrateIncoming, QueryMigrate,
            QueryVirtioStatus, SetCapabilities, SocketAddress,
        },
    },
    seccomp::unfiltered_threads,
    vsock::{SOCKET_PATH_MAX_BYTES, Vsock, port_socket},
};
use crate::{
    guard::{GuardError, OpenVm},
    hypervisor::{RestoreError, RestoreStep, Restored, Slot},
    lease::Identity,
    snapshot::Snapshot,
};

/// Bound of each part of a restore. An idle host needs 0.2 s for all of them; a busy one may need many times that.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// How often a state is asked for that nobody tells.
const POLL: Duration = Duration::from_millis(2);
/// Characters of a runtime's name that go into a directory's: sockets are below it, and their paths are short.
const NAME_CHARACTERS: usize = 16;
/// The plugged vsock in QEMU's object tree.
const VSOCK_DEVICE: &str = "/machine/peripheral/vsock/virtio-backend";

const QEMU_LOG: &str = "qemu.log";
const DAEMON_LOG: &str = "vsock.log";

/// What the directories of a slot's VMs begin with.
pub fn directory_prefix(slot: &Slot) -> String {
    let runtime: String = slot.runtime.chars().take(NAME_CHARACTERS).collect();
    format!("{runtime}-{}-", slot.number)
}

/// A VM that is being made.
struct Making<'a> {
    qemu: &'a Qemu,
    snapshot: Arc<Snapshot>,
    name: String,
    identity: Identity,
    directory: PathBuf,
    scratch: PathBuf,
    memory: MemoryFile,
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
        let Making { snapshot, name, steps, .. } = making;
        let named = snapshot.manifest.inputs_sha256.clone();
        Ok(Restored { vm: QemuVm { name, vsock, _snapshot: snapshot }, snapshot: named, steps })
    }

    /// The lock, the directories, and the files as large as they will be.
    async fn open(
        &self,
        slot: &Slot,
        identity: &Identity,
        snapshot: Arc<Snapshot>,
    ) -> Result<Making<'_>, RestoreError> {
        let begun = Instant::now();
        // The slot and the CID are for people and for reclaim; the token makes the name new.
        let unique = format!("{}{}-{:x}", directory_prefix(slot), identity.cid, identity.token);
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
            steps: Vec::new(),
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

    /// The scratch disk with its size, which QEMU reads when it starts, and nothing in it.
    fn empty_scratch(&self) -> Result<File, RestoreError> {
        let size = self.snapshot.manifest.machine.scratch_mib << 20;
        let made = File::options().read(true).write(true).create_new(true).open(&self.scratch);
        made.and_then(|file| file.set_len(size).map(|()| file)).map_err(host("make the scratch disk"))
    }

    async fn clone_files(&self, scratch: File) -> Result<(), RestoreError> {
        let mut pairs = vec![(self.snapshot.scratch(), scratch)];
        if self.qemu.memory_is_copied() {
            pairs.push((self.snapshot.memory(), self.memory.file.try_clone().map_err(host("share memory"))?));
        }
        let stop = StopOnDrop::default();
        let flag = stop.flag();
        let copied = tokio::task::spawn_blocking(move || -> io::Result<()> {
            for (source, target) in pairs {
                clone_file(&File::open(source)?, &target, &flag)?;
            }
            Ok(())
        });
        let copied = copied.await.map_err(|error| host("copy memory and disk")(error.into()))?;
        copied.map_err(host("copy memory and disk"))
    }

    async fn start_qemu(&self) -> Result<(Qmp, u32), RestoreError> {
        let machine = &self.snapshot.manifest.machine;
        let copied = self.qemu.memory_is_copied();
        let template = self.snapshot.memory();
        let spec = MachineSpec {
            accelerator: self.snapshot.manifest.accelerator,
            vcpus: machine.vcpus,
            memory_mib: machine.vm_memory_mib,
            memory: if copied { &self.memory.path } else { &template },
            memory_shared: copied,
            root: &self.snapshot.root(),
            scratch: &self.scratch,
            qmp: Path::new("qmp"),
        };
        // We listen and QEMU connects: nobody has to look whether a socket is there yet.
        let listener = UnixListener::bind(self.directory.join("qmp")).map_err(host("listen for QMP"))?;
        let mut argv = vec![self.qemu.config.qemu.display().to_string()];
        argv.extend(arguments(&spec, &Start::Incoming));
        let spawned = self.qemu.guard.spawn(&self.name, argv, QEMU_LOG).await;
        let pid = spawned.map_err(|error| refused(&error, &self.identity))?;
        let accepted = timeout(STEP_LIMIT, listener.accept()).await;
        let accepted = accepted.map_err(|_| RestoreError::Timeout { step: "start", limit: STEP_LIMIT })?;
        let (socket, _) = accepted.map_err(host("accept QMP"))?;
        Ok((Qmp::open(socket, STEP_LIMIT).await.map_err(vmm)?, pid))
    }

    async fn start_daemon(&self) -> Result<(), RestoreError> {
        if self.qemu.transport == Transport::VhostVsock {
            return Ok(());
        }
        let cid = self.identity.cid.to_string();
        let program = self.qemu.config.vsock_daemon.display().to_string();
        let argv = [&program, "--guest-cid", &cid, "--socket", "vhost", "--uds-path", "vsock"];
        let argv = argv.map(str::to_owned).to_vec();
        let spawned = self.qemu.guard.spawn(&self.name, argv, DAEMON_LOG).await;
        spawned.map(|_| ()).map_err(|error| refused(&error, &self.identity))
    }

    async fn load(&self, qmp: &mut Qmp) -> Result<(), RestoreError> {
        let ignore_shared = Capability { capability: "x-ignore-shared", state: true };
        qmp.execute(&SetCapabilities { capabilities: vec![ignore_shared] }).await.map_err(vmm)?;
        let uri = format!("file:{}", self.snapshot.state().display());
        qmp.execute(&MigrateIncoming { uri }).await.map_err(vmm)?;
        let loaded = async {
            loop {
                let migration = qmp.execute(&QueryMigrate {}).await.map_err(vmm)?;
                match migration.status.as_deref() {
                    Some("completed") => return Ok(()),
                    Some("failed") => {
                        let why =
                            migration.error_desc.unwrap_or_else(|| log_tail(&self.directory.join(QEMU_LOG)));
                        return Err(RestoreError::Vmm(format!("the state cannot be loaded: {why}")));
                    }
                    _ => sleep(POLL).await,
                }
            }
        };
        let timed = timeout(STEP_LIMIT, loaded).await;
        timed.map_err(|_| RestoreError::Timeout { step: "load", limit: STEP_LIMIT })?
    }

    async fn plug(&self, qmp: &mut Qmp) -> Result<Vsock, RestoreError> {
        if self.qemu.transport == Transport::VhostVsock {
            let guest_cid = self.identity.cid;
            let device = DeviceAdd::VhostVsock { id: "vsock", guest_cid, addr: VSOCK_ADDR };
            qmp.execute(&device).await.map_err(vmm)?;
            return Ok(Vsock::Kernel(guest_cid));
        }
        self.connect_daemon(qmp).await?;
        let device = DeviceAdd::VhostUserVsock { id: "vsock", chardev: "vsock", addr: VSOCK_ADDR };
        qmp.execute(&device).await.map_err(vmm)?;
        Ok(Vsock::Daemon(self.directory.join("vsock")))
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
                    let said = log_tail(&self.directory.join(DAEMON_LOG));
                    return Err(RestoreError::Vmm(format!("vsock daemon: {error}; {said}")));
                }
            }
        }
    }

    fn check_seccomp(&self, pid: u32) -> Result<(), RestoreError> {
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
async fn wait_for_driver(qmp: &mut Qmp) -> Result<(), RestoreError> {
    let ready = async {
        loop {
            let status = qmp.execute(&QueryVirtioStatus { path: VSOCK_DEVICE }).await.map_err(vmm)?;
            if status.driver_ok() {
                return Ok(());
            }
            sleep(POLL).await;
        }
    };
    let timed = timeout(STEP_LIMIT, ready).await;
    timed.map_err(|_| RestoreError::Timeout { step: "driver", limit: STEP_LIMIT })?
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
