//! Runs one command: in a cgroup of its own, within limits, until its whole tree is gone.

mod child;
mod limits;
mod output;
mod plan;
mod spawn;
mod supervise;

use std::os::fd::{AsFd, OwnedFd};

pub(crate) use child::{InCell, run_in_cell, settle};
use hearth_schemas::guest::messages::{Exec, Exited, FaultKind, LimitHit, Usage, User};
use hearth_wire::{Connection, Stream};
pub(crate) use limits::{Abilities, DiskUse};
use plan::{Plan, PlanError};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::Pid,
};
pub(crate) use spawn::start_keeper;
use spawn::{Cell, Launch};
use supervise::{Outcome, Supervisor};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    agent::Agent,
    cells::{CellError, Order, Settings},
    copies::{Copy, CopyError},
    fault::Refusal,
    group::{Bounds, Group, GroupError},
    jail::{self, Filter, Jail, JailError},
    quota::QuotaError,
    reaper::Ending,
    tree::PathError,
};

/// Why a command was not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("user: root may not run anything once the guest is awake")]
    RootAwake,
    #[error("{field} names stream {id}, which the host has not opened one way")]
    NoStream { field: &'static str, id: u32 },
    #[error("cwd {path:?}")]
    Cwd { path: String, source: PathError },
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error("fresh: only what runs as the job's user has a copy of the working tree")]
    NoCopy,
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Cell(#[from] CellError),
    #[error("cannot start a process")]
    Launch(#[source] Errno),
    #[error("preparation {step} of a new process")]
    Setup { step: u32, source: Errno },
    #[error("argv[0] {command:?} cannot be executed")]
    Exec { command: String, source: Errno },
}

impl Refusal for ExecError {
    fn kind(&self) -> FaultKind {
        match self {
            Self::Plan(PlanError::Cwd(_)) | Self::Cwd { .. } => FaultKind::Path,
            Self::Plan(_) | Self::NoStream { .. } | Self::RootAwake | Self::NoCopy => FaultKind::Unsupported,
            Self::Copy(error) | Self::Cell(CellError::Copy(error)) => error.kind(),
            Self::Exec { .. } => FaultKind::Exec,
            Self::Cell(_)
            | Self::Group(_)
            | Self::Jail(_)
            | Self::Quota(_)
            | Self::Launch(_)
            | Self::Setup { .. } => FaultKind::Internal,
        }
    }
}

/// Runs `exec`, whose request came on `control`. The host is told of the start there; its kill, or its end,
/// kills the tree.
pub(crate) async fn run(
    agent: &Agent,
    connection: &Connection,
    control: &mut Stream,
    exec: Exec,
) -> Result<Exited, ExecError> {
    #[cfg(feature = "fakes")]
    let exec = crate::process::without_what_is_absent(agent, exec);
    let plan = Plan::new(exec, agent.abilities())?;
    if plan.user == User::Root && agent.awake() {
        return Err(ExecError::RootAwake);
    }
    let mut streams = Streams::take(connection, &plan).await?;
    if !plan.fresh {
        // It changes the tree that they show.
        agent.cells().clear().await;
    }
    let tree = agent.tree();
    let cwd = tree.open_dir(&plan.cwd).map_err(|source| ExecError::Cwd { path: plan.cwd.clone(), source })?;
    let _hold = agent.quota().hold(plan.limits.disk_bytes, plan.limits.files)?;
    if let Some((jail, order)) = cell_for(agent, &plan) {
        return in_cell(agent, control, &plan, streams, jail, &order).await;
    }
    let spare = if agent.jail_of(plan.user).is_some() { jail::OWN_PROCESSES } else { 0 };
    let group = agent.groups().create(&bounds(&plan, spare))?;
    let mut copy = copy_for(agent, &plan)?;
    if let Some(copy) = &mut copy {
        streams.fill(copy).await?;
    }
    let exited = in_group(agent, control, &plan, streams, &group, cwd, copy.as_ref()).await;
    group.remove().await;
    if let Some(copy) = copy {
        copy.discard().await;
    }
    exited
}

fn bounds(plan: &Plan, spare: u64) -> Bounds {
    let bounds = plan.limits.bounds;
    let processes = bounds.processes.map(|processes| processes.saturating_add(spare));
    Bounds { processes, ..bounds }
}

/// What a command that wants it has in place of the working tree.
fn copy_for(agent: &Agent, plan: &Plan) -> Result<Option<Copy>, ExecError> {
    if !plan.fresh {
        return Ok(None);
    }
    agent.jail_of(plan.user).ok_or(ExecError::NoCopy)?;
    Ok(Some(agent.copies().make()?))
}

/// The streams that a request names.
struct Streams {
    stdin: Option<Stream>,
    stdout: Stream,
    stderr: Stream,
    given: Vec<(String, Stream)>,
}

impl Streams {
    async fn take(connection: &Connection, plan: &Plan) -> Result<Self, ExecError> {
        let take = async |field, id| connection.take(id).await.ok_or(ExecError::NoStream { field, id });
        let mut given = Vec::new();
        for (name, id) in &plan.given {
            given.push((name.clone(), take("given", *id).await?));
        }
        Ok(Self {
            given,
            stdin: if plan.stdin == 0 { None } else { Some(take("stdin", plan.stdin).await?) },
            stdout: take("stdout", plan.stdout).await?,
            stderr: take("stderr", plan.stderr).await?,
        })
    }
}

impl Streams {
    /// Puts the files of the command where only its copy shows them.
    async fn fill(&mut self, copy: &mut Copy) -> Result<(), ExecError> {
        for (name, stream) in self.given.drain(..) {
            copy.give(&name, stream.receiver).await?;
        }
        Ok(())
    }
}

/// The agent's ends of a command's pipes.
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// The agent's ends, and the command's.
fn pipes(with_stdin: bool) -> Result<(Ends, [OwnedFd; 3]), Errno> {
    let (child_stdin, stdin) = if with_stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        (read, Some(write))
    } else {
        (rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, None)
    };
    let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Ends { stdin, stdout, stderr }, [child_stdin, child_stdout, child_stderr]))
}

