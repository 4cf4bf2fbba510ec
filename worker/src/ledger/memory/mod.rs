//! The ledger of a single process: gone with it, as the jobs are.

mod entry;
mod waiting;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use self::{
    entry::{Entry, Phase},
    waiting::Waiting,
};
use super::{
    Beat, Begun, Busy, Cancel, Commit, FailedAttempt, HEARTBEAT_LAPSES_AFTER, JobKey, Ledger, LedgerError,
    RESULT_TTL, Rate, Registered, Registration, Seized, Seizure, TenantLimits, Token, Unpublished, unix_ms,
};

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
    lead: Option<(String, Instant)>,
    waiting: Waiting,
    /// When a tenant's beginnings are as if there had been none.
    paces: HashMap<String, Instant>,
}

/// Counts a beginning; or says how long it is too soon for that.
fn too_soon(rested: &mut Instant, rate: Rate, now: Instant) -> Option<Duration> {
    let next = (*rested).max(now) + rate.every();
    let soon = next.saturating_duration_since(now + rate.every() * rate.burst.max(1));
    if soon.is_zero() {
        *rested = next;
    }
    (!soon.is_zero()).then_some(soon)
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

    /// The job, if it is the one that this digest belongs to.
    fn enrol(&mut self, key: &JobKey, digest: &str, registration: &Registration) -> Option<&mut Entry> {
        self.forget(Instant::now());
        let entry = self.jobs.entry(key.clone()).or_default();
        entry.enrol(digest, registration).then_some(entry)
    }

    fn running(&self, tenant: &str, except: Option<&JobKey>, now: Instant) -> u32 {
        let running = |(key, entry): &(&JobKey, &Entry)| {
            key.tenant == tenant && Some(*key) != except && entry.runs(now)
        };
        u32::try_from(self.jobs.iter().filter(running).count()).unwrap_or(u32::MAX)
    }

    fn begin(
        &mut self,
        key: &JobKey,
        digest: &str,
        owner: &str,
        registration: &Registration,
        now: Instant,
    ) -> Begun {
        let TenantLimits { running_max, starts } = registration.limits;
        let running = running_max.map(|max| (max, self.running(&key.tenant, Some(key), now)));
        let number = self.newest_token + 1;
        self.forget(now);
        let entry = self.jobs.entry(key.clone()).or_default();
        if !entry.enrol(digest, registration) {
            return Begun::Conflict;
        }
        match &entry.phase {
            Phase::Committed { result, .. } => return Begun::Committed(result.clone()),
            Phase::Done { result, told, .. } => {
                return Begun::Done { result: result.clone(), told: told.clone() };
            }
            Phase::Held { lapses, .. } if *lapses > now => {
                return Begun::Held { lapses_in: lapses.duration_since(now) };
            }
            Phase::Held { .. } | Phase::Free { .. } => {}
        }
        if let Some((max, running)) = running
            && running >= max
        {
            return Begun::TenantBusy(Busy::Running(running));
        }
        if let Some(rate) = starts.filter(|_| entry.never_begun()) {
            let pace = self.paces.entry(key.tenant.clone()).or_insert(now);
            if let Some(free_in) = too_soon(pace, rate, now) {
                return Begun::TenantBusy(Busy::Rate { free_in });
            }
        }
        let token = entry.hold(key, number, owner, false, now);
        let (history, cancelled) = (entry.history.clone(), entry.cancelled);
        self.newest_token = number;
        self.waiting.ended(key);
        Begun::Begun { token, history, cancelled }
    }

    fn seize(&mut self, key: &JobKey, owner: &str, now: Instant) -> Seized {
        let number = self.newest_token + 1;
        let Some(entry) = self.jobs.get_mut(key).filter(|entry| entry.awaits_result()) else {
            return Seized::Ended;
        };
        if !entry.may_be_seized(now, unix_ms()) {
            return Seized::NotYet;
        }
        let seizure = Seizure {
            token: entry.hold(key, number, owner, true, now),
            route: entry.route.clone(),
            history: entry.history.clone(),
            cancelled: entry.cancelled,
            overdue: entry.overdue_since(unix_ms()).is_some(),
        };
        self.newest_token = number;
        self.waiting.ended(key);
        Seized::Seized(Box::new(seizure))
    }

    fn beat(&mut self, token: &Token, now: Instant) -> Beat {
        let Some(entry) = self.jobs.get_mut(&token.key) else { return Beat::Lost };
        let cancelled = entry.cancelled;
        match &mut entry.phase {
            Phase::Held { number, lapses, .. } if *number == token.number => {
                *lapses = now + HEARTBEAT_LAPSES_AFTER;
                if cancelled { Beat::Cancelled } else { Beat::Ours }
            }
            _ => Beat::Lost,
        }
    }
}

impl Ledger for MemoryLedger {
    async fn register(
        &self,
        key: &JobKey,
        digest: &str,
        registration: &Registration,
    ) -> Result<Registered, LedgerError> {
        let mut state = self.state();
        let Some(entry) = state.enrol(key, digest, registration) else { return Ok(Registered::Conflict) };
        let now = Instant::now();
        Ok(match &entry.phase {
            Phase::Committed { result, .. } => Registered::Committed(result.clone()),
            Phase::Done { result, .. } => Registered::Done(result.clone()),
            Phase::Held { lapses, .. } if *lapses > now => {
                let lapses_in = *lapses - now;
                Registered::Held { lapses_in, shard: state.waiting.wait(key, registration.shards) }
            }
            _ => {
                let cancelled = entry.cancelled;
                Registered::Waiting { cancelled, shard: state.waiting.wait(key, registration.shards) }
            }
        })
    }

