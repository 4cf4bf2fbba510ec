//! The ledger in Redis, for all workers.
//!
//! Every change is one script, made for being asked again: a begin carries a request id, everything else the
//! attempt's number. When the data is new, no job is begun for a while, in which heartbeats and commits put down
//! again what the old data knew; the tokens carry what that needs.

mod gather;
mod reply;
mod scripts;
mod trouble;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hearth_pool::redis_server::{RedisServer, ServerError, micros};
use redis::{FromRedisValue, Script, ScriptInvocation};

pub use self::trouble::trouble;
use self::{gather::Gather, reply::Fields};
use super::{
    Beat, Begun, Cancel, Commit, DEADLINE_GRACE, FailedAttempt, HEARTBEAT_LAPSES_AFTER, JobKey, Ledger,
    LedgerError, RESULT_TTL, Registered, Registration, Seized, TenantLimits, Token, Unpublished, shard,
};

/// How long a job is kept of which nothing more is heard, from its deadline if it has one.
const UNFINISHED_KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// A result above this is marked as large. It is stored all the same, until results can go by reference.
const LARGE_RESULT_BYTES: usize = 64 * 1024;
/// Most bytes of results in one answer.
const UNPUBLISHED_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How jobs are kept.
#[derive(Clone, Debug)]
pub struct RedisLedgerConfig {
    /// How long a result is kept for resubmissions after it was published.
    pub result_ttl: Duration,
    /// How long new data waits for the owners of running jobs: a lease's time and its grace.
    pub settle: Duration,
}

impl RedisLedgerConfig {
    /// The defaults, with the time that the workers' leases take to settle.
    pub fn new(settle: Duration) -> Self {
        Self { result_ttl: RESULT_TTL, settle }
    }
}

/// The ledger. Clones share it.
#[derive(Clone, Debug)]
pub struct RedisLedger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: RedisServer,
    config: RedisLedgerConfig,
    /// Distinguishes this ledger's requests from those of others.
    asker: String,
    asked: AtomicU64,
    beats: Arc<Gather<Token, Beat>>,
    marks: Arc<Gather<Mark, ()>>,
}

/// That a result is published.
#[derive(Debug)]
struct Mark {
    /// Of this job, by its name in keys.
    name: String,
    /// Where it was asked to go.
    told: String,
}

impl RedisLedger {
    /// A ledger. Asks nothing of the server yet.
    pub fn new(server: RedisServer, config: RedisLedgerConfig) -> Self {
        let (asker, asked) = (ulid::Ulid::generate().to_string(), AtomicU64::new(0));
        let (beats, marks) = (Arc::default(), Arc::default());
        Self(Arc::new(Inner { server, config, asker, asked, beats, marks }))
    }

    /// A question about one job.
    fn question<'a>(&self, script: &'a Script, key: &JobKey) -> Result<ScriptInvocation<'a>, LedgerError> {
        let name = reply::name(key).ok_or_else(|| foreign("a tenant with a slash in its name"))?;
        let mut question = self.0.server.question(script);
        question.key(self.key(&format!("job:{name}"))).key(self.key("deadlines"));
        question.key(self.key("unpublished")).key(self.running_key(&key.tenant));
        question.key(self.key(&format!("waiting:{}", key.tenant))).key(self.key("shards"));
        question.key(self.key("shards:load"));
        question.arg(&name).arg(&key.id).arg(millis(UNFINISHED_KEPT_FOR));
        Ok(question)
    }

    fn key(&self, name: &str) -> String {
        self.0.server.key(name)
    }

    fn running_key(&self, tenant: &str) -> String {
        self.key(&format!("running:{tenant}"))
    }

    fn settled(&self) -> u64 {
        micros(self.0.config.settle)
    }

    /// Names one call, so that the server knows it again.
    fn request(&self) -> String {
        format!("{} {}", self.0.asker, self.0.asked.fetch_add(1, Ordering::Relaxed))
    }

    async fn ask<T: FromRedisValue>(&self, question: ScriptInvocation<'_>) -> Result<T, LedgerError> {
        Ok(self.0.server.ask(&question).await?.value)
    }

    async fn mark(&self, marks: Vec<Mark>) -> Result<Vec<()>, LedgerError> {
        let mut question = self.0.server.question(&scripts::PUBLISHED);
        question.key(self.key("unpublished")).arg(millis(self.0.config.result_ttl));
        for Mark { name, told } in &marks {
            question.key(self.key(&format!("job:{name}"))).arg(name).arg(told);
        }
        self.ask::<Vec<i64>>(question).await.map(|_| vec![(); marks.len()])
    }

    /// The age of the data goes no faster than it is asked.
    fn look_again(&self, begun: Begun) -> Begun {
        match begun {
            Begun::Held { lapses_in } => {
                Begun::Held { lapses_in: lapses_in.min(self.0.server.clock_step_max()) }
            }
            other => other,
        }
    }
}