/// What a cell is told of a command that can run in one: in a copy of the tree, with nothing of its own around it.
fn cell_for<'a>(agent: &'a Agent, plan: &Plan) -> Option<(&'a Jail, Vec<u8>)> {
    let jail = agent.jail_of(plan.user).filter(|_| plan.fresh && !plan.ip && plan.given.is_empty())?;
    let settings = Settings {
        open_files: plan.limits.open_files(),
        file_size_bytes: plan.limits.file_size_bytes,
        cpu_seconds: plan.limits.cpu_backstop_seconds(),
    };
    let Plan { cwd_in_tree: cwd, programs, argv, env, .. } = plan;
    Order { cwd, programs, argv, env, settings }.encode().map(|order| (jail, order))
}

async fn in_cell(
    agent: &Agent,
    control: &mut Stream,
    plan: &Plan,
    streams: Streams,
    jail: &Jail,
    order: &[u8],
) -> Result<Exited, ExecError> {
    let cell = agent.cells().take(agent, jail).await?;
    let group = agent.groups().create(&bounds(plan, 0))?;
    let (ends, stdio) = pipes(streams.stdin.is_some()).map_err(ExecError::Launch)?;
    let (report, child_report) =
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(ExecError::Launch)?;
    let procs = group.processes()?;
    let [stdin, stdout, stderr] = &stdio;
    let descriptors = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), child_report.as_fd(), procs.as_fd()];
    cell.start(order, descriptors).map_err(ExecError::Launch)?;
    drop((stdio, child_report, procs));
    let pid = cell.keeper();
    let (tell, ended) = oneshot::channel();
    let left = async {
        let left = cell.ended().await;
        let _ = tell.send(left.ending);
        left
    };
    let begun = Begun { ends, pid, report, status: None, ended, spare: 0 };
    let (exited, left) = tokio::join!(see_to(agent, control, plan, streams, &group, begun), left);
    group.remove().await;
    agent.cells().give_back(cell, left).await;
    exited
}

async fn in_group(
    agent: &Agent,
    control: &mut Stream,
    plan: &Plan,
    streams: Streams,
    group: &Group,
    cwd: OwnedFd,
    copy: Option<&Copy>,
) -> Result<Exited, ExecError> {
    let (ends, stdio) = pipes(streams.stdin.is_some()).map_err(ExecError::Launch)?;
    let filter = (plan.user == User::Job).then(|| Filter::of_jobs(plan.ip));
    let cell = agent.jail_of(plan.user).map(|jail| Cell { jail, cwd: &plan.cwd_in_tree, copy });
    if let (true, Some(cell)) = (plan.ip, &cell) {
        cell.jail.raise_loopback()?;
    }
    let launched = spawn::launch(Launch {
        programs: &plan.programs,
        argv: &plan.argv,
        env: &plan.env,
        cwd: cwd.as_fd(),
        stdio,
        group: group.dir(),
        user: agent.ids_of(plan.user),
        filter: filter.as_ref(),
        cell,
        cpu_seconds: plan.limits.cpu_backstop_seconds(),
        open_files: plan.limits.open_files(),
        file_size_bytes: plan.limits.file_size_bytes,
    })
    .map_err(ExecError::Launch)?;
    let ended = agent.reaper().register(launched.pid);
    drop(cwd);
    let spare = if cell.is_some() { jail::OWN_PROCESSES } else { 0 };
    let (pid, report, status) = (launched.pid, launched.report, Some(launched.status));
    see_to(agent, control, plan, streams, group, Begun { ends, pid, report, status, ended, spare }).await
}

