//! A cold boot, with the agent reached over vsock: for bakes, and for the proof that KVM boots a guest here.

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    FirecrackerConfig, LOG,
    api::{
        ApiError, BootSource, DeviceId, Drive, Entropy, Fresh, Limits, MachineConfig, NetworkInterface,
        Running, Vsock,
    },
    kernel::{KernelError, vmlinux},
    place::{API_SOCKET, Needs, NoUid, Place, User, VSOCK_SOCKET, plan},
    serial::SerialPort,
    vsock,
};
use crate::{
    guard::{Guard, GuardError, OpenVm},
    image::Image,
    net::{CARD_MAC, Network, NetworkError},
    runtime::{AgentTransport, Runtime},
    session::{Session, SessionError},
    snapshot::{ROOT, SCRATCH},
    vm::{
        clone::{Holes, StopOnDrop, copy},
        log::log_tail,
        serial::wait_for_agent,
    },
};

/// Bound of the hello once the agent can be reached.
const HELLO_LIMIT: Duration = Duration::from_secs(30);
/// How often a guest's serial port is knocked on. Firecracker's keeps 64 bytes, and a guest that opens one which is full hears
/// nothing ever again: it is told of what comes, not of what is there. So longer than a boot may take, divided by those.
const KNOCK_EVERY: Duration = Duration::from_secs(3);
/// What a VM that is not leased has for a CID on the host: its lock tells bakes apart.
const BOOT_CIDS: u32 = 0x8000_0000;
/// The CID that every guest of Firecracker sees. It means nothing outside of it.
const GUEST_CID: u32 = 3;
const KERNEL: &str = "vmlinux";
const INITRAMFS: &str = "initramfs";

/// The guest's kernel command line. The agent reads the words that begin with `hearth.`.
const COMMAND_LINE: &str = "quiet loglevel=1 panic=-1 reboot=k i8042.noaux i8042.nomux \
    i8042.dumbkbd random.trust_cpu=on hearth.root=/dev/vda hearth.rootfstype=ext4 hearth.scratch=/dev/vdb";
/// No serial port: nobody would read it in production, and a guest that waits for one when it is snapshotted can hang
/// (upstream's change 5764).
const NO_PORT: &str = "8250.nr_uarts=0";
/// The agent at the only serial port, and the kernel not: what that says would be in the agent's way.
const AGENT_AT_PORT: &str = "8250.nr_uarts=1 console=tty0 hearth.channel=/dev/ttyS0";

