//! From what was executed to the result that the producer gets. Pure.

use std::time::Duration;

use bytes::Bytes;
use hearth_pool::pool::Claim;
use hearth_schemas::result::{
    Attempt, CaseReport, Cause, InfraError, JobResult, Refusal, RefusalCode, RunReport, StageReport, Status,
    Verdict,
};
use tokio::time::Instant;

use crate::{
    admit::{Case, Job, Stage},
    execute::Executed,
    ledger::{FailedAttempt, JobKey},
    route::Route,
    stop::StopReason,
    threads::heavy,
};

/// What a result says of the attempt that made it.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// The worker.
    pub worker: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// When the delivery came.
    pub arrived: Instant,
    /// When the attempt began.
    pub began: Instant,
    /// How long the job's objects took to be fetched.
    pub fetch: Option<Duration>,
    /// How long the claim took.
    pub claim: Option<Duration>,
    /// How long the VM's restore and wake had taken.
    pub wake: Option<Duration>,
    /// Its snapshot, once there is a VM.
    pub snapshot: Option<String>,
    /// What its agent was reached over, once there is a VM.
    pub transport: Option<&'static str>,
}

impl Circumstances {
    /// Nothing is known yet but the times.
    pub fn new(worker: &str, attempt: u32, arrived: Instant) -> Self {
        Self {
            worker: worker.to_owned(),
            attempt,
            arrived,
            began: Instant::now(),
            fetch: None,
            claim: None,
            wake: None,
            snapshot: None,
            transport: None,
        }
    }

    /// Notes what a claimed VM says of itself.
    pub fn saw(&mut self, claim: &Claim) {
        self.wake = Some(claim.vm().steps.iter().map(|step| step.took).sum());
        self.snapshot = Some(claim.vm().snapshot.clone());
        self.transport = Some(claim.vm().transport);
    }
}

/// The result of a job that ran to its end.
pub fn finished(job: &Job, circumstances: &Circumstances, executed: Executed) -> JobResult {
    let mut result = ran(job, circumstances, executed, Status::Finished);
    let first_bad = result.stages.iter().find(|stage| stage.run.verdict != Verdict::Accepted);
    let (verdict, cause) =
        first_bad.map_or((Verdict::Accepted, None), |stage| (stage.run.verdict, stage.run.cause));
    result.verdict = Some(verdict);
    result.cause = cause;
    result
}

/// The result of a job that was cancelled or came too late, with what ran until then.
pub fn stopped(
    job: &Job,
    circumstances: &Circumstances,
    mut executed: Executed,
    reason: StopReason,
) -> JobResult {
    for stage in job.stages.iter().skip(executed.stages.len()) {
        let run = RunReport::not_run(Verdict::Skipped, Some(reason.cause()));
        executed.stages.push(not_run(stage, run));
    }
    ran(job, circumstances, executed, reason.status())
}

/// The report of a stage none of whose commands ran. Its cases are skipped.
pub fn not_run(stage: &Stage, run: RunReport) -> StageReport {
    let cause = match run.verdict {
        Verdict::Skipped => run.cause,
        _ => Some(Cause::EarlierFailure),
    };
    let skipped = |case: &Case| CaseReport {
        name: case.name.clone(),
        run: RunReport::not_run(Verdict::Skipped, cause),
    };
    StageReport { name: stage.name.clone(), run, cases: stage.cases.iter().map(skipped).collect() }
}

/// Whether a stop came before the end of the job, rather than just after it.
pub fn cut_short(executed: &Executed) -> bool {
    let cut = |cause| matches!(cause, Some(Cause::Cancelled | Cause::Deadline));
    let any =
        |stage: &StageReport| cut(stage.run.cause) || stage.cases.iter().any(|case| cut(case.run.cause));
    executed.stages.iter().any(any)
}

/// The result of a job that the broker has given up on, for this reason.
pub fn fallen(route: &Route, key: &JobKey, reason: &str, history: &[FailedAttempt]) -> JobResult {
    let mut result = route.result(key, Status::InfraError, None);
    let attempts = attempts(history);
    result.attempt = attempts.len() as u32;
    let message = format!("the broker gave the job up: {reason}");
    result.infra_error = Some(InfraError { message, attempts });
    result
}

/// The result of a job that we failed at.
pub fn infra_error(job: &Job, worker: &str, history: &[FailedAttempt]) -> JobResult {
    let attempts = attempts(history);
    let message = history
        .last()
        .map_or_else(String::new, |failed| format!("{}: {}", failed.step.as_str(), failed.message));
    let mut result = base(job, Status::InfraError);
    result.attempt = attempts.len() as u32;
    result.infra_error = Some(InfraError { message, attempts });
    result.worker = Some(worker.to_owned());
    result
}

fn attempts(history: &[FailedAttempt]) -> Vec<Attempt> {
    let counted = history.iter().filter(|failed| failed.counted);
    let attempt = |(failed, attempt): (&FailedAttempt, u32)| Attempt {
        attempt,
        worker: failed.worker.clone(),
        step: failed.step,
        message: failed.message.clone(),
        failed_unix_ms: failed.failed_unix_ms,
        took_ms: failed.took_ms,
    };
    counted.zip(1..).map(attempt).collect()
}

/// The result of a job that cannot be taken for what the ledger knows.
pub fn refused(job: &Job, worker: &str, code: RefusalCode, field: &str, message: &str) -> JobResult {
    let mut result = base(job, Status::Refused);
    result.refusal = Some(Refusal::new(code, field, message));
    result.worker = Some(worker.to_owned());
    result
}

/// The bytes that are committed and published.
pub fn encode(result: &JobResult) -> Bytes {
    // A result has string keys only and no number that JSON lacks, so this cannot fail.
    heavy(weight(result), || serde_json::to_vec(result)).unwrap_or_default().into()
}

/// About how many bytes of it are worth counting: those of its files, and what its commands printed.
fn weight(result: &JobResult) -> usize {
    let files = result.outputs.iter().map(|output| output.size_bytes);
    let cases = result.stages.iter().flat_map(|stage| &stage.cases).map(|case| &case.run);
    let runs = result.stages.iter().map(|stage| &stage.run).chain(cases);
    let bytes = files.chain(runs.flat_map(|run| [run.stdout.bytes, run.stderr.bytes]));
    usize::try_from(bytes.fold(0, u64::saturating_add)).unwrap_or(usize::MAX)
}

fn ran(job: &Job, circumstances: &Circumstances, executed: Executed, status: Status) -> JobResult {
    let mut result = base(job, status);
    result.stages = executed.stages;
    result.outputs = executed.outputs;
    result.missing_outputs = executed.missing;
    result.skipped_outputs = executed.skipped;
    result.timings = executed.timings;
    result.timings.queued_ms = Some((circumstances.began - circumstances.arrived).into());
    result.timings.fetch_ms = circumstances.fetch.map(Into::into);
    result.timings.claim_ms = circumstances.claim.map(Into::into);
    result.timings.wake_ms = circumstances.wake.map(Into::into);
    result.worker = Some(circumstances.worker.clone());
    result.attempt = if circumstances.snapshot.is_some() { circumstances.attempt } else { 0 };
    result.snapshot.clone_from(&circumstances.snapshot);
    result.transport = circumstances.transport.map(str::to_owned);
    result
}

fn base(job: &Job, status: Status) -> JobResult {
    let mut result = JobResult::new(&job.key.id, &job.key.tenant, &job.runtime, status);
    result.metadata.clone_from(&job.metadata);
    result
}
