//! What was found on this host. Plain values: [`super::findings`] says what they mean.

use std::{collections::BTreeMap, path::PathBuf};

use ipnet::Ipv4Net;

/// Everything that the doctor looks at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What makes the VMs of jobs, or why nothing does.
    pub hypervisor: Result<Hypervisor, String>,
    /// A worker's settings where they were named, or what is wrong with them.
    pub worker: Option<Result<Worker, String>>,
    /// The processor's help.
    pub kvm: Kvm,
    /// `qemu-system-x86_64`.
    pub qemu: Program,
    /// How a guest of QEMU gets its vsock.
    pub vsock: Vsock,
    /// `firecracker`.
    pub firecracker: Program,
    /// `jailer`.
    pub jailer: Program,
    /// The host's own control groups.
    pub cgroup: Cgroup,
    /// Where images and snapshots are.
    pub data_dir: Directory,
    /// Where running VMs are.
    pub run_dir: Directory,
    /// Whether this process is root's.
    pub root: bool,
    /// Memory that can be had without swapping, in MiB; absent where /proc does not say.
    pub memory_available_mib: Option<u64>,
    /// What jobs with a network need.
    pub network: Network,
    /// What a bake needs beside QEMU.
    pub bake: BakeTools,
    /// Every runtime with its snapshot, sorted by name.
    pub snapshots: Vec<Snapshot>,
    /// The broker.
    pub broker: Service<Broker>,
    /// Redis.
    pub redis: Service<Redis>,
}

/// What makes the VMs of jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hypervisor {
    /// Firecracker, not QEMU.
    pub firecracker: bool,
    /// Why it is this one, and how its processes are held.
    pub why: String,
    /// What agents are reached over, unless their snapshot says otherwise.
    pub transport: &'static str,
    /// Part of its protection is switched off.
    pub insecure: bool,
}

/// What a worker keeps, by its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worker {
    /// The settings' file.
    pub file: PathBuf,
    /// VMs at once, by runtime; empty is one of each that is baked.
    pub slots: BTreeMap<String, u32>,
    /// VMMs without a guest that are started ahead of need, by runtime.
    pub dormant: BTreeMap<String, u32>,
    /// What has slots and no snapshot that fits this host.
    pub unbaked: Vec<String>,
}

/// What is known of `/dev/kvm`. That it exists proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kvm {
    /// There is no `/dev/kvm`.
    Absent,
    /// It may not be opened.
    Denied {
        /// What the host said.
        why: String,
    },
    /// It is there, and nobody has tried yet.
    Untried,
    /// A guest booted with it.
    Works,
    /// A guest did not boot with it.
    Broken {
        /// What happened.
        why: String,
    },
}

/// A program of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// In no directory of `PATH`.
    Missing,
    /// There.
    Found {
        /// Where.
        path: PathBuf,
        /// Its version; absent when it does not say.
        version: Option<Version>,
    },
}

/// A version of three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// The first `major.minor[.patch]` in what a program prints about itself.
    pub fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
            let mut numbers = word.split('.').map(str::parse::<u32>);
            let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            Some(Self(major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
        })
    }
}

/// How a guest of QEMU can get its vsock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vsock {
    /// `/dev/vhost-vsock` can be opened.
    pub kernel: bool,
    /// `vhost-device-vsock`.
    pub daemon: Program,
}

/// The host's cgroup v2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Where it is mounted.
    pub mount: Option<PathBuf>,
    /// Its controllers.
    pub controllers: Vec<String>,
}

/// A directory of ours, or the nearest parent that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// As configured.
    pub path: PathBuf,
    /// Whether it, or what is missing of it, can be written or made.
    pub writable: bool,
    /// Free space in MiB; absent when the host does not say.
    pub free_mib: Option<u64>,
    /// Whether it is on tmpfs.
    pub tmpfs: bool,
}

/// What VMs with a network card need of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// `nft`.
    pub nft: Program,
    /// Whether `/dev/net/tun` is there.
    pub tun: bool,
    /// `net.ipv4.ip_forward`; absent when it cannot be read.
    pub forwards: Option<bool>,
    /// Whom this host asks for names.
    pub resolvers: Vec<String>,
    /// Where links have their addresses unless a worker is told otherwise.
    pub links: Ipv4Net,
    /// Where the workers of this host have them, since it booted; absent where that cannot be asked.
    pub in_use: Option<Vec<String>>,
    /// Routes of the host into `links` that are none of ours, each with its interface.
    pub foreign: Vec<(Ipv4Net, String)>,
}

/// What a bake needs beside QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BakeTools {
    /// Commands that are missing, each with its Debian package.
    pub missing: Vec<(&'static str, &'static str)>,
    /// The guest agent that would be baked.
    pub agent: PathBuf,
    /// Whether it is there.
    pub agent_found: bool,
}

/// A runtime's snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The runtime.
    pub runtime: String,
    /// Memory of its VM in MiB.
    pub vm_memory_mib: u64,
    /// Whether it can be restored here.
    pub state: SnapshotState,
    /// What its agent's serial port is for, where a session may go over that.
    pub serial: Option<SerialPort>,
}

/// See [`Snapshot::serial`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerialPort {
    /// Every session.
    Always,
    /// Sessions of VMs whose vsock does not answer.
    WithoutVsock,
}

/// See [`Snapshot::state`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// It has none.
    Absent,
    /// It fits this host.
    Fits,
    /// It does not, and why.
    Unfit(String),
}

/// A service on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service<T> {
    /// Its address, without user and password.
    pub address: String,
    /// Whether somebody configured it, or it is just the usual address.
    pub configured: bool,
    /// What it said, or why it did not.
    pub answer: Result<T, String>,
}

/// What a broker says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broker {
    /// Such as `RabbitMQ`.
    pub product: Option<String>,
    /// Its version.
    pub version: Option<String>,
}

/// What Redis says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redis {
    /// Its version.
    pub version: Option<String>,
    /// Whether it appends what it is told to a file.
    pub append_only: Option<bool>,
    /// What it does when its memory is full.
    pub eviction: Option<String>,
}