/// A command that was started.
struct Begun {
    ends: Ends,
    /// Its own, or that of the init of its jail.
    pid: Pid,
    report: OwnedFd,
    /// Where the init of its jail says how it ended.
    status: Option<OwnedFd>,
    ended: oneshot::Receiver<Ending>,
    /// Processes in its cgroup that are not its own.
    spare: u64,
}

/// Watches a command until it and all that it left behind are gone.
async fn see_to(
    agent: &Agent,
    control: &mut Stream,
    plan: &Plan,
    streams: Streams,
    group: &Group,
    begun: Begun,
) -> Result<Exited, ExecError> {
    let Begun { ends, pid, report, status, ended, spare } = begun;
    let (over, mut output_over) = mpsc::channel(2);
    let (tell_gone, gone) = watch::channel(false);
    let [live_stdout, live_stderr] = agent.live().streams_of(plan.live);
    let carry = |pipe, stream: Stream, live| {
        let limit = plan.limits.output_bytes;
        let output =
            output::Output { pipe, to: stream.sender, live, limit, over: over.clone(), gone: gone.clone() };
        tokio::spawn(output.carry())
    };
    let stdout = carry(ends.stdout, streams.stdout, live_stdout);
    let stderr = carry(ends.stderr, streams.stderr, live_stderr);
    let feeding =
        streams.stdin.zip(ends.stdin).map(|(stream, pipe)| tokio::spawn(output::feed(stream.receiver, pipe)));

    let supervisor = Supervisor { limits: &plan.limits, group, quota: agent.quota(), pid };
    let mut outcome = supervisor.watch(control, report, ended, &mut output_over).await;
    outcome.ending = status.as_ref().and_then(jail::status_of).unwrap_or(outcome.ending);
    outcome.limit = outcome.limit.or_else(|| plan.limits.told_by(outcome.ending));
    group.empty().await?;
    if let Some(feeding) = feeding {
        feeding.abort();
    }
    if outcome.host_gone {
        // Nobody will give credit for what is left.
        stdout.abort();
        stderr.abort();
    }
    tell_gone.send_replace(true);
    let stdout_bytes = stdout.await.ok().and_then(Result::ok).unwrap_or(0);
    let stderr_bytes = stderr.await.ok().and_then(Result::ok).unwrap_or(0);
    let usage = usage(agent, group, &outcome, spare);
    outcome.exited(plan, stdout_bytes, stderr_bytes, usage)
}

fn usage(agent: &Agent, group: &Group, outcome: &Outcome, spare: u64) -> Usage {
    let counted = group.counted();
    Usage {
        wall_us: u64::try_from(outcome.wall.as_micros()).unwrap_or(u64::MAX),
        user_us: counted.user_us,
        system_us: counted.system_us,
        memory_peak_bytes: group.memory_peak_bytes(),
        processes_peak: group.processes_peak().map(|peak| peak.saturating_sub(spare)),
        disk_bytes: agent.quota().used().map(|used| used.bytes),
    }
}

impl Outcome {
    fn exited(
        self,
        plan: &Plan,
        stdout_bytes: u64,
        stderr_bytes: u64,
        usage: Usage,
    ) -> Result<Exited, ExecError> {
        match self.refused {
            Some(spawn::Refused::Exec(source)) => {
                let command =
                    plan.argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
                return Err(ExecError::Exec { command, source });
            }
            Some(spawn::Refused::Setup(step, source)) => return Err(ExecError::Setup { step, source }),
            None => {}
        }
        Ok(Exited {
            exit_code: self.ending.code(),
            signal: self.ending.signal(),
            limit_hit: self.limit.unwrap_or(LimitHit::None) as i32,
            killed: self.killed,
            usage: Some(usage),
            stdout_bytes,
            stderr_bytes,
        })
    }
}
