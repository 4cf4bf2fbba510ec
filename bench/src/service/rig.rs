//! The servers, and a worker that is a process of its own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use hearth_pool::redis_server::{RedisConfig, RedisServer};
use hearth_tests::{
    process::{RUNTIME, run_dir},
    redis::RealRedis,
};
use hearth_worker::amqp::link::Endpoint;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

use super::ServicePlan;

const BROKER: &str = "127.0.0.1:5672";
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long the slots of a worker may take to be Ready.
const READY_WITHIN: Duration = Duration::from_secs(180);
const ENDS_WITHIN: Duration = Duration::from_secs(120);
/// Clock ticks of `/proc` in a second, on every Linux there is.
const TICKS_PER_S: f64 = 100.0;

/// Programs of the test harness.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Plays a VM.
    pub agent: PathBuf,
    /// A worker with such VMs.
    pub worker: PathBuf,
}

impl Programs {
    /// Those that were built beside this program.
    pub fn beside_this() -> Result<Self> {
        let exe = std::env::current_exe()?;
        let [agent, worker] = ["process-agent", "process-worker"].map(|name| exe.with_file_name(name));
        for program in [&agent, &worker] {
            ensure!(
                program.is_file(),
                "{} is missing: build it with `cargo build --release -p hearth-tests --bins`",
                program.display()
            );
        }
        Ok(Self { agent, worker })
    }
}

/// The running RabbitMQ, and a Redis of our own that loses nothing.
pub struct Rig {
    pub programs: Programs,
    redis: RealRedis,
    made: AtomicU32,
}

/// A vhost of our own, deleted when dropped.
pub struct Vhost {
    name: String,
}

impl Vhost {
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{BROKER}/{}", self.name)
    }

    pub fn endpoint(&self) -> Result<Endpoint> {
        Ok(Endpoint::new(&self.url())?)
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let _ = ctl(&["delete_vhost", &self.name]);
    }
}

fn ctl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("rabbitmqctl").arg("-q").args(arguments).output().context("rabbitmqctl")?;
    ensure!(
        output.status.success(),
        "rabbitmqctl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Rig {
    pub async fn start(programs: Programs) -> Result<Self> {
        let Some(redis) = RealRedis::start().await else { bail!("there is no redis-server") };
        Ok(Self { programs, redis, made: AtomicU32::new(0) })
    }

    pub fn vhost(&self) -> Result<Vhost> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let name = format!("hearth-bench-{}-{number}", std::process::id());
        ctl(&["add_vhost", &name]).context("is RabbitMQ running?")?;
        let vhost = Vhost { name };
        ctl(&["set_permissions", "-p", &vhost.name, "guest", ".*", ".*", ".*"])?;
        Ok(vhost)
    }

    /// Starts a worker with as many slots.
    pub async fn worker(&self, vhost: &Vhost, slots: u32, plan: &ServicePlan) -> Result<Worker> {
        let (run_dir, directory) = (run_dir()?, tempfile::tempdir()?);
        let admin = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        // Each has a part of the ledger for itself, as it has a vhost. Nobody held anything in it.
        let prefix = format!("{}:", vhost.name);
        let config = RedisConfig { prefix: prefix.clone(), ..RedisConfig::new(self.redis.url()) };
        RedisServer::new(config)?.trust_new_data().await?;
        let settings = format!(
            "[broker]\nurl = {:?}\n[redis]\nurl = {:?}\nprefix = {prefix:?}\n[slots]\n{RUNTIME} = {slots}\n\
             [worker]\ngrace_s = 5\nthreads = {}\nadmin = \"{admin}\"\n",
            vhost.url(),
            self.redis.url(),
            plan.threads.unwrap_or(0),
        );
        let path = directory.path().join("worker.toml");
        std::fs::write(&path, settings)?;
        let log = std::fs::File::create(directory.path().join("worker.log"))?;
        let child = Command::new(&self.programs.worker)
            .args(["worker", "--restore-ms", "0", "--restores-at-once", &plan.restores_at_once.to_string()])
            .arg("--config")
            .arg(&path)
            .arg("--run-dir")
            .arg(run_dir.path())
            .arg("--agent")
            .arg(&self.programs.agent)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("the worker")?;
        Ok(Worker { child, slots, admin, directory, _run_dir: run_dir })
    }
}

