//! What the tests of real VMs share: one bake, a guard for each test, and sessions.

#[path = "../bare/mod.rs"]
mod bare;
mod bench;
mod by_hand;
mod dormant;
mod held;
mod limits;
mod refusals;
mod serial;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hearth_pool::{
    firecracker::{
        BakeRequest, Confinement, Firecracker, FirecrackerConfig, FirecrackerVm, Jailer, bake_snapshot,
        host_facts,
    },
    guard::{Guard, GuardCommand, serve},
    hypervisor::{Hypervisor, Restored, Slot},
    image::{self, Image, ImageRequest, Progress},
    lease::Identity,
    net::{GATEWAY, GUEST, Network, PREFIX_BITS, with_card},
    rates::Rates,
    runtime::{Runtime, Runtimes},
    session::{Channel, Command, Session},
    snapshot::{Baked, HostFacts},
};
use hearth_schemas::guest::messages::{self, ExecLimits, User, Wake};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{Instant, sleep_until},
};

/// Generous: everything inside the rig is emulated.
const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of entropy in a wake.
const ENTROPY_BYTES: usize = 64;

struct Print;

impl Progress for Print {
    fn report(&self, step: &'static str, message: &str) {
        println!("{step}: {message}");
    }
}

#[test]
#[ignore = "not a test: the guard process of the others"]
fn role_guard() {
    serve().unwrap();
}

/// Builds what the rig's VMs boot, where there is a mirror to build it from.
#[tokio::test]
#[ignore = "not a test: builds the image outside of the rig"]
async fn role_image() {
    if let Some((data, runtime, agent)) = inputs() {
        build(&data, &runtime, &agent).await;
    }
}

/// Bakes: whoever runs it with a limit knows by its end whether KVM boots a guest here.
#[tokio::test]
#[ignore = "not a test: whether the others can run without the rig"]
async fn role_probe() {
    if env::var_os("HEARTH_RIG_FIRECRACKER").is_some() {
        Rig::start().await;
    }
}

/// A worker with one VM, in the directory that it is told. It says when it is ready, and waits.
#[tokio::test]
#[ignore = "not a test: a worker to be killed"]
async fn role_worker() {
    let Some(run) = env::var_os("HEARTH_RIG_RUN") else { return };
    let Some(rig) = Rig::start_in(Path::new(&run)).await else { return };
    let firecracker = rig.firecracker();
    let restored = firecracker.restore(&slot(0), &identity(0)).await.unwrap();
    let _session = wake(&firecracker, &restored.vm, 0).await;
    println!("\nready {}", rig.guard.pid());
    std::future::pending::<()>().await;
}

/// A worker that has one VM, to be killed.
pub struct Worker {
    child: tokio::process::Child,
    pub guard: i32,
}

impl Worker {
    pub async fn start(run: &Path) -> Self {
        let mut child = tokio::process::Command::new(env::current_exe().unwrap())
            .args(["--exact", "real::role_worker", "--ignored", "--nocapture", "--test-threads=1"])
            .env("HEARTH_RIG_RUN", run)
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(guard) = line.strip_prefix("ready ") {
                return Self { child, guard: guard.parse().unwrap() };
            }
        }
        panic!("the worker ended before it was ready");
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Waits until it holds.
pub async fn until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        sleep_until(Instant::now() + Duration::from_millis(10)).await;
    }
}

fn inputs() -> Option<(PathBuf, Runtime, PathBuf)> {
    let named = |name: &str| env::var_os(name).map(PathBuf::from);
    let runtime = Runtimes::load(None).unwrap().get("bash").unwrap().clone();
    Some((named("HEARTH_RIG_DATA")?, runtime, named("HEARTH_AGENT")?))
}

async fn build(data: &Path, runtime: &Runtime, agent: &Path) -> Image {
    image::build(&ImageRequest { data, runtime, agent, refresh: false }, &Print).await.unwrap()
}

/// Bakes have been made, and a guard runs.
pub struct Rig {
    _temporary: Option<tempfile::TempDir>,
    config: FirecrackerConfig,
    guard: Guard,
    pub here: HostFacts,
    runtime: Runtime,
    image: Image,
}

