//! Heartbeats of many jobs, gathered into one command: what they cost does not grow with the jobs.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::ledger::{Beat, HEARTBEAT_EVERY, Ledger, LedgerError, Token};

/// For how long heartbeats are gathered.
const GATHER_FOR: Duration = Duration::from_millis(25);

const _: () = assert!(GATHER_FOR.as_millis() * 10 <= HEARTBEAT_EVERY.as_millis());

/// Heartbeats that wait for the next batch.
#[derive(Debug, Default)]
pub(super) struct Beats {
    waiting: Mutex<Vec<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    token: Token,
    answer: oneshot::Sender<Result<Beat, String>>,
}

impl Beats {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins a batch. Whoever finds none begins one, which a task of its own sends: a caller that gives up takes
    /// nobody's heartbeat with it.
    pub(super) async fn join<L: Ledger>(
        beats: &Arc<Self>,
        ledger: L,
        token: Token,
    ) -> Result<Beat, LedgerError> {
        let (answer, answered) = oneshot::channel();
        let first = {
            let mut waiting = beats.waiting();
            waiting.push(Waiting { token, answer });
            waiting.len() == 1
        };
        if first {
            let beats = Arc::clone(beats);
            tokio::spawn(async move {
                tokio::time::sleep(GATHER_FOR).await;
                let batch = mem::take(&mut *beats.waiting());
                send(&ledger, batch).await;
            });
        }
        let failed = |what: String| LedgerError { what, source: None };
        answered.await.map_err(|_| failed("the heartbeat was not sent".into()))?.map_err(failed)
    }
}

async fn send(ledger: &impl Ledger, batch: Vec<Waiting>) {
    let (tokens, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.token, w.answer)).unzip();
    // Callers that are gone need no answer.
    match ledger.heartbeats(&tokens).await {
        Ok(beats) => {
            for (caller, beat) in callers.into_iter().zip(beats) {
                let _ = caller.send(Ok(beat));
            }
        }
        Err(error) => {
            let source = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
            for caller in callers {
                let _ = caller.send(Err(format!("{}{source}", error.what)));
            }
        }
    }
}