/// A worker. Killed when dropped.
pub struct Worker {
    child: Child,
    slots: u32,
    admin: std::net::SocketAddr,
    directory: TempDir,
    _run_dir: TempDir,
}

/// Seconds of CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// The worker's own, without its children's.
    pub worker_s: f64,
    /// The guard's, which starts and ends VMs.
    pub guard_s: f64,
}

/// The parts of a job, as the worker measures them.
const STEPS: [&str; 6] = ["claim", "upload", "run", "commit", "publish", "queued"];

/// See [`Worker::steps`].
#[derive(Clone, Debug, Default)]
pub struct Steps(Vec<(&'static str, f64, f64)>);

impl Steps {
    /// Their means since then, in milliseconds.
    pub fn means_ms(&self, before: &Self) -> Vec<(&'static str, f64)> {
        let pairs = self.0.iter().zip(&before.0);
        pairs.map(|(now, then)| (now.0, (now.1 - then.1) * 1e3 / (now.2 - then.2))).collect()
    }
}

/// Claims, and those of them that found a VM.
#[derive(Clone, Copy, Debug, Default)]
pub struct Claims {
    pub hit: f64,
    pub all: f64,
}

impl Claims {
    pub fn since(self, before: Self) -> Self {
        Self { hit: self.hit - before.hit, all: self.all - before.all }
    }
}

impl Worker {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until every slot has a VM.
    pub async fn all_ready(&self) -> Result<()> {
        let least = f64::from(self.slots);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if self.metric("hearth_pool_slots", "phase=\"ready\"").await.unwrap_or(0.0) >= least {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not Ready within {READY_WITHIN:?}:\n{}", self.log());
            sleep(LOOK_EVERY).await;
        }
    }

    /// How its claims have ended so far.
    pub async fn claims(&self) -> Result<Claims> {
        let name = "hearth_pool_claims_total";
        let (hit, all) = (self.metric(name, "outcome=\"hit\"").await?, self.metric(name, "").await?);
        Ok(Claims { hit, all })
    }

    /// How long each step of a job took so far, all in all, and how many there were.
    pub async fn steps(&self) -> Result<Steps> {
        let mut steps = Steps::default();
        for name in STEPS {
            let label = format!("step=\"{name}\"");
            let of =
                async |suffix: &str| self.metric(&format!("hearth_job_step_seconds_{suffix}"), &label).await;
            steps.0.push((name, of("sum").await?, of("count").await?));
        }
        Ok(steps)
    }

    /// The sum of a metric's values whose labels contain this.
    async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let mut stream = TcpStream::connect(self.admin).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }

    pub fn cpu(&self) -> Result<Cpu> {
        let guard = children(self.pid())?.into_iter().map(cpu_s).sum::<Result<f64>>()?;
        Ok(Cpu { worker_s: cpu_s(self.pid())?, guard_s: guard })
    }

    /// Ends it as an operator would, and waits.
    pub async fn stop(mut self) -> Result<()> {
        // Twice: what is still queued is nobody's any more.
        let pid = Pid::from_raw(self.pid().try_into()?);
        kill(pid, Signal::SIGTERM)?;
        sleep(Duration::from_millis(200)).await;
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + ENDS_WITHIN;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the worker does not end:\n{}", self.log());
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    pub fn log(&self) -> String {
        tail(&self.directory.path().join("worker.log"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(path: &Path) -> String {
    const LINES: usize = 20;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}

/// User and system time of a process itself: fields 14 and 15, counted after the name, which may have spaces in it.
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat")?;
    let ticks: f64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_S)
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    Ok(children)
}
