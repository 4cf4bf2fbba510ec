//! One ledger for several workers: Redis, or one in memory that is shared as Redis is.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_worker::ledger::{
    Beat, Begun, Cancel, Commit, FailedAttempt, JobKey, Ledger, LedgerError, MemoryLedger, RedisLedger,
    Registered, Registration, Seized, Token, Unpublished,
};

#[derive(Clone)]
pub enum SharedLedger {
    Memory(Arc<MemoryLedger>),
    Redis(RedisLedger),
}

impl Default for SharedLedger {
    fn default() -> Self {
        Self::Memory(Arc::default())
    }
}

/// Asks whichever it is.
macro_rules! ask {
    ($self:ident . $method:ident ( $($argument:expr),* )) => {
        match $self {
            Self::Memory(ledger) => ledger.$method($($argument),*).await,
            Self::Redis(ledger) => ledger.$method($($argument),*).await,
        }
    };
}

impl Ledger for SharedLedger {
    async fn register(
        &self,
        key: &JobKey,
        digest: &str,
        registration: &Registration,
    ) -> Result<Registered, LedgerError> {
        ask!(self.register(key, digest, registration))
    }
    async fn begin_with(
        &self,
        key: &JobKey,
        digest: &str,
        owner: &str,
        registration: &Registration,
    ) -> Result<Begun, LedgerError> {
        ask!(self.begin_with(key, digest, owner, registration))
    }
    async fn heartbeats(&self, tokens: &[Token]) -> Result<Vec<Beat>, LedgerError> {
        ask!(self.heartbeats(tokens))
    }
    async fn heartbeat(&self, token: &Token) -> Result<Beat, LedgerError> {
        ask!(self.heartbeat(token))
    }
    async fn give_back(&self, token: &Token, failed: FailedAttempt) -> Result<Beat, LedgerError> {
        ask!(self.give_back(token, failed))
    }
    async fn commit(&self, token: &Token, result: Bytes) -> Result<Commit, LedgerError> {
        ask!(self.commit(token, result))
    }
    async fn published(&self, key: &JobKey, told: &str) -> Result<(), LedgerError> {
        ask!(self.published(key, told))
    }
    async fn cancel(&self, key: &JobKey) -> Result<Cancel, LedgerError> {
        ask!(self.cancel(key))
    }
    async fn overdue(&self, at_most: usize) -> Result<Vec<JobKey>, LedgerError> {
        ask!(self.overdue(at_most))
    }
    async fn seize(&self, key: &JobKey, owner: &str) -> Result<Seized, LedgerError> {
        ask!(self.seize(key, owner))
    }
    async fn unpublished(
        &self,
        older_than: Duration,
        at_most: usize,
    ) -> Result<Vec<Unpublished>, LedgerError> {
        ask!(self.unpublished(older_than, at_most))
    }
    async fn lead(&self, owner: &str, period: Duration) -> Result<Option<Duration>, LedgerError> {
        ask!(self.lead(owner, period))
    }
    async fn running(&self, tenant: &str) -> Result<u32, LedgerError> {
        ask!(self.running(tenant))
    }
}
