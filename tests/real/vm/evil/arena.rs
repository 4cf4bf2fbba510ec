//! Where programs are let loose: one VM for many of them, in a test process of its own, so that what this process and
//! the host hold can be compared before and after each.

#![allow(clippy::disallowed_methods, reason = "how a test process is started is told by the environment")]

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use hearth_pool::{
    phase::Phase,
    pool::Claim,
    session::{Channel, Command, Session},
};
use hearth_schemas::{
    guest::messages::User,
    job::{JobRequest, Lane, StageRequest},
    manifest::Accelerator,
    result::{Capture, RunReport},
};
use hearth_tests::real::{Held, Machine, Worker};
use hearth_worker::{
    admit::{Producer, Stage, admit},
    verdict,
};
use tokio::time::{Instant, timeout};

use super::Evil;
use crate::{machine, room};

/// Set in a process that was started for one test. Its /tmp and /dev/shm are its own then.
const ALONE: &str = "HEARTH_TEST_ALONE";
/// How long the agent may take to answer after a program. It is not what is measured here: see `answers.rs`.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How long what ends by itself, such as a closed stream, may take to be gone.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
/// How much longer than its wall limit a program may take in all.
const PATIENCE: Duration = Duration::from_secs(60);

/// A worker with one VM, and what is held while it waits.
pub struct Arena {
    worker: Worker,
    runtime: String,
    /// Where the scratch disks of all VMs of these images are, those of other processes too.
    scratch: PathBuf,
    places: Vec<PathBuf>,
    idle: Held,
}

/// One claimed VM.
pub struct Round<'a> {
    arena: &'a Arena,
    claim: Claim,
    /// Its scratch disk's directory.
    scratch: PathBuf,
    before: Held,
}

/// Runs a test in a process of its own, with a worker of one VM, and sees to it that nothing is left.
///
/// `test` must be a closure of the test itself: its name is taken from there.
pub async fn in_arena<T: AsyncFnOnce(&Arena)>(runtime: &str, test: T) {
    let Some(machine) = machine() else { return };
    if env::var_os(ALONE).is_none() {
        let _room = room().await;
        machine.baked(runtime).unwrap();
        return start_alone(machine, &test_name::<T>()).await;
    }
    let worker = Worker::open(machine, &[(runtime, 1)]).await.unwrap();
    let mut places: Vec<PathBuf> = vec![worker.path().to_owned()];
    if private_places(machine) {
        places.extend(["/tmp".into(), "/dev/shm".into()]);
    }
    let scratch = machine.data.join("scratch");
    let mut arena = Arena { worker, runtime: runtime.to_owned(), scratch, places, idle: Held::default() };
    // What a first job makes once is no gain: threads, buffers, connections.
    arena.round().await.end().await;
    arena.ready().await;
    arena.idle = arena.held(None);
    test(&arena).await;
    arena.worker.close().await.unwrap();
}

/// The path of the test that has this closure, as the test harness knows it.
fn test_name<T>() -> String {
    let name = std::any::type_name::<T>();
    let name = name.split("::{{closure}}").next().unwrap_or(name);
    name.split_once("::").map_or(name, |(_, path)| path).to_owned()
}

/// Whether a process of a test's own may have /tmp and /dev/shm of its own: not without the right to mount, and not when
/// something of ours is there.
fn private_places(machine: &Machine) -> bool {
    let ours = [machine.data.as_path(), machine.hearth.as_path(), machine.agent.as_path()];
    let in_the_way = ours.iter().any(|path| ["/tmp", "/dev/shm"].iter().any(|place| path.starts_with(place)));
    rustix::process::geteuid().is_root() && !in_the_way
}

async fn start_alone(machine: &Machine, name: &str) {
    let exe = env::current_exe().unwrap();
    let test = ["--exact", name, "--nocapture", "--test-threads=1"];
    let mut command = if private_places(machine) {
        let mounts = "mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /dev/shm && exec \"$0\" \"$@\"";
        let mut command = tokio::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", mounts]).arg(&exe);
        command
    } else {
        eprintln!(
            "images or programs of this test are in /tmp or /dev/shm: what is left there is not looked at"
        );
        tokio::process::Command::new(&exe)
    };
    command.args(test).env(ALONE, "1").stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    assert!(output.status.success() && stdout.contains("1 passed"), "{}\n{stdout}\n{stderr}", output.status);
    eprint!(
        "{}",
        stderr
            .lines()
            .filter(|line| line.starts_with("measured"))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    );
}