/// Why a VM did not come up. Messages carry the end of Firecracker's log.
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
    /// The kernel is none that Firecracker boots.
    #[error("the image's kernel")]
    Kernel(#[from] KernelError),
    /// No user id is left for it.
    #[error(transparent)]
    NoUid(#[from] NoUid),
    /// Its network is not as it should be.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The guard refused.
    #[error("the VM cannot be started")]
    Guard(#[from] GuardError),
    /// Firecracker ended.
    #[error("Firecracker ended ({how}): {log}")]
    Ended {
        /// How.
        how: String,
        /// What it said last.
        log: String,
    },
    /// Firecracker refused.
    #[error("Firecracker refused")]
    Api(#[from] ApiError),
    /// No agent in time: KVM may be there and not run a guest.
    #[error("no agent within {limit:?}: {log}")]
    NoAgent {
        /// The bound.
        limit: Duration,
        /// What Firecracker said last.
        log: String,
    },
    /// The agent answered, and no session came of it.
    #[error("no session with the agent")]
    Session(#[from] SessionError),
}

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct BootRequest<'a> {
    pub config: &'a FirecrackerConfig,
    pub guard: &'a Guard,
    pub runtime: &'a Runtime,
    pub image: &'a Image,
    /// How long the agent may take.
    pub limit: Duration,
    /// Where its card is attached, if it is to have one.
    pub network: Option<&'a Network>,
}

/// A booted VM and a session with its agent. It is ended by its name; dropped without that, it lives until its guard does.
pub(super) struct Booted {
    pub name: String,
    pub place: Place,
    pub running: Running,
    pub session: Session,
    pub serial: Option<SerialPort>,
}

/// Boots, and waits for the agent. What fails is ended.
pub(super) async fn boot(request: &BootRequest<'_>) -> Result<Booted, BootError> {
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

async fn boot_named(request: &BootRequest<'_>, name: &str, cid: u32) -> Result<Booted, BootError> {
    let BootRequest { config, guard, runtime, image, limit, network } = *request;
    let memory_bytes = runtime.vm_memory_mib << 20;
    let needs = Needs {
        vcpus: runtime.vcpus,
        memory_bytes,
        // It writes its memory when it is snapshotted.
        file_bytes: memory_bytes.max(runtime.scratch_mib << 20),
        serial: !runtime.transport.is_vsock(),
    };
    let plan =
        plan(&config.confinement, &config.firecracker, &config.jails(), name, User::Bake, needs, network)?;
    if let (Some(network), Some(owner)) = (network, plan.owner) {
        network.give(owner)?;
    }
    let also = plan.directories.clone();
    let open = OpenVm { vm: name.to_owned(), directory: name.to_owned(), cid, also };
    let log = guard.open(open).await?.directory.join(LOG);
    let place = Place::make(&plan).map_err(host("make the VM's root directory"))?;
    let serial = plan.serial.as_deref().map(SerialPort::make).transpose();
    let serial = serial.map_err(host("make the VM's serial port"))?;
    place.link(&image.root.path, ROOT).map_err(host("link the root disk"))?;
    place.link(&image.initramfs.path, INITRAMFS).map_err(host("link the initramfs"))?;
    unpack_kernel(image.kernel.path.clone(), place.file(KERNEL)).await?;
    copy_scratch(image.scratch.path.clone(), place.file(SCRATCH)).await?;
    place.give(SCRATCH).map_err(host("give the scratch disk away"))?;

    let talk = async {
        guard.spawn_in(name, plan.argv, LOG, plan.group.map(|group| group.path)).await?;
        let running = start(&place, runtime, network).await?;
        let no_agent = || BootError::NoAgent { limit, log: log_tail(&log) };
        let session = match &serial {
            None => {
                let agent = vsock::dial(&place, limit).await.map_err(|_| no_agent())?;
                Session::connect(agent, HELLO_LIMIT).await?
            }
            // A guest whose vsock does not answer can be baked, too.
            Some(port) => {
                let port = port.pipe().map_err(host("open the VM's serial port"))?;
                let heard =
                    timeout(limit, wait_for_agent(port, KNOCK_EVERY)).await.map_err(|_| no_agent())?;
                let heard = heard.map_err(host("read the VM's serial port"))?;
                Session::connect(heard, HELLO_LIMIT).await?
            }
        };
        Ok::<_, BootError>((running, session))
    };
    let (running, session) = tokio::select! {
        talked = talk => talked?,
        how = guard.exited(name) => return Err(BootError::Ended { how, log: log_tail(&log) }),
    };
    Ok(Booted { name: name.to_owned(), place, running, session, serial })
}

async fn start(place: &Place, runtime: &Runtime, network: Option<&Network>) -> Result<Running, BootError> {
    let limits = Limits::default();
    let mut booting = Fresh::connect(&place.socket(API_SOCKET), limits).await?.boot();
    booting
        .machine(MachineConfig { vcpu_count: runtime.vcpus, mem_size_mib: runtime.vm_memory_mib, smt: false })
        .await?;
    let boot = BootSource {
        kernel_image_path: KERNEL.to_owned(),
        initrd_path: Some(INITRAMFS.to_owned()),
        boot_args: command_line(runtime.transport),
    };
    booting.boot_source(boot).await?;
    for (drive_id, path, is_read_only) in [(DeviceId::ROOT, ROOT, true), (DeviceId::SCRATCH, SCRATCH, false)]
    {
        let path_on_host = path.to_owned();
        let drive = Drive { drive_id, path_on_host, is_root_device: false, is_read_only, rate_limiter: None };
        booting.drive(drive).await?;
    }
    if let Some(network) = network {
        let card = NetworkInterface {
            iface_id: DeviceId::CARD,
            host_dev_name: network.tap().to_owned(),
            guest_mac: Some(CARD_MAC.to_owned()),
            mtu: None,
            rx_rate_limiter: None,
            tx_rate_limiter: None,
        };
        booting.network_interface(card).await?;
    }
    if runtime.transport.has_vsock() {
        booting.vsock(Vsock { guest_cid: GUEST_CID, uds_path: VSOCK_SOCKET.to_owned() }).await?;
    }
    booting.entropy(Entropy::default()).await?;
    Ok(booting.start().await?)
}

fn command_line(transport: AgentTransport) -> String {
    let port = if transport.is_vsock() { NO_PORT } else { AGENT_AT_PORT };
    format!("{port} {COMMAND_LINE}")
}

async fn unpack_kernel(from: PathBuf, to: PathBuf) -> Result<(), BootError> {
    let unpacked = tokio::task::spawn_blocking(move || {
        let bzimage = std::fs::read(from).map_err(host("read the kernel"))?;
        std::fs::write(to, vmlinux(&bzimage)?).map_err(host("write the kernel"))
    });
    unpacked.await.unwrap_or_else(|error| Err(host("unpack the kernel")(error.into())))
}

async fn copy_scratch(from: PathBuf, to: PathBuf) -> Result<(), BootError> {
    let stop = StopOnDrop::default();
    let flag = stop.flag();
    let copied = tokio::task::spawn_blocking(move || {
        let target = File::options().write(true).create_new(true).open(to)?;
        copy(&File::open(from)?, &target, Holes::Keep, &flag)
    });
    let copied = copied.await.unwrap_or_else(|error| Err(error.into()));
    copied.map(drop).map_err(host("copy the scratch disk"))
}

fn host(what: &'static str) -> impl Fn(io::Error) -> BootError {
    move |source| BootError::Host { what, source }
}
