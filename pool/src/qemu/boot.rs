//! A cold boot, with the agent reached over the second serial port: for bakes and for the probe of KVM.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use hearth_schemas::manifest::Accelerator;
use tokio::{
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::{
    arguments::{MachineSpec, Start, arguments},
    memory::{MemoryFile, MemoryPlace},
    qmp::{Qmp, QmpError},
};
use crate::{
    guard::{Guard, GuardError, OpenVm},
    image::Image,
    net::Network,
    rates::Rates,
    runtime::Runtime,
    session::{Session, SessionError},
    vm::{
        clone::{Holes, StopOnDrop, copy},
        log::log_tail,
        serial::wait_for_agent,
    },
};

/// Bound of QEMU's start and of each of its answers.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// How long after a socket's failure the end of QEMU may be told.
pub(super) const END_GRACE: Duration = Duration::from_millis(200);
/// Bound of the hello once the agent has made itself heard.
const HELLO_LIMIT: Duration = Duration::from_secs(30);
/// How often a guest's serial port is knocked on. It takes 11 bytes in a millisecond.
const KNOCK_EVERY: Duration = Duration::from_millis(50);
/// What a VM without vsock has for a CID: above any that is leased, and its lock tells bakes apart.
const BOOT_CIDS: u32 = 0x8000_0000;

/// The guest's kernel command line. The agent reads the words that begin with `hearth.`.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 hearth.root=/dev/vda \
    hearth.rootfstype=ext4 hearth.scratch=/dev/vdb hearth.channel=/dev/ttyS1";

const QEMU_LOG: &str = "qemu.log";
const CONSOLE: &str = "console.log";

/// Why a VM did not come up. Messages carry the end of QEMU's log or of the guest's console.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The host refused something.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The guard did.
    #[error("the VM cannot be started")]
    Guard(#[from] GuardError),
    /// QEMU ended.
    #[error("QEMU ended ({how}): {log}")]
    Ended {
        /// How.
        how: String,
        /// What it said last.
        log: String,
    },
    /// QEMU's machine protocol failed.
    #[error("QEMU does not answer")]
    Qmp(#[from] QmpError),
    /// No agent in time.
    #[error("no agent within {limit:?}; the guest's console ends with: {console}")]
    NoAgent {
        /// The bound.
        limit: Duration,
        /// What the guest said last.
        console: String,
    },
    /// The agent was heard, and no session came of it.
    #[error("no session with the agent")]
    Session(#[from] SessionError),
}

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct BootRequest<'a> {
    /// QEMU.
    pub qemu: &'a Path,
    /// Who makes the VM.
    pub guard: &'a Guard,
    /// Where its memory goes.
    pub memory: &'a MemoryPlace,
    /// Where its scratch disk goes.
    pub scratch_dir: &'a Path,
    /// What runs its instructions.
    pub accelerator: Accelerator,
    /// What machine it is.
    pub runtime: &'a Runtime,
    /// What it boots from.
    pub image: &'a Image,
    /// How long the agent may take.
    pub limit: Duration,
    /// Where its card is attached, if it is to have one.
    pub network: Option<&'a Network>,
}

/// A booted VM and a session with its agent. [`Booted::end`] ends it; dropped without that, it lives until its guard
/// does.
pub(super) struct Booted<'a> {
    guard: &'a Guard,
    name: String,
    directory: PathBuf,
    /// QEMU.
    pub qmp: Qmp,
    /// The guest's memory.
    pub memory: MemoryFile,
    /// Its scratch disk.
    pub scratch: PathBuf,
    /// The agent.
    pub session: Session,
}

/// Boots, and waits for the agent. What fails is ended.
pub(super) async fn boot<'a>(request: &BootRequest<'a>) -> Result<Booted<'a>, BootError> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) & 0xff;
    // Pids have 22 bits at most (PID_MAX_LIMIT of the kernel's linux/threads.h).
    let cid = BOOT_CIDS | (std::process::id() << 8) | number;
    let name = format!("boot-{cid}-{number}");
    let booted = boot_named(request, &name, cid).await;
    if booted.is_err() {
        let _ = request.guard.end(&name).await;
    }
    booted
}