impl Arena {
    /// Claims a VM that nobody has used.
    pub async fn round(&self) -> Round<'_> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let claim =
            self.worker.local().pool().claim(&self.runtime, hearth_pool::pool::Lane::Normal, deadline);
        let claim = claim.await.unwrap();
        let scratch = self.scratch_of_the_vm();
        let mut round = Round { arena: self, claim, scratch, before: Held::default() };
        let report = round.exec(&Evil::shell("first", "echo first")).await;
        assert_eq!(crate::stdout(&report), "first\n", "{report:#?}");
        round.before = self.held(Some(&round.scratch));
        round
    }

    /// Whether the guest's instructions are.
    pub fn is_emulated(&self) -> bool {
        self.worker.accelerator() == Accelerator::Tcg
    }

    /// What is held now; of the scratch disks only this one.
    fn held(&self, scratch: Option<&Path>) -> Held {
        Held::now(&self.places.iter().map(PathBuf::as_path).chain(scratch).collect::<Vec<&Path>>())
    }

    /// The directory of the only VM's scratch disk, which has the VM's name.
    fn scratch_of_the_vm(&self) -> PathBuf {
        let vms = std::fs::read_dir(self.worker.path().join("vms")).unwrap();
        let names: Vec<_> = vms.map(|vm| vm.unwrap().file_name()).collect();
        let [name] = &names[..] else { panic!("one VM: {names:?}") };
        let scratch = self.scratch.join(name);
        assert!(scratch.is_dir(), "{}", scratch.display());
        scratch
    }

    /// Waits until the next VM is there.
    async fn ready(&self) {
        let mut phases = self.worker.local().pool().phases();
        let ready = phases.wait_for(|phases| phases.total(Phase::Ready) == 1);
        timeout(Duration::from_secs(120), ready).await.expect("a VM becomes ready").unwrap();
    }

    /// A program as a stage that was admitted like any other.
    fn stage(&self, program: &Evil) -> Stage {
        let mut request = JobRequest::new(self.runtime.as_str());
        request.lane = Some(Lane::Normal);
        request.stages = vec![StageRequest {
            name: program.name.to_owned(),
            argv: program.argv.clone(),
            stdin: program.stdin.map(str::to_owned),
            limits: serde_json::from_value(program.limits.clone()).unwrap(),
            ..StageRequest::default()
        }];
        let producer = Producer { fallback_id: "evil", tenant: "tests", may_name_tenant: false };
        admit(request, self.worker.terms(), &producer).unwrap().stages.remove(0)
    }

    /// What is held beyond `before`, once what ends by itself has had time to.
    async fn gains(&self, before: &Held, scratch: Option<&Path>) -> Vec<String> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        loop {
            let gains = self.held(scratch).gained_since(before);
            if gains.is_empty() || Instant::now() >= deadline {
                return gains;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Round<'_> {
    /// The session with the VM's agent.
    pub fn session(&self) -> &Session {
        self.claim.session()
    }

    /// Runs what must be accepted, before anything is compared.
    pub async fn prepare(&mut self, program: &Evil) {
        let report = self.exec(program).await;
        let complaint = program.complaint(&report);
        assert!(complaint.is_none(), "{complaint:?}");
        self.before = self.arena.held(Some(&self.scratch));
    }

    /// The command of a program.
    pub fn command(&self, program: &Evil) -> (Command, Stage) {
        let stage = self.arena.stage(program);
        let (argv, env, cwd) = (stage.argv.clone(), stage.env.clone(), stage.cwd.clone());
        let limits = stage.limits.exec_limits();
        (Command { argv, env, cwd, limits, user: User::Job, ip: program.ip, fresh: false }, stage)
    }

    /// Runs a program to its end.
    pub async fn exec(&self, program: &Evil) -> RunReport {
        let (command, stage) = self.command(program);
        let limits = command.limits.clone();
        let (mut stdout, mut stderr) = (Capture::default(), Capture::default());
        let output = |channel, data: Bytes| match channel {
            Channel::Stdout => stdout.push(&data),
            Channel::Stderr => stderr.push(&data),
        };
        let running = async {
            let running = self.session().exec(command, !stage.stdin.is_empty()).await.unwrap();
            running.finish(stage.stdin.clone(), output, std::future::pending()).await.unwrap()
        };
        let patience = Duration::from_millis(stage.limits.wall_ms) + PATIENCE;
        let exited =
            timeout(patience, running).await.unwrap_or_else(|_| panic!("{} never ends", program.name));
        let (verdict, cause) = verdict::judge(&exited, &limits, None).unwrap();
        RunReport {
            verdict,
            cause,
            message: None,
            exit_code: exited.exit_code,
            signal: exited.signal,
            stdout: stdout.finish(),
            stderr: stderr.finish(),
            usage: exited.usage.as_ref().map(verdict::usage),
        }
    }

    /// Runs a program; then the agent must answer, and neither this process nor the host may have gained anything.
    /// Also says what else is not as it must be.
    pub async fn face(&self, program: &Evil) -> (RunReport, Vec<String>) {
        Held::forget_peak().unwrap();
        let report = self.exec(program).await;
        let mut complaints: Vec<String> = program.complaint(&report).into_iter().collect();
        if let Err(error) = self.session().ping(ANSWERS_WITHIN).await {
            complaints.push(format!("{}: the agent does not answer: {error}", program.name));
        }
        let gains = self.arena.gains(&self.before, Some(&self.scratch)).await;
        complaints.extend(gains.into_iter().map(|gain| format!("{}: the host gained {gain}", program.name)));
        (report, complaints)
    }

    /// Gives the VM up, and waits until the next one is there. Nothing of this one may be left.
    pub async fn end(self) {
        let Self { arena, claim, scratch, .. } = self;
        claim.finish();
        if arena.idle.is_empty() {
            return;
        }
        arena.ready().await;
        let gains = arena.gains(&arena.idle, None).await;
        assert!(gains.is_empty(), "left of a VM: {gains:#?}");
        assert!(!scratch.exists(), "left of a VM: {}", scratch.display());
    }
}
