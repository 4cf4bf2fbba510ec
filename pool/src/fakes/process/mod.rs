//! A test hypervisor whose VMs are plain processes: the real guest agent behind the real handshake, under the real guard.
//!
//! What it leaves out is the machine: nothing is isolated, so only trusted jobs may run in it. It needs a cgroup hierarchy
//! of version 2 that this process may write, so that a VM ends with everything that its jobs have started.
//!
//! The agent is any command that takes `--socket PATH --tree DIRECTORY --cgroup DIRECTORY` after its own arguments and
//! does what `hearth_guest_agent::process::serve` does.

mod chances;
mod host;

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hearth_schemas::guest::AGENT_PORT;
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{chances::Dice, host::Doom};
pub use self::{
    chances::{Chances, Fate},
    host::{NoCgroups, cgroups, left_of},
};
use crate::{
    guard::{Guard, GuardError, OpenVm},
    hypervisor::{Accept, DestroyError, Hypervisor, RestoreError, RestoreStep, Restored, Slot},
    lease::Identity,
    vm::{
        directory::{clear_without_guard, unique_name},
        hybrid_vsock::{handshake, port_socket},
        log::log_tail,
    },
};

/// What the snapshots of a process are called.
pub const SNAPSHOT: &str = "process test hypervisor";
/// How long an agent may take to listen. An idle host needs milliseconds.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The pauses between looks for it grow from this to that: on a busy host it takes many of the first.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(20);
/// How long an agent that listens may take to answer a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
const SOCKET: &str = "vsock";
const TREE: &str = "work";
const LOG: &str = "agent.log";

/// What a process hypervisor is told.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// The command that becomes an agent; where it listens and works is appended.
    pub agent: Vec<String>,
    /// Directory of VMs and locks: the guard's. Its path is short, since sockets are below it.
    pub run_dir: PathBuf,
    /// The cgroup below which each VM gets one: see [`cgroups`].
    pub cgroups: PathBuf,
    /// Who this worker is: the guard's word.
    pub worker: String,
    /// How long a restore takes, unless the process itself needs longer.
    pub restore_takes: Duration,
    /// What goes wrong by chance.
    pub chances: Option<Chances>,
}

/// VMs that are processes, under a guard.
pub struct ProcessHypervisor {
    config: ProcessConfig,
    guard: Guard,
    dice: Mutex<Option<Dice>>,
}

/// A process that plays a VM.
#[derive(Debug)]
pub struct ProcessVm {
    name: String,
    socket: PathBuf,
    _doom: Option<Doom>,
}

impl ProcessHypervisor {
    /// VMs made by `guard`, which was started with the same run directory and worker.
    pub fn new(config: ProcessConfig, guard: Guard) -> Self {
        let dice = Mutex::new(config.chances.map(Dice::new));
        Self { config, guard, dice }
    }

    fn fate(&self) -> Fate {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        dice.as_mut().map_or(Fate::Lives, Dice::throw)
    }

    async fn open(&self, slot: &Slot, identity: &Identity) -> Result<(PathBuf, PathBuf), RestoreError> {
        let unique = unique_name(slot, identity);
        let cgroup = self.config.cgroups.join(host::cgroup_name(&self.config.run_dir, &unique));
        let open =
            OpenVm { vm: slot.to_string(), directory: unique, cid: identity.cid, also: vec![cgroup.clone()] };
        let opened = self.guard.open(open).await.map_err(|error| match error {
            GuardError::IdentityBusy => RestoreError::IdentityBusy { cid: identity.cid },
            other => RestoreError::Vmm(other.to_string()),
        })?;
        let tree = opened.directory.join(TREE);
        std::fs::create_dir(&tree)
            .map_err(|source| RestoreError::Host { what: format!("make {}", tree.display()), source })?;
        Ok((opened.directory, cgroup))
    }

