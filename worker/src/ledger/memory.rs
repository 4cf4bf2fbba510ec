//! The ledger of a single process: gone with it, as the jobs are.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hearth_schemas::result::Step;
use tokio::time::Instant;

use super::{
    Beat, Begun, Cancel, Commit, FailedAttempt, HEARTBEAT_LAPSES_AFTER, JobKey, Ledger, LedgerError, Token,
    unix_ms,
};

/// How long a result is kept for resubmissions.
const RESULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// Results kept at most; the oldest go first.
const RESULTS_MAX: usize = 10_000;

/// Keeps jobs in memory.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    jobs: HashMap<JobKey, Entry>,
    newest_token: u64,
}

#[derive(Debug)]
struct Entry {
    /// Absent while only a cancel is known of the job.
    digest: Option<String>,
    history: Vec<FailedAttempt>,
    cancelled: bool,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Free,
    Held { number: u64, owner: String, begun: Instant, lapses: Instant },
    Committed { number: u64, result: Bytes },
    Done { number: u64, result: Bytes, forget: Instant },
}

impl Entry {
    fn new() -> Self {
        Self { digest: None, history: Vec::new(), cancelled: false, phase: Phase::Free }
    }

    fn beat(&self, token: &Token) -> Beat {
        match self.phase {
            Phase::Held { number, .. } if number == token.number => match self.cancelled {
                true => Beat::Cancelled,
                false => Beat::Ours,
            },
            _ => Beat::Lost,
        }
    }
}

impl MemoryLedger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops results that are too old or too many.
    fn forget(&mut self, now: Instant) {
        if self.jobs.len() < RESULTS_MAX {
            return;
        }
        self.jobs.retain(|_, entry| !matches!(entry.phase, Phase::Done { forget, .. } if forget <= now));
        let oldest = |(key, entry): (&JobKey, &Entry)| match entry.phase {
            Phase::Done { forget, .. } => Some((forget, key.clone())),
            _ => None,
        };
        let mut done: Vec<_> = self.jobs.iter().filter_map(oldest).collect();
        done.sort();
        for (_, key) in done.into_iter().take(self.jobs.len().saturating_sub(RESULTS_MAX / 2)) {
            self.jobs.remove(&key);
        }
    }

    fn begin(&mut self, key: &JobKey, digest: &str, owner: &str, now: Instant) -> Begun {
        self.forget(now);
        let entry = self.jobs.entry(key.clone()).or_insert_with(Entry::new);
        if entry.digest.get_or_insert_with(|| digest.into()) != digest {
            return Begun::Conflict;
        }
        match &entry.phase {
            Phase::Committed { result, .. } => return Begun::Committed(result.clone()),
            Phase::Done { result, .. } => return Begun::Done(result.clone()),
            Phase::Held { lapses, .. } if *lapses > now => {
                return Begun::Held { lapses_in: lapses.duration_since(now) };
            }
            Phase::Held { owner, begun, .. } => entry.history.push(FailedAttempt {
                worker: owner.clone(),
                step: Step::Run,
                message: "the worker fell silent".into(),
                failed_unix_ms: unix_ms(),
                took_ms: now.duration_since(*begun).into(),
                counted: true,
            }),
            Phase::Free => {}
        }
        self.newest_token += 1;
        let number = self.newest_token;
        entry.phase =
            Phase::Held { number, owner: owner.into(), begun: now, lapses: now + HEARTBEAT_LAPSES_AFTER };
        Begun::Begun {
            token: Token { key: key.clone(), number },
            history: entry.history.clone(),
            cancelled: entry.cancelled,
        }
    }
}

impl Ledger for MemoryLedger {
    async fn begin(&self, key: &JobKey, digest: &str, owner: &str) -> Result<Begun, LedgerError> {
        Ok(self.state().begin(key, digest, owner, Instant::now()))
    }

    async fn heartbeat(&self, token: &Token) -> Result<Beat, LedgerError> {
        let mut state = self.state();
        let Some(entry) = state.jobs.get_mut(&token.key) else { return Ok(Beat::Lost) };
        let beat = entry.beat(token);
        if let (Beat::Ours | Beat::Cancelled, Phase::Held { lapses, .. }) = (beat, &mut entry.phase) {
            *lapses = Instant::now() + HEARTBEAT_LAPSES_AFTER;
        }
        Ok(beat)
    }

    async fn give_back(&self, token: &Token, failed: FailedAttempt) -> Result<Beat, LedgerError> {
        let mut state = self.state();
        let Some(entry) = state.jobs.get_mut(&token.key) else { return Ok(Beat::Lost) };
        let beat = entry.beat(token);
        if beat != Beat::Lost {
            entry.history.push(failed);
            entry.phase = Phase::Free;
        }
        Ok(beat)
    }

    async fn commit(&self, token: &Token, result: Bytes) -> Result<Commit, LedgerError> {
        let mut state = self.state();
        let Some(entry) = state.jobs.get_mut(&token.key) else { return Ok(Commit::Lost) };
        match entry.phase {
            Phase::Held { number, .. } if number == token.number => {
                entry.phase = Phase::Committed { number, result };
                Ok(Commit::Committed)
            }
            // The answer to the first commit was lost.
            Phase::Committed { number, .. } | Phase::Done { number, .. } if number == token.number => {
                Ok(Commit::Committed)
            }
            _ => Ok(Commit::Lost),
        }
    }

