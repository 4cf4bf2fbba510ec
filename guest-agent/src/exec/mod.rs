//! Runs one command: in a cgroup of its own, within limits, until its whole tree is gone.

mod cell;
mod child;
mod limits;
mod output;
mod plan;
mod spawn;
mod streams;
mod supervise;

use std::{
    os::fd::{AsFd, OwnedFd},
    pin::pin,
};

pub(crate) use child::{InCell, run_in_cell, settle, work_dir};
use hearth_schemas::guest::messages::{Exec, Exited, FaultKind, LimitHit, Usage, User};
use hearth_wire::{Connection, Sender, Stream, StreamReceiver};
pub(crate) use limits::{Abilities, DiskUse};
use output::{Carried, Output};
use plan::{Plan, PlanError};
use rustix::{
    io::Errno,
    process::{Pid, Signal},
};
use spawn::{Cell, Launch};
pub(crate) use spawn::{REPORT_BYTES, Refused, start_keeper};
use streams::{Ends, Streams, both, pipes};
use supervise::{Ended, Outcome, Supervisor};
use tokio::sync::{mpsc, watch};

use crate::{
    agent::Agent,
    cells::CellError,
    copies::{Copy, CopyError},
    fault::Refusal,
    group::{Bounds, Group, GroupError, Total},
    jail::{self, Filter, JailError},
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
    let open_cwd = || {
        let opened = agent.tree().open_dir(&plan.cwd);
        opened.map_err(|source| ExecError::Cwd { path: plan.cwd.clone(), source })
    };
    let _hold = agent.quota().hold(plan.limits.disk_bytes, plan.limits.files)?;
    if let Some((jail, order)) = cell::order_for(agent, &plan) {
        if !plan.cwd.is_empty() {
            // A cell could not say so well what is wrong with it.
            open_cwd()?;
        }
        return cell::run_in_cell(agent, control, &plan, streams, jail, &order).await;
    }
    let cwd = open_cwd()?;
    let spare = if agent.jail_of(plan.user).is_some() { jail::OWN_PROCESSES } else { 0 };
    let group = agent.groups().create(&bounds(&plan, spare))?;
    let mut copy = copy_for(agent, &plan)?;
    if let Some(copy) = &mut copy {
        streams.fill(copy).await?;
    }
    let exited = in_group(agent, control, &plan, streams, &group, cwd, copy.as_ref()).await;
    agent.groups().remove(group).await;
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

async fn in_group(
    agent: &Agent,
    control: &mut Stream,
    plan: &Plan,
    mut streams: Streams,
    group: &Group,
    cwd: OwnedFd,
    copy: Option<&Copy>,
) -> Result<Exited, ExecError> {
    let (ends, stdio) = pipes(&mut streams.input).map_err(ExecError::Launch)?;
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
    let ended = async {
        let ending = ended.await.unwrap_or(Ending::Signal(Signal::KILL.as_raw()));
        Ended { ending, wall: None, refused: None, alone: false }
    };
    drop(cwd);
    let spare = if cell.is_some() { jail::OWN_PROCESSES } else { 0 };
    let (pid, report, status) = (launched.pid, Some(launched.report), Some(launched.status));
    let begun = Begun { ends, pid, report, status, spare };
    see_to(agent, both(control), plan, streams, group, begun, ended).await
}

/// A command that was started.
struct Begun {
    ends: Ends,
    /// Its own, or that of the init of its jail.
    pid: Pid,
    /// Says nothing and closes when the exec is done; the host is told then.
    report: Option<OwnedFd>,
    /// Where the init of its jail says how it ended.
    status: Option<OwnedFd>,
    /// Processes in its cgroup that are not its own.
    spare: u64,
}

/// Watches a command until it and all that it left behind are gone, and carries what it reads and writes.
async fn see_to(
    agent: &Agent,
    control: (&Sender, &mut StreamReceiver),
    plan: &Plan,
    streams: Streams,
    group: &Group,
    begun: Begun,
    ended: impl Future<Output = Ended>,
) -> Result<Exited, ExecError> {
    let Begun { ends, pid, report, status, spare } = begun;
    let (over, mut output_over) = mpsc::channel(2);
    let (tell_gone, gone) = watch::channel(false);
    let ([to_stdout, to_stderr], input) = streams.targets(control.0);
    let [live_stdout, live_stderr] = agent.live().streams_of(plan.live);
    let carry = |pipe, to, live| {
        let limit = plan.limits.output_bytes;
        Output { pipe, to, live, limit, over: over.clone(), gone: gone.clone() }.carry()
    };
    let (stdout, stderr) =
        (carry(ends.stdout, to_stdout, live_stdout), carry(ends.stderr, to_stderr, live_stderr));
    let carrying = async { tokio::join!(stdout, stderr) };
    let feeding = async {
        if let Some((input, pipe)) = input.zip(ends.stdin) {
            output::feed(input, pipe).await;
        }
    };
    let living = async {
        let supervisor = Supervisor { limits: &plan.limits, group, quota: agent.quota(), pid };
        let mut outcome = supervisor.watch(control, report, ended, &mut output_over).await;
        outcome.ending = status.as_ref().and_then(jail::status_of).unwrap_or(outcome.ending);
        if !outcome.alone {
            group.empty().await?;
        }
        // Once, when nothing can use any more.
        let killed = outcome.ending.signal() == Some(libc::SIGKILL);
        let used = Used { total: group.total(killed), disk: agent.quota().used() };
        if !outcome.killed && !outcome.host_gone {
            let beyond = || plan.limits.exceeded(&used.total.counted, &used.disk.unwrap_or_default());
            outcome.limit = outcome.limit.or_else(beyond);
        }
        outcome.limit = outcome.limit.or_else(|| plan.limits.told_by(outcome.ending));
        Ok::<_, ExecError>((outcome, used))
    };
    let (outcome, used, stdout, stderr) = {
        let (mut carrying, mut feeding, mut living) = (pin!(carrying), pin!(feeding), pin!(living));
        let (mut carried, mut fed) = (None, false);
        let (outcome, used) = loop {
            tokio::select! {
                outcome = &mut living => break outcome?,
                done = &mut carrying, if carried.is_none() => carried = Some(done),
                () = &mut feeding, if !fed => fed = true,
            }
        };
        tell_gone.send_replace(true);
        let (stdout, stderr) = match carried {
            Some(done) => done,
            // Nobody will give credit for what is left.
            None if outcome.host_gone => Default::default(),
            None => carrying.await,
        };
        (outcome, used, stdout, stderr)
    };
    let usage = used.usage(&outcome, spare);
    outcome.exited(plan, stdout, stderr, usage)
}

/// What a command and all that it started have used.
struct Used {
    total: Total,
    disk: Option<DiskUse>,
}

impl Used {
    fn usage(&self, outcome: &Outcome, spare: u64) -> Usage {
        let Total { counted, memory_peak_bytes, processes_peak } = self.total;
        Usage {
            wall_us: u64::try_from(outcome.wall.as_micros()).unwrap_or(u64::MAX),
            user_us: counted.user_us,
            system_us: counted.system_us,
            memory_peak_bytes,
            processes_peak: processes_peak.map(|peak| peak.saturating_sub(spare)),
            disk_bytes: self.disk.map(|used| used.bytes),
        }
    }
}

impl Outcome {
    fn exited(
        self,
        plan: &Plan,
        stdout: Carried,
        stderr: Carried,
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
        // Of a command that ended at once, nothing was counted before its end.
        let printed = || plan.limits.printed(stdout.bytes, stderr.bytes).filter(|_| !self.killed);
        Ok(Exited {
            exit_code: self.ending.code(),
            signal: self.ending.signal(),
            limit_hit: self.limit.or_else(printed).unwrap_or(LimitHit::None) as i32,
            killed: self.killed,
            usage: Some(usage),
            stdout_bytes: stdout.bytes,
            stderr_bytes: stderr.bytes,
            stdout_rest: stdout.rest,
            stderr_rest: stderr.rest,
        })
    }
}