fn with_registration(question: &mut ScriptInvocation<'_>, digest: &str, registration: &Registration) {
    let deadline = registration.deadline_unix_ms.map_or_else(String::new, |ms| ms.to_string());
    question.arg(digest).arg(deadline).arg(&registration.route[..]);
}

impl Ledger for RedisLedger {
    async fn register(
        &self,
        key: &JobKey,
        digest: &str,
        registration: &Registration,
    ) -> Result<Registered, LedgerError> {
        let mut question = self.question(&scripts::REGISTER, key)?;
        with_registration(&mut question, digest, registration);
        let shards = registration.shards;
        question.arg(&key.tenant).arg(shards).arg(shard(&key.tenant, shards));
        let answer: Fields = self.ask(question).await?;
        reply::registered(answer).ok_or_else(|| foreign("the answer to register"))
    }

    async fn begin_with(
        &self,
        key: &JobKey,
        digest: &str,
        owner: &str,
        registration: &Registration,
    ) -> Result<Begun, LedgerError> {
        let mut question = self.question(&scripts::BEGIN, key)?;
        with_registration(&mut question, digest, registration);
        question.arg(owner).arg(self.request()).arg(micros(HEARTBEAT_LAPSES_AFTER)).arg(self.settled());
        question.key(self.key(&format!("rate:{}", key.tenant)));
        let TenantLimits { running_max, starts } = registration.limits;
        question.arg(running_max.map_or_else(String::new, |max| max.to_string()));
        question.arg(starts.map_or(0, |rate| micros(rate.every()))).arg(starts.map_or(0, |rate| rate.burst));
        let answer: Fields = self.ask(question).await?;
        let begun = reply::begun(answer, key, digest, owner).ok_or_else(|| foreign("the answer to begin"))?;
        Ok(self.look_again(begun))
    }

