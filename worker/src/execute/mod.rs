//! One job in one claimed VM: upload, stages, download.

mod cases;
mod checker;
mod files;
mod outputs;
mod stage;

use std::time::Duration;

use cases::run_cases;
pub(crate) use files::TRANSFER_LEAST_BYTES;
pub use files::Transfers;
use files::{download, upload, upload_report};
use hearth_pool::session::{Session, SessionError};
use hearth_schemas::{
    event::State,
    result::{Cause, OutputFile, RunReport, SkippedOutput, StageReport, Step, Timings, Verdict},
};
use stage::run_stage;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use crate::{admit::Job, finish, live::Feed, objects::Fetched, stop::Stop, trace::step};

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

impl Executed {
    /// What is said of a job whose files could not be what it says.
    pub fn without_files(job: &Job, message: String) -> Self {
        let mut executed = Executed::default();
        for stage in &job.stages {
            let run = match executed.stages.is_empty() {
                true => RunReport {
                    message: Some(message.clone()),
                    ..RunReport::not_run(Verdict::FileError, Some(Cause::Path))
                },
                false => RunReport::not_run(Verdict::Skipped, Some(Cause::EarlierFailure)),
            };
            executed.stages.push(finish::not_run(stage, run));
        }
        executed
    }
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

/// Runs a job, and tells `feed` how it goes. When it is stopped, what ran until then is reported. Not cancel safe: drop
/// the VM.
pub async fn execute(
    session: &Session,
    job: &Job,
    transfers: &mut Transfers<'_>,
    stop: &Stop,
    feed: &Feed,
) -> Result<Executed, StepFailure> {
    let mut executed = Executed::default();
    let started = Instant::now();
    feed.state(State::Uploading);
    let uploading = within(Step::Upload, Transfers::upload_limit(job), upload(session, job, transfers));
    let uploaded = until(stop, uploading.instrument(step!("upload"))).await.unwrap_or(Ok(()));
    // The VM has them, or never will: the spool is free for others while this job runs.
    transfers.fetched = Fetched::default();
    executed.timings.upload_ms = Some(started.elapsed().into());
    let mut failed = match uploaded {
        Ok(()) => false,
        Err(failure) => {
            let (Some(report), Some(first)) = (upload_report(&failure), job.stages.first()) else {
                return Err(failure);
            };
            executed.stages.push(finish::not_run(first, report));
            true
        }
    };
    let started = Instant::now();
    let capture_bytes = cases::capture_bytes(job.stages.iter().map(|stage| stage.cases.len()).sum());
    for stage in job.stages.iter().skip(executed.stages.len()) {
        let skipped = |cause| finish::not_run(stage, RunReport::not_run(Verdict::Skipped, Some(cause)));
        let span = || step!("stage", stage = stage.name.as_str());
        let report = match (stop.reason(), failed) {
            (Some(reason), _) => skipped(reason.cause()),
            (None, true) => skipped(Cause::EarlierFailure),
            (None, false) if stage.cases.is_empty() => {
                let run = run_stage(session, stage, stop, feed).instrument(span()).await?;
                StageReport { name: stage.name.clone(), run, cases: Vec::new() }
            }
            (None, false) => run_cases(session, stage, capture_bytes, stop, feed).instrument(span()).await?,
        };
        failed |= report.run.verdict != Verdict::Accepted && !stage.continue_on_failure;
        executed.stages.push(report);
    }
    executed.timings.run_ms = Some(started.elapsed().into());
    if job.outputs.is_empty() || stop.reason().is_some() {
        return Ok(executed);
    }
    let started = Instant::now();
    feed.state(State::Downloading);
    let limit = transfers.download_limit();
    let downloading = within(Step::Download, limit, download(session, job, transfers, &mut executed));
    until(stop, downloading.instrument(step!("download"))).await.unwrap_or(Ok(()))?;
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
