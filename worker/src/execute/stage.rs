//! One command of a job.

use std::time::Duration;

use hearth_pool::session::{Channel, Command, Session, SessionError};
use hearth_schemas::{
    event::OutputStream,
    guest::messages::{Exited, FaultKind, User},
    result::{Capture, Cause, RunReport, Step, Verdict},
};

use super::{StepFailure, within};
use crate::{admit::Stage, live::Feed, stop::Stop, verdict};

/// How much longer than a stage's wall time its agent may take before it counts as dead.
pub(super) const STAGE_GRACE: Duration = Duration::from_secs(15);

/// Runs a stage's command, and tells `feed` how it goes.
pub(super) async fn run_stage(
    session: &Session,
    stage: &Stage,
    stop: &Stop,
    feed: &Feed,
) -> Result<RunReport, StepFailure> {
    let live = feed.stage_started(&stage.name);
    let run = run_command(session, stage, stop, feed, live).await?;
    feed.stage_ended(&run);
    Ok(run)
}

async fn run_command(
    session: &Session,
    stage: &Stage,
    stop: &Stop,
    feed: &Feed,
    live: u32,
) -> Result<RunReport, StepFailure> {
    let limits = stage.limits.exec_limits();
    let command = Command {
        argv: stage.argv.clone(),
        env: stage.env.clone(),
        cwd: stage.cwd.clone(),
        limits: limits.clone(),
        user: User::Job,
        ip: stage.ip,
        fresh: false,
    };
    let (mut stdout, mut stderr) = (Capture::default(), Capture::default());
    let wall = Duration::from_millis(limits.wall_ms.unwrap_or(0));
    let running = async {
        let running = session.exec_live(command, !stage.stdin.is_empty(), live).await?;
        let output = |channel, data: bytes::Bytes| match channel {
            Channel::Stdout => {
                stdout.push(&data);
                feed.data(OutputStream::Stdout, &data);
            }
            Channel::Stderr => {
                stderr.push(&data);
                feed.data(OutputStream::Stderr, &data);
            }
        };
        let kill = async {
            stop.stopped().await;
        };
        running.finish(stage.stdin.clone(), output, kill).await
    };
    let exited = match within(Step::Run, wall + STAGE_GRACE, running).await {
        Ok(exited) => exited,
        Err(failure) => {
            // A command that was not run copies nothing.
            feed.live_ends(live);
            return exec_report(&failure).ok_or(failure);
        }
    };
    let judged = verdict::judge(&exited, &limits, stop.reason());
    let (verdict, cause) = judged.ok_or(StepFailure {
        step: Step::Run,
        source: SessionError::Protocol("a command ended with neither exit code nor signal"),
    })?;
    stdout.missed(exited.stdout_bytes.saturating_sub(stdout.bytes()));
    stderr.missed(exited.stderr_bytes.saturating_sub(stderr.bytes()));
    Ok(report(&exited, verdict, cause, stdout, stderr))
}

pub(super) fn report(
    exited: &Exited,
    verdict: Verdict,
    cause: Option<Cause>,
    stdout: Capture,
    stderr: Capture,
) -> RunReport {
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

/// A command that the kernel would not execute, or a directory that is not there, is the job's doing.
pub(super) fn exec_report(failure: &StepFailure) -> Option<RunReport> {
    let SessionError::Fault { kind, message } = &failure.source else { return None };
    let (verdict, cause) = match kind {
        FaultKind::Exec => (Verdict::FileError, Cause::Exec),
        FaultKind::Path => (Verdict::FileError, Cause::Path),
        FaultKind::NoSpace => (Verdict::DiskLimit, Cause::Enospc),
        _ => return None,
    };
    let mut report = RunReport::not_run(verdict, Some(cause));
    report.message = Some(message.clone());
    Some(report)
}
