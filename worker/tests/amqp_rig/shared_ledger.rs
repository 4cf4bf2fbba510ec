//! One ledger in memory for several workers, as Redis is.

use std::{ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_worker::ledger::{
    Beat, Begun, Cancel, Commit, FailedAttempt, JobKey, Ledger, LedgerError, MemoryLedger, Registered,
    Registration, Seized, Token, Unpublished,
};

#[derive(Clone, Default)]
pub struct SharedLedger(Arc<MemoryLedger>);

impl Deref for SharedLedger {
    type Target = MemoryLedger;

    fn deref(&self) -> &MemoryLedger {
        &self.0
    }
}

impl Ledger for SharedLedger {
    async fn register(
        &self,
        key: &JobKey,
        digest: &str,
        registration: &Registration,
    ) -> Result<Registered, LedgerError> {
        self.0.register(key, digest, registration).await
    }
    async fn begin_with(
        &self,
        key: &JobKey,
        digest: &str,
        owner: &str,
        registration: &Registration,
    ) -> Result<Begun, LedgerError> {
        self.0.begin_with(key, digest, owner, registration).await
    }
    async fn heartbeats(&self, tokens: &[Token]) -> Result<Vec<Beat>, LedgerError> {
        self.0.heartbeats(tokens).await
    }
    async fn heartbeat(&self, token: &Token) -> Result<Beat, LedgerError> {
        self.0.heartbeat(token).await
    }
    async fn give_back(&self, token: &Token, failed: FailedAttempt) -> Result<Beat, LedgerError> {
        self.0.give_back(token, failed).await
    }
    async fn commit(&self, token: &Token, result: Bytes) -> Result<Commit, LedgerError> {
        self.0.commit(token, result).await
    }
    async fn published(&self, key: &JobKey) -> Result<(), LedgerError> {
        self.0.published(key).await
    }
    async fn cancel(&self, key: &JobKey) -> Result<Cancel, LedgerError> {
        self.0.cancel(key).await
    }
    async fn overdue(&self, at_most: usize) -> Result<Vec<JobKey>, LedgerError> {
        self.0.overdue(at_most).await
    }
    async fn seize(&self, key: &JobKey, owner: &str) -> Result<Seized, LedgerError> {
        self.0.seize(key, owner).await
    }
    async fn unpublished(
        &self,
        older_than: Duration,
        at_most: usize,
    ) -> Result<Vec<Unpublished>, LedgerError> {
        self.0.unpublished(older_than, at_most).await
    }
    async fn running(&self, tenant: &str) -> Result<u32, LedgerError> {
        self.0.running(tenant).await
    }
}
