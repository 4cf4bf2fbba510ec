//! The bare restore: QEMU, the vsock daemon, the same files, and nothing of Hearth's but the arguments, since the
//! snapshot's state belongs to them. No guard, no lease, no record, no slot, no check.

mod files;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use hearth_pool::{
    hypervisor::RestoreStep,
    qemu::{
        arguments::{MachineSpec, Start, VSOCK_ADDR, arguments},
        qmp::{Qmp, commands as qmp},
    },
    session::Session,
    snapshot::Snapshot,
};
use hearth_schemas::guest::{AGENT_PORT, messages::User};
use hearth_worker::local::{Host, Vmm};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use self::files::Memory;
use crate::floor::{command, dial, run};

/// Bound of every step.
const LIMIT: Duration = Duration::from_secs(60);
/// How often a state is asked for that nobody tells; as often as Hearth does.
const POLL: Duration = Duration::from_millis(2);
/// Far from what leases give out.
const CID: u32 = 70_000;
const VSOCK_DEVICE: &str = "/machine/peripheral/vsock/virtio-backend";

/// What restores need.
pub struct ByHand {
    qemu: PathBuf,
    daemon: PathBuf,
    snapshot: Snapshot,
    memory: Memory,
    /// Sockets, in memory.
    run_dir: PathBuf,
    /// Scratch disks, where Hearth has its own.
    data_dir: PathBuf,
}

/// A VM that was restored by hand. When dropped, its processes are killed and its files removed.
pub struct Vm {
    qemu: Child,
    daemon: Child,
    directory: TempDir,
    _scratch: TempDir,
    _memory: std::fs::File,
    steps: Vec<RestoreStep>,
}

impl ByHand {
    /// With the programs and the snapshot of Hearth.
    ///
    /// # Errors
    /// The snapshot does not fit, or this host carries vsock in its kernel, which has no floor yet.
    pub fn new(host: &Host, runtime: &str) -> Result<Self> {
        ensure!(
            !Path::new("/dev/vhost-vsock").exists(),
            "the restore by hand speaks to vhost-device-vsock, and this host has /dev/vhost-vsock"
        );
        let Vmm::Qemu { qemu, vsock_daemon } = &host.vmm else { bail!("the restore by hand is QEMU's") };
        Ok(Self {
            qemu: qemu.clone(),
            daemon: vsock_daemon.clone(),
            snapshot: host.snapshot(runtime)?,
            memory: Memory::best(),
            run_dir: host.run_dir.clone(),
            data_dir: host.data_dir.clone(),
        })
    }

    /// Restores a VM up to where its agent can be reached.
    ///
    /// # Errors
    /// Whatever failed.
    pub async fn restore(&self) -> Result<Vm> {
        let mut steps = Steps::default();
        let directory = tempfile::Builder::new().prefix("bench-").tempdir_in(&self.run_dir)?;
        let scratch_dir = tempfile::Builder::new().prefix("bench-").tempdir_in(&self.data_dir)?;
        let scratch = scratch_dir.path().join("scratch.img");
        let machine = &self.snapshot.manifest.machine;
        let memory = self.memory.create(machine.vm_memory_mib << 20)?;
        let scratch_file = std::fs::File::create_new(&scratch)?;
        scratch_file.set_len(machine.scratch_mib << 20)?;

        let pairs =
            vec![(self.snapshot.scratch(), scratch_file), (self.snapshot.memory(), memory.try_clone()?)];
        let began = Instant::now();
        let copying = tokio::task::spawn_blocking(move || files::copy_all(pairs).map(|()| began.elapsed()));
        let listener = UnixListener::bind(directory.path().join("qmp"))?;
        let memory_path = files::path(&memory);
        let spec = MachineSpec {
            accelerator: self.snapshot.manifest.accelerator,
            vcpus: machine.vcpus,
            memory_mib: machine.vm_memory_mib,
            memory: &memory_path,
            memory_shared: true,
            root: &self.snapshot.root(),
            scratch: &scratch,
            rates: Default::default(),
            tap: None,
            qmp: Path::new("qmp"),
        };
        let spawn = |program: &Path, arguments: Vec<String>| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(directory.path()).kill_on_drop(true);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        let qemu = spawn(&self.qemu, arguments(&spec, &Start::Incoming { channel: None }))?;
        let daemon = ["--guest-cid", &CID.to_string(), "--socket", "vhost", "--uds-path", "vsock"];
        let daemon = spawn(&self.daemon, daemon.map(str::to_owned).to_vec())?;
        let (socket, _) = timeout(LIMIT, listener.accept()).await.context("QEMU did not start")??;
        let mut monitor = Qmp::open(socket, LIMIT).await?;
        steps.0.push(RestoreStep { name: "clone", took: copying.await?? });
        steps.done("start", began);

        let began = Instant::now();
        self.load(&mut monitor).await?;
        steps.done("load", began);
        let began = Instant::now();
        plug(&mut monitor).await?;
        steps.done("plug", began);
        let began = Instant::now();
        while !monitor.execute(&qmp::QueryVirtioStatus { path: VSOCK_DEVICE }).await?.driver_ok() {
            sleep(POLL).await;
        }
        steps.done("driver", began);
        Ok(Vm { qemu, daemon, directory, _scratch: scratch_dir, _memory: memory, steps: steps.0 })
    }