async fn boot_named<'a>(request: &BootRequest<'a>, name: &str, cid: u32) -> Result<Booted<'a>, BootError> {
    let guard = request.guard;
    let scratch_directory = request.scratch_dir.join(name);
    let mut also = vec![scratch_directory.clone()];
    also.extend(request.memory.directory(name));
    let open = OpenVm { vm: name.to_owned(), directory: name.to_owned(), cid, also };
    let directory = guard.open(open).await?.directory;
    let memory = request.memory.create(name, request.runtime.vm_memory_mib << 20);
    let memory = memory.map_err(host("make the memory"))?;
    let scratch = scratch_directory.join("scratch.img");
    copy_scratch(&request.image.scratch.path, &scratch).await?;
    let channel = UnixListener::bind(directory.join("channel")).map_err(host("listen for the agent"))?;

    let talk = async {
        let qmp = start_qemu(request, name, &directory, &memory.path, &scratch).await?;
        let (channel, _) = channel.accept().await.map_err(host("accept the serial port"))?;
        let session = greet(channel, request.limit, &directory).await?;
        Ok::<_, BootError>((qmp, session))
    };
    let ended = |how| {
        let log = log_tail(&directory.join(QEMU_LOG));
        BootError::Ended { how, log }
    };
    let talked = tokio::select! {
        talked = talk => talked,
        how = guard.exited(name) => Err(ended(how)),
    };
    let (qmp, session) = match talked {
        Ok(both) => both,
        // A QEMU that ends closes its sockets first, and says more by its end than they do.
        Err(error) => match timeout(END_GRACE, guard.exited(name)).await {
            Ok(how) => return Err(ended(how)),
            Err(_) => return Err(error),
        },
    };
    Ok(Booted { guard, name: name.to_owned(), directory, qmp, memory, scratch, session })
}

impl Booted<'_> {
    /// The end of the guest's console, for an error's message.
    pub fn console(&self) -> String {
        log_tail(&self.directory.join(CONSOLE))
    }

    /// Ends the VM and removes what there is of it.
    pub async fn end(self) -> Result<(), GuardError> {
        self.guard.end(&self.name).await
    }
}

async fn copy_scratch(template: &Path, scratch: &Path) -> Result<(), BootError> {
    let (template, scratch) = (template.to_owned(), scratch.to_owned());
    let stop = StopOnDrop::default();
    let flag = stop.flag();
    let copied = tokio::task::spawn_blocking(move || {
        let target = File::options().write(true).create_new(true).open(scratch)?;
        copy(&File::open(template)?, &target, Holes::Keep, &flag)
    });
    let copied = copied.await.unwrap_or_else(|error| Err(error.into()));
    copied.map(|_| ()).map_err(host("copy the scratch disk"))
}

async fn start_qemu(
    request: &BootRequest<'_>,
    name: &str,
    directory: &Path,
    memory: &Path,
    scratch: &Path,
) -> Result<Qmp, BootError> {
    let machine = MachineSpec {
        accelerator: request.accelerator,
        vcpus: request.runtime.vcpus,
        memory_mib: request.runtime.vm_memory_mib,
        memory,
        memory_shared: true,
        root: &request.image.root.path,
        scratch,
        qmp: Path::new("qmp"),
        rates: Rates::default(),
        tap: request.network.map(Network::tap),
    };
    let start = Start::Boot {
        kernel: &request.image.kernel.path,
        initramfs: &request.image.initramfs.path,
        command_line: COMMAND_LINE,
        console: Path::new(CONSOLE),
        channel: Path::new("channel"),
    };
    let listener = UnixListener::bind(directory.join("qmp")).map_err(host("listen for QMP"))?;
    let mut argv = request.network.map(Network::entered).unwrap_or_default();
    argv.push(request.qemu.display().to_string());
    argv.extend(arguments(&machine, &start));
    request.guard.spawn(name, argv, QEMU_LOG).await?;
    let accepted = timeout(STEP_LIMIT, listener.accept()).await;
    let timed_out = |_| QmpError::Timeout { command: "start", limit: STEP_LIMIT };
    let (socket, _) = accepted.map_err(timed_out)?.map_err(host("accept QMP"))?;
    Ok(Qmp::open(socket, STEP_LIMIT).await?)
}

async fn greet(channel: UnixStream, limit: Duration, directory: &Path) -> Result<Session, BootError> {
    let heard = timeout(limit, wait_for_agent(channel, KNOCK_EVERY)).await;
    let Ok(heard) = heard else {
        let console = log_tail(&directory.join(CONSOLE));
        return Err(BootError::NoAgent { limit, console });
    };
    let channel = heard.map_err(host("read the serial port"))?;
    Ok(Session::connect(channel, HELLO_LIMIT).await?)
}

fn host(what: &'static str) -> impl Fn(io::Error) -> BootError {
    move |source| BootError::Host { what, source }
}