impl Rig {
    /// `None`, said aloud, where there is no Firecracker or no KVM for it.
    pub async fn start() -> Option<Self> {
        let run = tempfile::tempdir().unwrap();
        let rig = Self::start_in(run.path()).await;
        rig.map(|rig| Self { _temporary: Some(run), ..rig })
    }

    async fn start_in(run: &Path) -> Option<Self> {
        let (Some(program), Some((data_dir, runtime, agent))) =
            (env::var_os("HEARTH_RIG_FIRECRACKER"), inputs())
        else {
            println!("SKIPPED: needs Firecracker and KVM; `make test-firecracker` runs it");
            return None;
        };
        let jailer = env::var_os("HEARTH_RIG_JAILER").map(PathBuf::from);
        let config = FirecrackerConfig {
            firecracker: program.into(),
            confinement: jailer.clone().map_or(Confinement::InsecureDirect, |jailer| {
                Confinement::Jailer(Jailer {
                    jailer,
                    first_uid: 200_000,
                    uids: 1000,
                    cgroup_root: "/sys/fs/cgroup".into(),
                    parent_cgroup: "hearth".to_owned(),
                })
            }),
            run_dir: run.to_owned(),
            data_dir,
            rates: Rates::default(),
            insecure_seccomp: env::var_os("HEARTH_RIG_NO_SECCOMP").is_some(),
            worker: "test".to_owned(),
        };
        let image = build(&config.data_dir, &runtime, &agent).await;
        let command = GuardCommand {
            program: env::current_exe().unwrap(),
            arguments: ["--exact", "real::role_guard", "--ignored", "--nocapture", "--test-threads=1"]
                .map(Into::into)
                .to_vec(),
        };
        let guard = Guard::start(&command, run, "test").await.unwrap();
        let here = host_facts(&config.firecracker, jailer.as_deref()).await.unwrap();
        let rig = Self { _temporary: None, config, guard, here, runtime, image };
        rig.bake().await;
        Some(rig)
    }

    pub async fn bake(&self) -> Baked {
        self.bake_as(&self.runtime, &self.image, None).await
    }

    /// Bakes the variant with a network card, which is attached to this network meanwhile.
    pub async fn bake_with_card(&self, network: &Network) -> Baked {
        let runtime = Runtime { name: with_card(&self.runtime.name), ..self.runtime.clone() };
        self.bake_as(&runtime, &self.image, Some(network)).await
    }

    async fn bake_as(&self, runtime: &Runtime, image: &Image, network: Option<&Network>) -> Baked {
        let Self { config, guard, here, .. } = self;
        let request = BakeRequest { config, guard, here, runtime, image, network, again: false };
        bake_snapshot(&request, &Print).await.unwrap()
    }

    pub fn firecracker(&self) -> Firecracker {
        self.firecracker_at(self.here.clone())
    }

    pub fn firecracker_at(&self, here: HostFacts) -> Firecracker {
        Firecracker::new(self.config.clone(), here, self.guard.clone())
    }

    pub fn run_dir(&self) -> &Path {
        &self.config.run_dir
    }

    pub fn nothing_is_left(&self) {
        assert_eq!(self.left(), Vec::<PathBuf>::new());
        assert_eq!(vmms(), Vec::<i32>::new(), "processes are left");
    }

    /// Directories and control groups of VMs.
    pub fn left(&self) -> Vec<PathBuf> {
        let jails = self.config.data_dir.join("firecracker/jails");
        let groups = PathBuf::from("/sys/fs/cgroup/hearth");
        let places = [self.run_dir().join("vms"), jails, groups];
        let entries = places.iter().flat_map(|place| fs::read_dir(place).into_iter().flatten());
        let directories = entries.map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_dir());
        directories.map(|entry| entry.path()).collect()
    }

    /// Kills the one Firecracker there is.
    pub fn kill_vmm(&self) {
        let vmms = vmms();
        assert_eq!(vmms.len(), 1, "{vmms:?}");
        kill(vmms[0]);
    }
}