    async fn start(&self, name: &str, directory: &Path, cgroup: &Path) -> Result<u32, RestoreError> {
        let shown = |path: &Path| path.to_string_lossy().into_owned();
        let mut argv = self.config.agent.clone();
        for (argument, path) in [
            ("--socket", directory.join(SOCKET)),
            ("--tree", directory.join(TREE)),
            ("--cgroup", cgroup.to_owned()),
        ] {
            argv.extend([argument.to_owned(), shown(&path)]);
        }
        let pid = self.guard.spawn(name, argv, LOG).await;
        let pid = pid.map_err(|error| RestoreError::Vmm(error.to_string()))?;
        let socket = directory.join(SOCKET);
        tokio::select! {
            listening = timeout(START_LIMIT, listening(&socket)) => match listening {
                Ok(()) => Ok(pid),
                Err(_) => Err(RestoreError::Timeout { step: "start", limit: START_LIMIT }),
            },
            how = self.guard.exited(name) => {
                Err(RestoreError::Vmm(format!("{how}; {}", log_tail(&directory.join(LOG)))))
            }
        }
    }
}

async fn listening(socket: &Path) {
    let mut pause = LOOK_FIRST;
    // Looking is cheaper than trying.
    while !socket.exists() || UnixStream::connect(socket).await.is_err() {
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

impl Hypervisor for ProcessHypervisor {
    type Vm = ProcessVm;
    type Dormant = Infallible;
    type Io = UnixStream;
    type Accept = ProcessListener;

    async fn restore(&self, slot: &Slot, identity: &Identity) -> Result<Restored<ProcessVm>, RestoreError> {
        let begun = Instant::now();
        let mut steps = Vec::new();
        let mut step = |name| steps.push(RestoreStep { name, took: begun.elapsed() });
        let name = slot.to_string();
        let (directory, cgroup) = self.open(slot, identity).await?;
        step("open");
        let fate = self.fate();
        if let Fate::Fails = fate {
            sleep_until(begun + self.config.restore_takes / 2).await;
            return Err(RestoreError::Vmm("a fault by chance".to_owned()));
        }
        let pid = self.start(&name, &directory, &cgroup).await?;
        step("start");
        sleep_until(begun + self.config.restore_takes).await;
        step("load");
        let doom = match fate {
            Fate::Dies { after } => Some(Doom::of(pid, after)),
            Fate::Lives | Fate::Fails => None,
        };
        let vm = ProcessVm { name, socket: directory.join(SOCKET), _doom: doom };
        Ok(Restored { vm, snapshot: SNAPSHOT.to_owned(), steps })
    }

    async fn start(&self, slot: &Slot, _identity: &Identity) -> Result<Infallible, RestoreError> {
        Err(RestoreError::Vmm(format!("{slot}: this hypervisor starts nothing ahead")))
    }

    async fn load(&self, dormant: Infallible) -> Result<Restored<ProcessVm>, RestoreError> {
        match dormant {}
    }

    async fn dormant_exited(&self, dormant: &Infallible) {
        match *dormant {}
    }

    async fn dial(&self, vm: &ProcessVm) -> io::Result<UnixStream> {
        let connected = timeout(DIAL_LIMIT, async {
            let mut stream = UnixStream::connect(&vm.socket).await?;
            handshake(&mut stream, AGENT_PORT).await?;
            Ok(stream)
        });
        connected.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    fn listen(&self, vm: &ProcessVm, port: u16) -> io::Result<ProcessListener> {
        Ok(ProcessListener(UnixListener::bind(port_socket(&vm.socket, port))?))
    }

    /// The guard has the CID's lock until it has ended the VM.
    fn is_locked(&self, _vm: &ProcessVm) -> bool {
        true
    }

    async fn exited(&self, vm: &ProcessVm) {
        self.guard.exited(&vm.name).await;
    }

    async fn destroy(&self, slot: &Slot, vm: Option<ProcessVm>) -> Result<(), DestroyError> {
        drop(vm);
        match self.guard.end(&slot.to_string()).await {
            Err(GuardError::Dead) => {
                clear_without_guard(&self.config.run_dir, &self.config.worker, slot).await
            }
            Err(error) => Err(DestroyError { slot: slot.clone(), what: error.to_string() }),
            Ok(()) => Ok(()),
        }
    }
}

/// Where a process would dial the host.
#[derive(Debug)]
pub struct ProcessListener(UnixListener);

impl Accept for ProcessListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        Ok(self.0.accept().await?.0)
    }
}