    async fn heartbeats(&self, tokens: &[Token]) -> Result<Vec<Beat>, LedgerError> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let mut question = self.0.server.question(&scripts::HEARTBEATS);
        question.arg(micros(HEARTBEAT_LAPSES_AFTER)).arg(self.settled()).arg(millis(UNFINISHED_KEPT_FOR));
        for Token { key, number, digest, owner } in tokens {
            let name = reply::name(key).ok_or_else(|| foreign("a tenant with a slash in its name"))?;
            question.key(self.key(&format!("job:{name}"))).key(self.running_key(&key.tenant));
            question.arg(&key.id).arg(number).arg(owner).arg(digest);
        }
        let answers: Vec<i64> = self.ask(question).await?;
        let beats: Option<Vec<Beat>> = answers.into_iter().map(reply::beat).collect();
        beats.filter(|beats| beats.len() == tokens.len()).ok_or_else(|| foreign("the answer to heartbeats"))
    }

    async fn heartbeat(&self, token: &Token) -> Result<Beat, LedgerError> {
        let ledger = self.clone();
        let send = move |tokens: Vec<Token>| {
            let ledger = ledger.clone();
            async move { ledger.heartbeats(&tokens).await }
        };
        Gather::join(&self.0.beats, token.clone(), send).await
    }

    async fn give_back(&self, token: &Token, failed: FailedAttempt) -> Result<Beat, LedgerError> {
        let failed = serde_json::to_string(&failed)
            .map_err(|e| LedgerError { what: "writing an attempt".into(), source: Some(Box::new(e)) })?;
        let mut question = self.question(&scripts::GIVE_BACK, &token.key)?;
        question.arg(token.number).arg(failed);
        let answer = self.ask(question).await?;
        reply::beat(answer).ok_or_else(|| foreign("the answer to give_back"))
    }

    async fn commit(&self, token: &Token, result: Bytes) -> Result<Commit, LedgerError> {
        let mut question = self.question(&scripts::COMMIT, &token.key)?;
        question.arg(token.number).arg(&result[..]).arg(&token.digest);
        question.arg(self.settled()).arg(LARGE_RESULT_BYTES);
        let committed: bool = self.ask(question).await?;
        Ok(if committed { Commit::Committed } else { Commit::Lost })
    }

    async fn published(&self, key: &JobKey, told: &str) -> Result<(), LedgerError> {
        let ledger = self.clone();
        let send = move |marks| {
            let ledger = ledger.clone();
            async move { ledger.mark(marks).await }
        };
        let name = reply::name(key).ok_or_else(|| foreign("a tenant with a slash in its name"))?;
        Gather::join(&self.0.marks, Mark { name, told: told.to_owned() }, send).await
    }

    async fn cancel(&self, key: &JobKey) -> Result<Cancel, LedgerError> {
        let marked: bool = self.ask(self.question(&scripts::CANCEL, key)?).await?;
        Ok(if marked { Cancel::Marked } else { Cancel::TooLate })
    }

    async fn overdue(&self, at_most: usize) -> Result<Vec<JobKey>, LedgerError> {
        let mut question = self.0.server.question(&scripts::OVERDUE);
        question.key(self.key("deadlines")).arg(at_most);
        let names: Vec<String> = self.ask(question).await?;
        let keys = names.iter().map(|name| reply::key(name)).collect::<Option<_>>();
        keys.ok_or_else(|| foreign("the set of deadlines"))
    }

    async fn seize(&self, key: &JobKey, owner: &str) -> Result<Seized, LedgerError> {
        let mut question = self.question(&scripts::SEIZE, key)?;
        question.arg(owner).arg(self.request()).arg(micros(HEARTBEAT_LAPSES_AFTER)).arg(self.settled());
        question.arg(millis(DEADLINE_GRACE));
        let answer: Fields = self.ask(question).await?;
        reply::seized(answer, key, owner).ok_or_else(|| foreign("the answer to seize"))
    }

    async fn unpublished(
        &self,
        older_than: Duration,
        at_most: usize,
    ) -> Result<Vec<Unpublished>, LedgerError> {
        let mut question = self.0.server.question(&scripts::UNPUBLISHED);
        question.key(self.key("unpublished")).arg(micros(older_than)).arg(at_most);
        question.arg(UNPUBLISHED_BATCH_BYTES).arg(self.key("job:"));
        let answer: Fields = self.ask(question).await?;
        reply::unpublished(answer).ok_or_else(|| foreign("the set of unpublished results"))
    }

    async fn lead(&self, owner: &str, period: Duration) -> Result<Option<Duration>, LedgerError> {
        let mut question = self.0.server.question(&scripts::LEAD);
        question.key(self.key("reaper")).arg(owner).arg(micros(period));
        let left: u64 = self.ask(question).await?;
        Ok((left > 0).then(|| Duration::from_micros(left)))
    }

    async fn running(&self, tenant: &str) -> Result<u32, LedgerError> {
        let mut question = self.0.server.question(&scripts::RUNNING);
        question.key(self.running_key(tenant));
        self.ask(question).await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn foreign(what: &str) -> LedgerError {
    LedgerError { what: format!("{what} is nothing that this version knows"), source: None }
}

impl From<ServerError> for LedgerError {
    fn from(error: ServerError) -> Self {
        Self { what: "redis".into(), source: Some(Box::new(error)) }
    }
}