    async fn load(&self, monitor: &mut Qmp) -> Result<()> {
        let ignore_shared = qmp::Capability { capability: "x-ignore-shared", state: true };
        monitor.execute(&qmp::SetCapabilities { capabilities: vec![ignore_shared] }).await?;
        let uri = format!("file:{}", self.snapshot.state().display());
        monitor.execute(&qmp::MigrateIncoming { uri }).await?;
        loop {
            let migration = monitor.execute(&qmp::QueryMigrate {}).await?;
            match migration.status.as_deref() {
                Some("completed") => return Ok(()),
                Some("failed") => bail!("the state cannot be loaded: {:?}", migration.error_desc),
                _ => sleep(POLL).await,
            }
        }
    }
}

async fn plug(monitor: &mut Qmp) -> Result<()> {
    let socket = || qmp::SocketAddress::Unix { path: "vhost".to_owned() };
    let backend = || qmp::ChardevBackend::Socket { addr: socket(), server: false };
    let connecting = async {
        while monitor.execute(&qmp::ChardevAdd { id: "vsock", backend: backend() }).await.is_err() {
            sleep(POLL).await;
        }
    };
    timeout(LIMIT, connecting).await.context("the vsock daemon did not start")?;
    let device = qmp::DeviceAdd::VhostUserVsock { id: "vsock", chardev: "vsock", addr: VSOCK_ADDR };
    monitor.execute(&device).await?;
    monitor.execute(&qmp::Cont {}).await?;
    Ok(())
}

impl Vm {
    /// Reaches the agent.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn session(&mut self) -> Result<Session> {
        let mut steps = Steps::default();
        let began = Instant::now();
        let stream = dial(&self.socket(), AGENT_PORT).await?;
        steps.done("dial", began);
        let began = Instant::now();
        let session = Session::connect(stream, LIMIT).await?;
        steps.done("hello", began);
        self.steps.append(&mut steps.0);
        Ok(session)
    }

    /// The warm-up that Hearth does, by root, since the job's user comes with the wake.
    ///
    /// # Errors
    /// The command failed.
    pub async fn warm_up(&self, session: &Session) -> Result<()> {
        let exited = run(session, command(&["/bin/true"], User::Root), Bytes::new()).await?;
        ensure!(exited.exit_code == Some(0), "/bin/true: {exited:?}");
        Ok(())
    }

    /// The socket of its daemon.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("vsock")
    }

    /// Its CID.
    pub fn cid(&self) -> u32 {
        CID
    }

    /// What was done so far and how long it took.
    pub fn steps(&self) -> &[RestoreStep] {
        &self.steps
    }

    /// Ends it and waits until it is gone, so that the next sample has the machine for itself.
    ///
    /// # Errors
    /// A process could not be killed.
    pub async fn end(mut self) -> Result<()> {
        self.qemu.kill().await?;
        self.daemon.kill().await?;
        Ok(())
    }
}

#[derive(Default)]
struct Steps(Vec<RestoreStep>);

impl Steps {
    fn done(&mut self, name: &'static str, began: Instant) {
        self.0.push(RestoreStep { name, took: began.elapsed() });
    }
}
