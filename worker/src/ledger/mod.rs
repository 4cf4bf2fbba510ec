//! The one place where a job's state lives and its result is decided.

mod memory;

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hearth_schemas::result::{Millis, Step};
use serde::{Deserialize, Serialize};

pub use self::memory::MemoryLedger;

/// Names a job: ids are unique within their tenant only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey {
    /// Whose job.
    pub tenant: String,
    /// Its id.
    pub id: String,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.id)
    }
}

/// Fences one attempt at one job: only the newest can commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The job.
    pub key: JobKey,
    /// Grows with every begin.
    pub number: u64,
}

/// An attempt that failed for reasons of our own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttempt {
    /// The worker that tried.
    pub worker: String,
    /// The step that failed.
    pub step: Step,
    /// What happened, for people.
    pub message: String,
    /// When, in milliseconds since 1970.
    pub failed_unix_ms: u64,
    /// How long it took until then.
    pub took_ms: Millis,
    /// Whether the job had reached a VM: only such attempts count.
    pub counted: bool,
}

/// What a begin finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The job is ours to run.
    Begun {
        /// Proves it.
        token: Token,
        /// Failed attempts so far, the oldest first.
        history: Vec<FailedAttempt>,
        /// Whether a cancel came before.
        cancelled: bool,
    },
    /// Somebody else runs it and was alive this long before its heartbeat lapses.
    Held {
        /// Look again then.
        lapses_in: Duration,
    },
    /// It has a result that may not have been published: publish these bytes.
    Committed(Bytes),
    /// Its result was published; these bytes.
    Done(Bytes),
    /// The same id with another request.
    Conflict,
}

/// What a heartbeat finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The job is still ours.
    Ours,
    /// It is ours and was cancelled: end it and commit that.
    Cancelled,
    /// Somebody else has it or has ended it: stop.
    Lost,
}

/// What a commit finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// These bytes are the job's result; also when they already were.
    Committed,
    /// The attempt was fenced off: throw its result away.
    Lost,
}

/// What a cancel finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// Marked; whoever has or gets the job ends it.
    Marked,
    /// It already has a result.
    TooLate,
}

/// The ledger cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("ledger: {what}")]
pub struct LedgerError {
    /// What failed.
    pub what: String,
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Where jobs are kept. No method is cancel safe: after a lost answer, ask again with the same arguments.
pub trait Ledger: Send + Sync + 'static {
    /// Takes a job, or says who has it or what became of it. `owner` names the worker.
    fn begin(
        &self,
        key: &JobKey,
        digest: &str,
        owner: &str,
    ) -> impl Future<Output = Result<Begun, LedgerError>> + Send;

    /// Says that the attempt lives. To be called every [`HEARTBEAT_EVERY`].
    fn heartbeat(&self, token: &Token) -> impl Future<Output = Result<Beat, LedgerError>> + Send;

    /// Gives the job back after a failure of our own, with its record; the next begin is the next attempt.
    fn give_back(
        &self,
        token: &Token,
        failed: FailedAttempt,
    ) -> impl Future<Output = Result<Beat, LedgerError>> + Send;

    /// Decides the job's result: compare and set on the token. The only place where that happens.
    fn commit(
        &self,
        token: &Token,
        result: Bytes,
    ) -> impl Future<Output = Result<Commit, LedgerError>> + Send;

    /// The committed result is confirmed and routed.
    fn published(&self, key: &JobKey) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Marks the job as cancelled, known or not.
    fn cancel(&self, key: &JobKey) -> impl Future<Output = Result<Cancel, LedgerError>> + Send;
}

/// A held job whose owner was silent for this long is free for the next begin.
pub const HEARTBEAT_LAPSES_AFTER: Duration = Duration::from_secs(3);
/// How often an owner speaks.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);

const _: () = assert!(HEARTBEAT_EVERY.as_millis() * 4 < HEARTBEAT_LAPSES_AFTER.as_millis());

/// Milliseconds since 1970, for people who read a history.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