    async fn begin_with(
        &self,
        key: &JobKey,
        digest: &str,
        owner: &str,
        registration: &Registration,
    ) -> Result<Begun, LedgerError> {
        Ok(self.state().begin(key, digest, owner, registration, Instant::now()))
    }

    async fn heartbeats(&self, tokens: &[Token]) -> Result<Vec<Beat>, LedgerError> {
        let mut state = self.state();
        Ok(tokens.iter().map(|token| state.beat(token, Instant::now())).collect())
    }

    async fn heartbeat(&self, token: &Token) -> Result<Beat, LedgerError> {
        Ok(self.state().beat(token, Instant::now()))
    }

    async fn give_back(&self, token: &Token, failed: FailedAttempt) -> Result<Beat, LedgerError> {
        let mut state = self.state();
        let Some(entry) = state.jobs.get_mut(&token.key) else { return Ok(Beat::Lost) };
        let answer = if entry.cancelled { Beat::Cancelled } else { Beat::Ours };
        match entry.phase {
            Phase::Held { number, .. } if number == token.number => {
                entry.history.push(failed);
                entry.phase = Phase::Free { last: Some(number) };
                Ok(answer)
            }
            // The answer to the first time was lost.
            Phase::Free { last } if last == Some(token.number) => Ok(answer),
            _ => Ok(Beat::Lost),
        }
    }

    async fn commit(&self, token: &Token, result: Bytes) -> Result<Commit, LedgerError> {
        let mut state = self.state();
        let Some(entry) = state.jobs.get_mut(&token.key) else { return Ok(Commit::Lost) };
        match entry.phase {
            Phase::Held { number, .. } if number == token.number => {
                entry.phase = Phase::Committed { number, result, since: Instant::now() };
                state.waiting.ended(&token.key);
                Ok(Commit::Committed)
            }
            // The answer to the first commit was lost.
            Phase::Committed { number, .. } | Phase::Done { number, .. } if number == token.number => {
                Ok(Commit::Committed)
            }
            _ => Ok(Commit::Lost),
        }
    }

    async fn published(&self, key: &JobKey, told: &str) -> Result<(), LedgerError> {
        let mut state = self.state();
        let Some(entry) = state.jobs.get_mut(key) else { return Ok(()) };
        match &mut entry.phase {
            Phase::Committed { number, result, .. } => {
                let forget = Instant::now() + RESULT_TTL;
                let (number, result, told) = (*number, result.clone(), told.to_owned());
                entry.phase = Phase::Done { number, result, told, forget };
            }
            Phase::Done { told: last, .. } => told.clone_into(last),
            _ => {}
        }
        Ok(())
    }

    async fn cancel(&self, key: &JobKey) -> Result<Cancel, LedgerError> {
        let mut state = self.state();
        let entry = state.jobs.entry(key.clone()).or_default();
        if matches!(entry.phase, Phase::Committed { .. } | Phase::Done { .. }) {
            return Ok(Cancel::TooLate);
        }
        entry.cancelled = true;
        Ok(Cancel::Marked)
    }

    async fn overdue(&self, at_most: usize) -> Result<Vec<JobKey>, LedgerError> {
        let (state, now) = (self.state(), unix_ms());
        let due = |(key, entry): (&JobKey, &Entry)| Some((entry.overdue_since(now)?, key.clone()));
        let mut due: Vec<_> = state.jobs.iter().filter_map(due).collect();
        due.sort();
        Ok(due.into_iter().map(|(_, key)| key).take(at_most).collect())
    }

    async fn seize(&self, key: &JobKey, owner: &str) -> Result<Seized, LedgerError> {
        Ok(self.state().seize(key, owner, Instant::now()))
    }

    async fn unpublished(
        &self,
        older_than: Duration,
        at_most: usize,
    ) -> Result<Vec<Unpublished>, LedgerError> {
        let (state, now) = (self.state(), Instant::now());
        let old = |(key, entry): (&JobKey, &Entry)| match &entry.phase {
            Phase::Committed { since, result, .. } if now.duration_since(*since) >= older_than => {
                let (result, route) = (result.clone(), entry.route.clone());
                Some((*since, Unpublished { key: key.clone(), result, route }))
            }
            _ => None,
        };
        let mut found: Vec<_> = state.jobs.iter().filter_map(old).collect();
        found.sort_by_key(|(since, _)| *since);
        Ok(found.into_iter().map(|(_, unpublished)| unpublished).take(at_most).collect())
    }

    async fn lead(&self, owner: &str, period: Duration) -> Result<Option<Duration>, LedgerError> {
        let (mut state, now) = (self.state(), Instant::now());
        match &state.lead {
            Some((leader, ends)) if leader != owner && *ends > now => Ok(Some(*ends - now)),
            _ => {
                state.lead = Some((owner.to_owned(), now + period));
                Ok(None)
            }
        }
    }

    async fn running(&self, tenant: &str) -> Result<u32, LedgerError> {
        Ok(self.state().running(tenant, None, Instant::now()))
    }
}

#[cfg(test)]
mod tests;
