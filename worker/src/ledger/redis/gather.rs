//! Words of many jobs, gathered into one command: what they cost the server does not grow with the jobs.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::ledger::{HEARTBEAT_EVERY, LedgerError};

/// For how long words are gathered.
const GATHER_FOR: Duration = Duration::from_millis(25);
/// Most words of one command; the next waits for it.
const AT_ONCE: usize = 1024;

const _: () = assert!(GATHER_FOR.as_millis() * 10 <= HEARTBEAT_EVERY.as_millis());

/// Words that wait for the next batch, each with whoever waits for its answer.
#[derive(Debug)]
pub(super) struct Gather<W, A> {
    waiting: Mutex<Vec<Waiting<W, A>>>,
}

#[derive(Debug)]
struct Waiting<W, A> {
    word: W,
    answer: oneshot::Sender<Result<A, String>>,
}

impl<W, A> Default for Gather<W, A> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

impl<W: Send + 'static, A: Send + 'static> Gather<W, A> {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting<W, A>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins a batch, and waits for its answer. Whoever finds none begins one, which a task of its own sends with
    /// `send`, in order: a caller that gives up takes nobody's word with it, not even its own.
    pub(super) async fn join<F>(
        gather: &Arc<Self>,
        word: W,
        send: impl Fn(Vec<W>) -> F + Send + Sync + 'static,
    ) -> Result<A, LedgerError>
    where
        F: Future<Output = Result<Vec<A>, LedgerError>> + Send,
    {
        let (answer, answered) = oneshot::channel();
        let first = {
            let mut waiting = gather.waiting();
            waiting.push(Waiting { word, answer });
            waiting.len() == 1
        };
        if first {
            let gather = Arc::clone(gather);
            tokio::spawn(async move {
                tokio::time::sleep(GATHER_FOR).await;
                let mut batch = mem::take(&mut *gather.waiting()).into_iter();
                while batch.len() > 0 {
                    tell(batch.by_ref().take(AT_ONCE), &send).await;
                }
            });
        }
        let failed = |what: String| LedgerError { what, source: None };
        answered.await.map_err(|_| failed("the command was not sent".into()))?.map_err(failed)
    }
}

async fn tell<W, A, F>(batch: impl Iterator<Item = Waiting<W, A>>, send: impl Fn(Vec<W>) -> F)
where
    F: Future<Output = Result<Vec<A>, LedgerError>>,
{
    let (words, callers): (Vec<_>, Vec<_>) = batch.map(|w| (w.word, w.answer)).unzip();
    // Callers that are gone need no answer.
    match send(words).await {
        Ok(answers) => {
            for (caller, answer) in callers.into_iter().zip(answers) {
                let _ = caller.send(Ok(answer));
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
