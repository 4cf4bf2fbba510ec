//! Decides a job's result in the ledger; while the ledger is away, the result waits on disk.

use std::{sync::Arc, time::Duration};

use tokio::task::spawn_blocking;

use crate::{
    amqp::spool::{Entry, Spool},
    attempt::chain,
    handle::Service,
    ledger::{Commit, Ledger, LedgerError, Token},
    seams::{Publication, ResultSink},
};

/// Pauses between tries to commit: the same token again is fine when only the answer was lost.
const COMMIT_PAUSES: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(500)];
/// Between two tries to commit what waits on disk.
const SPOOLED_PAUSE: Duration = Duration::from_secs(1);

/// What came of a result.
#[derive(Debug)]
pub(crate) enum Decided {
    /// It is the job's result.
    Committed,
    /// The attempt was fenced off: throw it away.
    Lost,
    /// The ledger does not answer, and there is no room on disk.
    Away(LedgerError),
}

/// Commits a result. Waits for the ledger for as long as that takes where the result can wait on disk: nobody else can
/// begin the job meanwhile. Not cancel safe; what waits on disk is committed by [`recover`] when the process is gone.
pub(crate) async fn decide<L: Ledger, S>(
    service: &Service<L, S>,
    token: &Token,
    publication: &Publication,
) -> Decided {
    let mut pauses = COMMIT_PAUSES.into_iter();
    let error = loop {
        match (service.ledger.commit(token, publication.body.clone()).await, pauses.next()) {
            (Ok(commit), _) => return commit.into(),
            (Err(_), Some(pause)) => tokio::time::sleep(pause).await,
            (Err(error), None) => break error,
        }
    };
    let Some(spool) = service.spool() else { return Decided::Away(error) };
    match put(&spool, publication, token).await {
        Some(entry) => {
            tracing::warn!(job = %token.key, error = chain(&error), "the result waits on disk for the ledger");
            commit_spooled(service, &spool, &entry).await.map_or(Decided::Lost, Decided::from)
        }
        None => Decided::Away(error),
    }
}

impl From<Commit> for Decided {
    fn from(commit: Commit) -> Self {
        match commit {
            Commit::Committed => Self::Committed,
            Commit::Lost => Self::Lost,
        }
    }
}

/// Commits and publishes what an earlier process has left on disk. Returns when nothing is left of it.
pub async fn recover<L: Ledger, S: ResultSink>(service: &Service<L, S>) {
    let Some(spool) = service.spool() else { return };
    for entry in spool.entries().unwrap_or_default() {
        let Some((publication, token)) = read(&spool, &entry).await else { continue };
        match commit_spooled(service, &spool, &entry).await {
            Some(Commit::Committed) => {
                tracing::info!(job = %token.key, "a result that had waited on disk is committed");
                // What is not published now is found unpublished later.
                if service.sink.publish(&publication).await.is_ok() {
                    let _ = service.ledger.published(&token.key, publication.properties.told()).await;
                }
            }
            Some(Commit::Lost) | None => {
                tracing::info!(job = %token.key, "a result that had waited on disk came too late");
            }
        }
    }
}

/// Asks until the ledger answers, then forgets the entry. `None`: the entry is gone, since somebody else dealt with it.
async fn commit_spooled<L: Ledger, S>(
    service: &Service<L, S>,
    spool: &Arc<Spool>,
    entry: &Entry,
) -> Option<Commit> {
    loop {
        let (publication, token) = read(spool, entry).await?;
        match service.ledger.commit(&token, publication.body).await {
            Ok(commit) => {
                let (spool, entry) = (spool.clone(), entry.clone());
                let removed = spawn_blocking(move || spool.remove(&entry)).await;
                if let Ok(Err(error)) = removed {
                    tracing::debug!(%error, "a committed result stays in the spool");
                }
                return Some(commit);
            }
            Err(_) => tokio::time::sleep(SPOOLED_PAUSE).await,
        }
    }
}

async fn put(spool: &Arc<Spool>, publication: &Publication, token: &Token) -> Option<Entry> {
    let (spool, publication, token) = (spool.clone(), publication.clone(), token.clone());
    match spawn_blocking(move || spool.put_undecided(&publication, &token)).await {
        Ok(Ok(entry)) => Some(entry),
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "the result cannot wait on disk; its job runs again");
            None
        }
        Err(_) => None,
    }
}

async fn read(spool: &Arc<Spool>, entry: &Entry) -> Option<(Publication, Token)> {
    let (spool, entry) = (spool.clone(), entry.clone());
    spawn_blocking(move || spool.read_undecided(&entry)).await.ok()?.ok()?
}
