//! The result of a job, version 1: what a producer gets back. Clients read it too, so they ignore fields they do not
//! know.

mod capture;
mod failure;
mod millis;
mod payload;
mod reduced;
mod verdict;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use capture::{Capture, Captured};
pub use failure::{Attempt, InfraError, Refusal, RefusalCode, Step};
pub use millis::Millis;
pub use payload::{Omitted, OutputContent, Payload};
pub use reduced::Reduced;
pub use verdict::{Cause, Status, Verdict};

/// The only version of the result that exists.
pub const RESULT_VERSION: u32 = 1;

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Hearth result, version 1", extend("$id" = "urn:hearth:schema:result:1"))]
pub struct JobResult {
    /// Version of this contract: 1.
    #[schemars(extend("const" = 1))]
    pub version: u32,
    /// The job's id; for a request without a valid one, that of its message or a new one.
    pub id: String,
    /// On whose behalf it ran.
    pub tenant: String,
    /// The runtime that it asked for; empty when that could not be told.
    pub runtime: String,
    /// What became of it.
    pub status: Status,
    /// What the code did: the first verdict that is not `accepted`, or `accepted`. Present when `finished`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// More about the verdict, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// One report for each stage of the job, in order. Those that did not run are `skipped`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageReport>,
    /// The files that the job's patterns matched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputFile>,
    /// Patterns that matched nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_outputs: Vec<String>,
    /// Matches that are not returned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped_outputs: Vec<SkippedOutput>,
    /// Why the job was refused. Present when `refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// What failed on our side. Present when `infra_error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra_error: Option<InfraError>,
    /// Where the time went.
    #[serde(default)]
    pub timings: Timings,
    /// The worker that ran it, or refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The snapshot that its VM was restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// What that VM's agent was reached over, such as `hybrid_vsock` or `serial`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Which attempt this is the result of, from 1; 0 when no VM was reached.
    #[serde(default)]
    pub attempt: u32,
    /// Present when this is not all of it: the whole result was larger than a message should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduced: Option<Reduced>,
    /// The job's own, unchanged.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

impl JobResult {
    /// A result with a status and nothing to report yet.
    pub fn new(
        id: impl Into<String>,
        tenant: impl Into<String>,
        runtime: impl Into<String>,
        status: Status,
    ) -> Self {
        JobResult {
            version: RESULT_VERSION,
            id: id.into(),
            tenant: tenant.into(),
            runtime: runtime.into(),
            status,
            verdict: None,
            cause: None,
            stages: Vec::new(),
            outputs: Vec::new(),
            missing_outputs: Vec::new(),
            skipped_outputs: Vec::new(),
            refusal: None,
            infra_error: None,
            timings: Timings::default(),
            worker: None,
            snapshot: None,
            transport: None,
            attempt: 0,
            reduced: None,
            metadata: serde_json::Map::new(),
        }
    }

    /// Whether the job finished and all of it was accepted.
    pub fn is_accepted(&self) -> bool {
        self.status == Status::Finished && self.verdict == Some(Verdict::Accepted)
    }
}

/// What one stage did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageReport {
    /// Its name in the job.
    pub name: String,
    /// What its command did. With cases: the verdict of the first that was not accepted, and what all used together.
    #[serde(flatten)]
    pub run: RunReport,
    /// What its cases did, in order. Those that did not run are `skipped`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<CaseReport>,
}

/// What one case did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaseReport {
    /// Its name in the stage.
    pub name: String,
    /// What its command did.
    #[serde(flatten)]
    pub run: RunReport,
}

/// What one run of a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunReport {
    /// What the code did.
    pub verdict: Verdict,
    /// More about the verdict, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// A sentence for people, where verdict and cause do not say it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Exit code of the command, when it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal that ended the command, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What it wrote to standard output.
    #[serde(default)]
    pub stdout: Captured,
    /// What it wrote to standard error.
    #[serde(default)]
    pub stderr: Captured,
    /// What it and everything it started used. Absent when it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageReport>,
}

impl RunReport {
    /// The report of a command that never ran.
    pub fn not_run(verdict: Verdict, cause: Option<Cause>) -> Self {
        RunReport {
            verdict,
            cause,
            message: None,
            exit_code: None,
            signal: None,
            stdout: Captured::default(),
            stderr: Captured::default(),
            usage: None,
        }
    }
}

/// What a command and everything it started used, as the kernel counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageReport {
    /// Wall time in milliseconds.
    pub wall_ms: Millis,
    /// User time of all processes together, in milliseconds.
    pub user_ms: Millis,
    /// System time of all processes together, in milliseconds.
    pub system_ms: Millis,
    /// Peak memory of all processes together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// Peak number of processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes_peak: Option<u64>,
    /// Disk that the working tree and `/tmp` took at the end, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

/// A file that the job left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputFile {
    /// Where it was, relative to the working tree.
    pub path: String,
    /// Permission bits in octal, such as `0644`.
    #[schemars(regex(pattern = r"^0[0-7]{3}$"))]
    pub mode: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of its content in hex.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// Its content.
    #[serde(flatten)]
    pub content: OutputContent,
}

/// A match that is not returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SkippedOutput {
    /// Where it was, relative to the working tree.
    pub path: String,
    /// Why it is not returned.
    pub reason: SkippedReason,
    /// Its size in bytes, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// For people: what is allowed, and what the operator can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Why a match is not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SkippedReason {
    /// Neither a regular file nor a directory: links, pipes, sockets and devices are never followed or opened.
    NotRegular,
    /// Larger than one file may be.
    TooLarge,
    /// Beyond the number of files, or the sum of their sizes.
    TooMany,
    /// Its name is not UTF-8.
    Name,
    /// It changed or vanished while it was read.
    Unreadable,
    /// The agent in this snapshot gave a reason that this worker does not know.
    Unknown,
}

/// Where the time went, in milliseconds. A step that did not happen is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// From the message's timestamp, or intake, to the claim's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<Millis>,
    /// Fetching the objects that the job names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch_ms: Option<Millis>,
    /// Waiting for a warm VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_ms: Option<Millis>,
    /// What the claimed VM took from its restore to its confirmed wake, mostly before the job came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_ms: Option<Millis>,
    /// Sending the job's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_ms: Option<Millis>,
    /// Running its stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<Millis>,
    /// Fetching its outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_ms: Option<Millis>,
    /// Publishing this result. Known only afterwards, so absent from the published bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_ms: Option<Millis>,
}
