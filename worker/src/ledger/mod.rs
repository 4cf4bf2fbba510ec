//! The one place where a job's state lives and its result is decided.

mod limits;
mod memory;
mod redis;
mod shards;

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hearth_schemas::result::{Millis, Step};
use serde::{Deserialize, Serialize};

pub use self::{
    limits::{Busy, Quotas, Rate, TenantLimits},
    memory::MemoryLedger,
    redis::{RedisLedger, RedisLedgerConfig, trouble},
    shards::shard,
};

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
    /// The request's digest: a ledger that has lost its data learns the job from its token again.
    pub digest: String,
    /// Whose attempt it is.
    pub owner: String,
}

/// What the ledger is told of a job when it first hears of it. Later tellings change nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// When the job is overdue, in milliseconds since 1970. Without one nobody ends the job for being late.
    pub deadline_unix_ms: Option<u64>,
    /// What whoever publishes the result in the owner's place has to know, in the worker's own form.
    pub route: Bytes,
    /// What the tenant may do, over all workers.
    pub limits: TenantLimits,
    /// How many shards waiting jobs have; 0 for none.
    pub shards: u16,
}

/// What a registration finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It waits for a begin.
    Waiting {
        /// Whether a cancel came before.
        cancelled: bool,
        /// Where: its tenant's shard, which is the same while any of its jobs waits.
        shard: u16,
    },
    /// Somebody runs it and was alive this long before its heartbeat lapses.
    Held {
        /// Look again then.
        lapses_in: Duration,
        /// Where its message should wait until then.
        shard: u16,
    },
    /// As for a begin.
    Committed(Bytes),
    /// As for a begin.
    Done(Bytes),
    /// As for a begin.
    Conflict,
}

/// What a seizure finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seized {
    /// The job is ours to end.
    Seized(Box<Seizure>),
    /// It is neither overdue nor cancelled, or its owner lives and will end it.
    NotYet,
    /// It has a result, or nobody knows it.
    Ended,
}

/// A job that is to be ended without being run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seizure {
    /// Commits the job's end.
    pub token: Token,
    /// What the job's registration said.
    pub route: Bytes,
    /// Failed attempts, the oldest first.
    pub history: Vec<FailedAttempt>,
    /// Whether it was cancelled.
    pub cancelled: bool,
    /// Whether its deadline has passed.
    pub overdue: bool,
}

/// A result that was committed and is not known to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpublished {
    /// Whose.
    pub key: JobKey,
    /// Publish these bytes.
    pub result: Bytes,
    /// What the job's registration said.
    pub route: Bytes,
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
    /// Somebody else runs it and was alive this long before its heartbeat lapses; or somebody may, since the
    /// ledger's data is new.
    Held {
        /// Look again then.
        lapses_in: Duration,
    },
    /// It has a result that may not have been published: publish these bytes.
    Committed(Bytes),
    /// Its result was published.
    Done {
        /// These bytes.
        result: Bytes,
        /// Where to, the last time; empty for the exchange of results. Who asked for another place has not been told.
        told: String,
    },
    /// The same id with another request.
    Conflict,
    /// The tenant may not begin another one yet; the job waits.
    TenantBusy(Busy),
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
    /// Learns of a job that is to be begun later, by whoever it is delivered to.
    fn register(
        &self,
        key: &JobKey,
        digest: &str,
        registration: &Registration,
    ) -> impl Future<Output = Result<Registered, LedgerError>> + Send;

    /// Takes a job, or says who has it or what became of it. `owner` names the worker. Registers a job that it
    /// does not know.
    fn begin_with(
        &self,
        key: &JobKey,
        digest: &str,
        owner: &str,
        registration: &Registration,
    ) -> impl Future<Output = Result<Begun, LedgerError>> + Send;

    /// Takes a job that is registered, or whose registration does not matter.
    fn begin(
        &self,
        key: &JobKey,
        digest: &str,
        owner: &str,
    ) -> impl Future<Output = Result<Begun, LedgerError>> + Send {
        async move { self.begin_with(key, digest, owner, &Registration::default()).await }
    }

    /// Says that attempts live; the answers are in the order asked.
    fn heartbeats(&self, tokens: &[Token]) -> impl Future<Output = Result<Vec<Beat>, LedgerError>> + Send;

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

    /// The committed result is confirmed and routed. `told` is where it was asked to go, empty for the exchange of results.
    fn published(&self, key: &JobKey, told: &str) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Marks the job as cancelled, known or not.
    fn cancel(&self, key: &JobKey) -> impl Future<Output = Result<Cancel, LedgerError>> + Send;

    /// Jobs without a result whose deadline has passed, the longest overdue first. For the reaper.
    fn overdue(&self, at_most: usize) -> impl Future<Output = Result<Vec<JobKey>, LedgerError>> + Send;

    /// Takes a job to end it without running it: one that is overdue or cancelled and that nobody runs. An owner
    /// that lives ends an overdue job itself, and has [`DEADLINE_GRACE`] for it.
    fn seize(&self, key: &JobKey, owner: &str) -> impl Future<Output = Result<Seized, LedgerError>> + Send;

    /// Results that were committed longer ago than `older_than` and are not known to be published, the oldest
    /// first. Fewer than `at_most` does not mean that there are no more: a batch is bounded in bytes too.
    fn unpublished(
        &self,
        older_than: Duration,
        at_most: usize,
    ) -> impl Future<Output = Result<Vec<Unpublished>, LedgerError>> + Send;

    /// Makes `owner` the one that looks after jobs that nobody runs, for so long; or says for how long another one does.
    /// For a while there may be two: what they do is decided for each job.
    fn lead(
        &self,
        _owner: &str,
        _period: Duration,
    ) -> impl Future<Output = Result<Option<Duration>, LedgerError>> + Send {
        async { Ok(None) }
    }

    /// How many of a tenant's jobs are held by owners that live.
    fn running(&self, tenant: &str) -> impl Future<Output = Result<u32, LedgerError>> + Send;
}

/// How long a result is kept for resubmissions after it was published, unless told otherwise.
pub const RESULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long after a job's deadline a living owner may end it itself.
pub const DEADLINE_GRACE: Duration = Duration::from_secs(2);

/// A held job whose owner was silent for this long is free for the next begin.
pub const HEARTBEAT_LAPSES_AFTER: Duration = Duration::from_secs(3);
/// How often an owner speaks.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);

const _: () = assert!(HEARTBEAT_EVERY.as_millis() * 4 < HEARTBEAT_LAPSES_AFTER.as_millis());

/// What the history says of an owner whose heartbeat lapsed.
const SILENT: &str = "the worker fell silent";

/// Milliseconds since 1970, for people who read a history.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