    async fn published(&self, key: &JobKey) -> Result<(), LedgerError> {
        let mut state = self.state();
        if let Some(entry) = state.jobs.get_mut(key)
            && let Phase::Committed { number, result } = &entry.phase
        {
            let forget = Instant::now() + RESULT_TTL;
            entry.phase = Phase::Done { number: *number, result: result.clone(), forget };
        }
        Ok(())
    }

    async fn cancel(&self, key: &JobKey) -> Result<Cancel, LedgerError> {
        let mut state = self.state();
        let entry = state.jobs.entry(key.clone()).or_insert_with(Entry::new);
        if matches!(entry.phase, Phase::Committed { .. } | Phase::Done { .. }) {
            return Ok(Cancel::TooLate);
        }
        entry.cancelled = true;
        Ok(Cancel::Marked)
    }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::result::Millis;

    use super::*;

    fn key() -> JobKey {
        JobKey { tenant: "t".into(), id: "1".into() }
    }

    async fn begin(ledger: &MemoryLedger) -> Token {
        match ledger.begin(&key(), "d", "w").await.unwrap() {
            Begun::Begun { token, .. } => token,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_owner_is_taken_over_and_its_commit_is_lost() {
        let ledger = MemoryLedger::default();
        let first = begin(&ledger).await;
        let held = ledger.begin(&key(), "d", "x").await.unwrap();
        assert_eq!(held, Begun::Held { lapses_in: HEARTBEAT_LAPSES_AFTER });
        tokio::time::advance(HEARTBEAT_LAPSES_AFTER).await;
        let Begun::Begun { token: second, history, .. } = ledger.begin(&key(), "d", "x").await.unwrap()
        else {
            panic!("not taken over")
        };
        assert_eq!((history.len(), history[0].worker.as_str()), (1, "w"));
        assert_eq!(ledger.heartbeat(&first).await.unwrap(), Beat::Lost);
        assert_eq!(ledger.commit(&first, "old".into()).await.unwrap(), Commit::Lost);
        assert_eq!(ledger.commit(&second, "new".into()).await.unwrap(), Commit::Committed);
        assert_eq!(ledger.begin(&key(), "d", "w").await.unwrap(), Begun::Committed("new".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_holds_the_job() {
        let ledger = MemoryLedger::default();
        let token = begin(&ledger).await;
        for _ in 0..20 {
            tokio::time::advance(HEARTBEAT_LAPSES_AFTER / 2).await;
            assert_eq!(ledger.heartbeat(&token).await.unwrap(), Beat::Ours);
        }
        assert!(matches!(ledger.begin(&key(), "d", "x").await.unwrap(), Begun::Held { .. }));
    }

    #[tokio::test]
    async fn the_first_result_stays_and_the_same_token_may_repeat_itself() {
        let ledger = MemoryLedger::default();
        let token = begin(&ledger).await;
        assert_eq!(ledger.commit(&token, "r".into()).await.unwrap(), Commit::Committed);
        assert_eq!(ledger.commit(&token, "r".into()).await.unwrap(), Commit::Committed);
        ledger.published(&key()).await.unwrap();
        ledger.published(&key()).await.unwrap();
        assert_eq!(ledger.begin(&key(), "d", "w").await.unwrap(), Begun::Done("r".into()));
        assert_eq!(ledger.begin(&key(), "other", "w").await.unwrap(), Begun::Conflict);
        assert_eq!(ledger.cancel(&key()).await.unwrap(), Cancel::TooLate);
    }

    #[tokio::test]
    async fn a_cancel_is_seen_by_the_owner_and_by_the_next_begin() {
        let ledger = MemoryLedger::default();
        let token = begin(&ledger).await;
        assert_eq!(ledger.cancel(&key()).await.unwrap(), Cancel::Marked);
        assert_eq!(ledger.heartbeat(&token).await.unwrap(), Beat::Cancelled);
        let failed = FailedAttempt {
            worker: "w".into(),
            step: Step::Claim,
            message: "none".into(),
            failed_unix_ms: 0,
            took_ms: Millis::default(),
            counted: false,
        };
        assert_eq!(ledger.give_back(&token, failed).await.unwrap(), Beat::Cancelled);
        let again = ledger.begin(&key(), "d", "w").await.unwrap();
        assert!(matches!(again, Begun::Begun { cancelled: true, ref history, .. } if history.len() == 1));
    }

    #[tokio::test]
    async fn results_are_forgotten_the_oldest_first() {
        let ledger = MemoryLedger::default();
        let key = |n: usize| JobKey { tenant: "t".into(), id: n.to_string() };
        for n in 0..=RESULTS_MAX {
            let Begun::Begun { token, .. } = ledger.begin(&key(n), "d", "w").await.unwrap() else { panic!() };
            ledger.commit(&token, Bytes::new()).await.unwrap();
            ledger.published(&key(n)).await.unwrap();
        }
        assert!(ledger.state().jobs.len() < RESULTS_MAX);
        let newest = ledger.begin(&key(RESULTS_MAX), "d", "w").await.unwrap();
        assert_eq!(newest, Begun::Done(Bytes::new()));
    }
}