/// Processes that run Firecracker.
pub fn vmms() -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| name(*pid).trim() == "firecracker")
        .collect()
}

pub fn slot(number: u32) -> Slot {
    Slot { runtime: "bash".to_owned(), number }
}

/// The nth identity.
pub fn identity(nth: u32) -> Identity {
    let port = 9000 + u16::try_from(nth % 1000).unwrap();
    Identity { cid: 3 + nth, port, token: u64::from(nth) + 1 }
}

pub async fn connect(firecracker: &Firecracker, vm: &FirecrackerVm) -> Session {
    Session::connect(firecracker.dial(vm).await.unwrap(), LIMIT).await.unwrap()
}

/// Wakes a VM as the nth, and checks what it says of itself.
pub async fn wake(firecracker: &Firecracker, vm: &FirecrackerVm, nth: u32) -> Session {
    let session = connect(firecracker, vm).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let network = firecracker.network(vm).map(|_| messages::Network {
        address: GUEST.into(),
        prefix_bits: PREFIX_BITS.into(),
        gateway: GATEWAY.into(),
        resolver: GATEWAY.into(),
    });
    let identity = identity(nth);
    let mut entropy = vec![0; ENTROPY_BYTES];
    rand::fill(&mut entropy[..]);
    let wake = Wake {
        now_unix_ns: u64::try_from(now.as_nanos()).unwrap(),
        entropy,
        hostname: format!("clone-{nth}"),
        identity: Some(messages::Identity {
            cid: identity.cid,
            port: identity.port.into(),
            token: identity.token,
        }),
        nonce: vec![7; 32],
        network: network.clone(),
    };
    let woken = session.wake(wake, LIMIT).await.unwrap();
    assert_eq!(woken.network, network);
    assert!(woken.reseeded && woken.entropy_bytes as usize == ENTROPY_BYTES, "{woken:?}");
    assert_eq!(woken.hostname, format!("clone-{nth}"));
    assert!(woken.scratch_bytes > 0);
    session
}

/// Runs a script and returns what it wrote to stdout.
pub async fn run_as(session: &Session, user: User, script: &str) -> Result<String, String> {
    run_with(session, user, false, script).await
}

/// The same, with IP or without.
pub async fn run_with(session: &Session, user: User, ip: bool, script: &str) -> Result<String, String> {
    let command = Command {
        argv: ["bash", "-c", script].map(str::to_owned).to_vec(),
        env: [("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())].into(),
        cwd: String::new(),
        limits: ExecLimits { wall_ms: Some(600_000), ..ExecLimits::default() },
        user,
        ip,
        fresh: false,
    };
    let running = session.exec(command, false).await.map_err(|error| format!("{error:?}"))?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let keep = |channel, bytes: Bytes| match channel {
        Channel::Stdout => stdout.extend_from_slice(&bytes),
        Channel::Stderr => stderr.extend_from_slice(&bytes),
    };
    let finished = running.finish(Bytes::new(), keep, std::future::pending()).await;
    let exited = finished.map_err(|error| format!("{error:?}"))?;
    match exited.exit_code {
        Some(0) => Ok(String::from_utf8_lossy(&stdout).into_owned()),
        _ => Err(format!("{exited:?}: {}", String::from_utf8_lossy(&stderr))),
    }
}

/// How long each step of restores took, in milliseconds.
pub fn table(restored: &[Restored<FirecrackerVm>]) -> String {
    let mut text = String::from("restore step      min ms    median       max\n");
    for step in 0..restored[0].steps.len() {
        let mut took: Vec<f64> =
            restored.iter().map(|one| one.steps[step].took.as_secs_f64() * 1000.0).collect();
        took.sort_by(f64::total_cmp);
        let (name, median) = (restored[0].steps[step].name, took[took.len() / 2]);
        text += &format!("{name:<14} {:>9.1} {median:>9.1} {:>9.1}\n", took[0], took[took.len() - 1]);
    }
    text
}
