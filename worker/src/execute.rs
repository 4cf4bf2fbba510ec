//! One job in one claimed VM: upload, stages, download.

use std::{io::Cursor, time::Duration};

use hearth_pool::session::{Channel, Command, GetLimits, Piece, Session, SessionError};
use hearth_schemas::{
    guest::messages::{Exited, FaultKind, GetDone, User},
    limits::{INLINE_OUTPUT_MAX_BYTES, INLINE_OUTPUTS_TOTAL_MAX_BYTES, OUTPUT_FILES_MAX},
    result::{
        Capture, Cause, OutputFile, Payload, RunReport, SkippedOutput, StageReport, Step, Timings, Verdict,
    },
};
use tokio::time::{Instant, timeout};

use crate::{
    admit::{Job, Stage},
    stop::Stop,
    verdict,
};

/// How much longer than a stage's wall time its agent may take before it counts as dead.
const STAGE_GRACE: Duration = Duration::from_secs(15);
/// How long an upload or a download may take: the largest at 1 MiB/s, with room for a slow host.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);

/// What came out of a VM.
#[derive(Debug, Default)]
pub struct Executed {
    /// A report for each stage.
    pub stages: Vec<StageReport>,
    /// Files that matched.
    pub outputs: Vec<OutputFile>,
    /// Patterns that matched nothing.
    pub missing: Vec<String>,
    /// Matches that are not returned.
    pub skipped: Vec<SkippedOutput>,
    /// Where the time went.
    pub timings: Timings,
}

/// A step that failed for reasons of our own, or of a VM that a job may have killed.
#[derive(Debug, thiserror::Error)]
#[error("{step:?}")]
pub struct StepFailure {
    /// The step.
    pub step: Step,
    /// How.
    #[source]
    pub source: SessionError,
}

/// Runs a job. When it is stopped, what ran until then is reported. Not cancel safe: drop the VM.
pub async fn execute(session: &Session, job: &Job, stop: &Stop) -> Result<Executed, StepFailure> {
    let mut executed = Executed::default();
    let started = Instant::now();
    let uploaded = match until(stop, within(Step::Upload, TRANSFER_LIMIT, upload(session, job))).await {
        None => Ok(()),
        Some(uploaded) => uploaded,
    };
    executed.timings.upload_ms = Some(started.elapsed().into());
    let mut failed = match uploaded {
        Ok(()) => false,
        Err(failure) => {
            let (Some(report), Some(first)) = (upload_report(&failure), job.stages.first()) else {
                return Err(failure);
            };
            executed.stages.push(StageReport { name: first.name.clone(), run: report, cases: Vec::new() });
            true
        }
    };
    let started = Instant::now();
    for stage in job.stages.iter().skip(executed.stages.len()) {
        let run = match (stop.reason(), failed) {
            (Some(reason), _) => RunReport::not_run(Verdict::Skipped, Some(reason.cause())),
            (None, true) => RunReport::not_run(Verdict::Skipped, Some(Cause::EarlierFailure)),
            (None, false) => run_stage(session, stage, stop).await?,
        };
        failed |= run.verdict != Verdict::Accepted && !stage.continue_on_failure;
        executed.stages.push(StageReport { name: stage.name.clone(), run, cases: Vec::new() });
    }
    executed.timings.run_ms = Some(started.elapsed().into());
    if job.outputs.is_empty() || stop.reason().is_some() {
        return Ok(executed);
    }
    let started = Instant::now();
    let downloading = within(Step::Download, TRANSFER_LIMIT, download(session, job, &mut executed));
    until(stop, downloading).await.unwrap_or(Ok(()))?;
    executed.timings.download_ms = Some(started.elapsed().into());
    Ok(executed)
}

/// `None` when the job was stopped first.
async fn until<T>(stop: &Stop, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        _ = stop.stopped() => None,
    }
}

async fn within<T>(
    step: Step,
    limit: Duration,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, StepFailure> {
    let done = timeout(limit, work).await;
    let done = done.unwrap_or(Err(SessionError::Timeout { request: step.as_str(), limit }));
    done.map_err(|source| StepFailure { step, source })
}

async fn upload(session: &Session, job: &Job) -> Result<(), SessionError> {
    if job.files.is_empty() {
        return Ok(());
    }
    let mut upload = session.put().await?;
    for file in &job.files {
        upload.file(&file.path, file.mode, file.content.len() as u64, Cursor::new(&file.content)).await?;
    }
    upload.finish(TRANSFER_LIMIT).await.map(drop)
}

/// Inputs that do not fit the disk are the job's doing, not ours.
fn upload_report(failure: &StepFailure) -> Option<RunReport> {
    let SessionError::Fault { kind: FaultKind::NoSpace, message } = &failure.source else { return None };
    let mut report = RunReport::not_run(Verdict::DiskLimit, Some(Cause::Enospc));
    report.message = Some(message.clone());
    Some(report)
}

async fn run_stage(session: &Session, stage: &Stage, stop: &Stop) -> Result<RunReport, StepFailure> {
    let limits = stage.limits.exec_limits();
    let command = Command {
        argv: stage.argv.clone(),
        env: stage.env.clone(),
        cwd: stage.cwd.clone(),
        limits: limits.clone(),
        user: User::Job,
    };
    let (mut stdout, mut stderr) = (Capture::default(), Capture::default());
    let wall = Duration::from_millis(limits.wall_ms.unwrap_or(0));
    let running = async {
        let running = session.exec(command, !stage.stdin.is_empty()).await?;
        let output = |channel, data: bytes::Bytes| match channel {
            Channel::Stdout => stdout.push(&data),
            Channel::Stderr => stderr.push(&data),
        };
        let kill = async {
            stop.stopped().await;
        };
        running.finish(stage.stdin.clone(), output, kill).await
    };
    let exited = match within(Step::Run, wall + STAGE_GRACE, running).await {
        Ok(exited) => exited,
        Err(failure) => return exec_report(&failure).ok_or(failure),
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

fn report(
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
fn exec_report(failure: &StepFailure) -> Option<RunReport> {
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

async fn download(session: &Session, job: &Job, executed: &mut Executed) -> Result<(), SessionError> {
    let limits = GetLimits {
        files_max: OUTPUT_FILES_MAX as u32,
        file_max_bytes: INLINE_OUTPUT_MAX_BYTES,
        total_max_bytes: INLINE_OUTPUTS_TOTAL_MAX_BYTES,
    };
    let mut download = session.get(job.outputs.clone(), limits).await?;
    while let Some(head) = download.next().await? {
        let mut content = Vec::new();
        let sha256 = loop {
            match download.piece().await? {
                Piece::Data(data) => content.extend_from_slice(&data),
                Piece::End { sha256 } => break Some(sha256),
                Piece::Void => break None,
            }
        };
        let Some(sha256) = sha256 else { continue };
        executed.outputs.push(OutputFile {
            path: head.path,
            mode: format!("{:04o}", head.mode),
            size_bytes: head.size_bytes,
            sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
            content: Payload::from(content).into(),
        });
    }
    if let Some(GetDone { missing, skipped, .. }) = download.done() {
        executed.missing.clone_from(missing);
        executed.skipped = skipped
            .iter()
            .map(|skipped| SkippedOutput {
                path: skipped.path.clone(),
                reason: verdict::skipped(skipped.reason()),
                size_bytes: (skipped.size_bytes > 0).then_some(skipped.size_bytes),
            })
            .collect();
    }
    Ok(())
}
