//! One job of the memory ledger.

use bytes::Bytes;
use hearth_schemas::result::Step;
use tokio::time::Instant;

use crate::ledger::{
    DEADLINE_GRACE, FailedAttempt, HEARTBEAT_LAPSES_AFTER, JobKey, Registration, SILENT, Token, unix_ms,
};

#[derive(Debug)]
pub(super) struct Entry {
    /// Absent while only a cancel is known of the job.
    pub(super) digest: Option<String>,
    pub(super) deadline_unix_ms: Option<u64>,
    pub(super) route: Bytes,
    pub(super) history: Vec<FailedAttempt>,
    pub(super) cancelled: bool,
    pub(super) phase: Phase,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// `last`: who gave it back.
    Free {
        last: Option<u64>,
    },
    /// `seized`: to be ended, not run.
    Held {
        number: u64,
        owner: String,
        begun: Instant,
        lapses: Instant,
        seized: bool,
    },
    Committed {
        number: u64,
        result: Bytes,
        since: Instant,
    },
    Done {
        told: String,
        number: u64,
        result: Bytes,
        forget: Instant,
    },
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            digest: None,
            deadline_unix_ms: None,
            route: Bytes::new(),
            history: Vec::new(),
            cancelled: false,
            phase: Phase::Free { last: None },
        }
    }
}

impl Entry {
    /// Notes what is said of the job first; `false` when it is another job.
    pub(super) fn enrol(&mut self, digest: &str, registration: &Registration) -> bool {
        if self.digest.get_or_insert_with(|| digest.into()) != digest {
            return false;
        }
        if self.deadline_unix_ms.is_none() {
            self.deadline_unix_ms = registration.deadline_unix_ms;
        }
        if self.route.is_empty() {
            self.route = registration.route.clone();
        }
        true
    }

    /// Known, and without a result.
    pub(super) fn awaits_result(&self) -> bool {
        self.digest.is_some() && matches!(self.phase, Phase::Free { .. } | Phase::Held { .. })
    }

    /// No attempt was begun.
    pub(super) fn never_begun(&self) -> bool {
        matches!(self.phase, Phase::Free { last: None })
    }

    /// Held to be run, by an owner that lives.
    pub(super) fn runs(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Held { lapses, seized: false, .. } if lapses > now)
    }

    /// Its deadline, if that has passed and there is no result.
    pub(super) fn overdue_since(&self, now_unix_ms: u64) -> Option<u64> {
        self.deadline_unix_ms.filter(|deadline| *deadline <= now_unix_ms && self.awaits_result())
    }

    pub(super) fn may_be_seized(&self, now: Instant, now_unix_ms: u64) -> bool {
        let overdue = self.overdue_since(now_unix_ms);
        let grace_ms = u64::try_from(DEADLINE_GRACE.as_millis()).unwrap_or(u64::MAX);
        match self.phase {
            Phase::Held { lapses, seized: true, .. } if lapses > now => false,
            Phase::Held { lapses, .. } if lapses > now => {
                overdue.is_some_and(|deadline| deadline.saturating_add(grace_ms) <= now_unix_ms)
            }
            _ => overdue.is_some() || self.cancelled,
        }
    }

    /// Gives the job to an owner. If another fell silent over it, that was an attempt.
    pub(super) fn hold(
        &mut self,
        key: &JobKey,
        number: u64,
        owner: &str,
        seized: bool,
        now: Instant,
    ) -> Token {
        if let Phase::Held { owner, begun, lapses, seized: false, .. } = &self.phase
            && *lapses <= now
        {
            self.history.push(FailedAttempt {
                worker: owner.clone(),
                step: Step::Run,
                message: SILENT.into(),
                failed_unix_ms: unix_ms(),
                took_ms: now.duration_since(*begun).into(),
                counted: true,
            });
        }
        let lapses = now + HEARTBEAT_LAPSES_AFTER;
        self.phase = Phase::Held { number, owner: owner.into(), begun: now, lapses, seized };
        let digest = self.digest.clone().unwrap_or_default();
        Token { key: key.clone(), number, digest, owner: owner.into() }
    }
}
