//! Workers as processes that can be killed, and who of them holds a job.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    process::{RUNTIME, run_dir},
    real::Machine,
    wait::until,
};

/// How long a worker may take to drain.
const DRAINS_WITHIN: Duration = Duration::from_secs(120);

/// What workers are.
#[derive(Clone, Debug)]
pub enum Program {
    /// `process-worker`: VMs are processes.
    Process {
        /// It.
        worker: PathBuf,
        /// What plays a VM.
        agent: PathBuf,
        /// How long a restore takes.
        restore: Duration,
        /// How long a lease lasts, in seconds.
        lease_s: u64,
    },
    /// `hearth worker`: VMs are real.
    Hearth(Machine),
}

/// Where they work.
#[derive(Clone, Debug)]
pub struct Services {
    /// The broker's URL.
    pub broker: String,
    /// The URL of Redis.
    pub redis: String,
    /// Run queues of each lane.
    pub shards: u16,
}

/// Some workers of one host.
#[derive(Debug)]
pub struct Crew {
    program: Program,
    run_dir: TempDir,
    directory: TempDir,
    workers: Vec<Child>,
    killed: Vec<String>,
    started: usize,
}

impl Crew {
    /// Starts as many workers with as many slots each.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn start(program: Program, services: &Services, workers: usize, slots: u32) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("hearth-faults-").tempdir()?;
        for number in 0..workers {
            let settings = format!(
                "[broker]\nurl = {:?}\nshards = {}\n[redis]\nurl = {:?}\n[slots]\n{RUNTIME} = {slots}\n\
                 [worker]\ngrace_s = 60\nspool = {:?}\n",
                services.broker,
                services.shards,
                services.redis,
                directory.path().join(format!("spool-{number}")),
            );
            std::fs::write(directory.path().join(format!("{number}.toml")), settings)?;
        }
        let mut crew = Self {
            program,
            run_dir: run_dir()?,
            directory,
            workers: Vec::new(),
            killed: Vec::new(),
            started: 0,
        };
        for number in 0..workers {
            let worker = crew.spawn(number)?;
            crew.workers.push(worker);
        }
        Ok(crew)
    }

    fn spawn(&mut self, number: usize) -> Result<Child> {
        let settings = self.directory.path().join(format!("{number}.toml"));
        let mut command = match &self.program {
            Program::Process { worker, agent, restore, lease_s } => {
                let mut command = Command::new(worker);
                command.arg("worker").arg("--run-dir").arg(self.run_dir.path()).arg("--agent").arg(agent);
                command.args(["--restore-ms", &restore.as_millis().to_string()]);
                command.args(["--lease-s", &lease_s.to_string()]);
                command
            }
            Program::Hearth(machine) => {
                let mut command = machine.command(self.run_dir.path());
                command.args(["-v", "worker"]);
                command
            }
        };
        let log = File::create(self.directory.path().join(format!("{number}.{}.log", self.started)))?;
        self.started += 1;
        command.arg("--config").arg(settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().context("a worker")
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// What a worker calls itself in the ledger.
    pub fn name(&self, number: usize) -> String {
        let pid = self.workers[number].id();
        match &self.program {
            Program::Process { .. } => format!("process-{pid}"),
            Program::Hearth(_) => {
                format!("{}-{pid}", rustix::system::uname().nodename().to_string_lossy())
            }
        }
    }

    /// Stops a worker where it is. What it had sent before is still on its way.
    ///
    /// # Errors
    /// It had ended before by itself.
    pub fn pause(&mut self, number: usize) -> Result<()> {
        self.signal(number, Signal::SIGSTOP)
    }

    /// Lets a stopped worker go on.
    ///
    /// # Errors
    /// It had ended before by itself.
    pub fn go_on(&mut self, number: usize) -> Result<()> {
        self.signal(number, Signal::SIGCONT)
    }

    fn signal(&mut self, number: usize, signal: Signal) -> Result<()> {
        let worker = &mut self.workers[number];
        let ended = worker.try_wait()?;
        ensure!(ended.is_none(), "worker {number} had ended by itself: {ended:?}\n{}", self.log());
        Ok(kill(Pid::from_raw(worker.id().try_into()?), signal)?)
    }

    /// Kills a worker, as the kernel would that is short of memory.
    ///
    /// # Errors
    /// It had ended before by itself.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        let worker = &mut self.workers[number];
        let ended = worker.try_wait()?;
        ensure!(ended.is_none(), "worker {number} had ended by itself: {ended:?}\n{}", self.log());
        worker.kill()?;
        worker.wait()?;
        self.killed.push(self.name(number));
        Ok(())
    }

    /// What those that were killed had called themselves.
    pub fn killed(&self) -> &[String] {
        &self.killed
    }

    /// Starts another in the place of one that was killed.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn replace(&mut self, number: usize) -> Result<()> {
        self.workers[number] = self.spawn(number)?;
        Ok(())
    }

    /// Asks all to end, and waits until they have. In order, each must.
    ///
    /// # Errors
    /// One ended otherwise.
    pub async fn drain(&mut self) -> Result<()> {
        for worker in &self.workers {
            kill(Pid::from_raw(worker.id().try_into()?), Signal::SIGTERM)?;
        }
        let mut ended = Vec::new();
        let workers = &mut self.workers;
        until(DRAINS_WITHIN, "the workers have drained", async || {
            ended = workers.iter_mut().map(|worker| worker.try_wait().unwrap()).collect();
            ended.iter().all(Option::is_some)
        })
        .await;
        ensure!(ended.iter().flatten().all(|status| status.success()), "{ended:?}\n{}", self.log());
        Ok(())
    }

    /// Where VMs are.
    pub fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }

    /// Where settings, logs and spools are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The end of every log.
    pub fn log(&self) -> String {
        const LINES: usize = 15;
        let mut text = String::new();
        let files = std::fs::read_dir(self.directory.path()).into_iter().flatten().flatten();
        let mut logs: Vec<_> =
            files.map(|file| file.path()).filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
        logs.sort_by_key(|path| std::fs::metadata(path).and_then(|found| found.modified()).ok());
        for path in logs.iter().rev().take(self.workers.len().max(3)) {
            let log = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines.iter().skip(lines.len().saturating_sub(LINES));
            text += &format!("--- {}\n", path.display());
            tail.for_each(|line| text += &format!("{line}\n"));
        }
        text
    }

    /// Keeps what would be removed, for whoever looks into a failure; where it is.
    pub fn keep(mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}
