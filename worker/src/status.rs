//! What a worker says of itself at `/status`, and what went wrong in it lately.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Failures that are kept; older ones are in the log.
const KEPT: usize = 32;
/// Longest text of one, in characters.
const WHY_CHARS_MAX: usize = 400;

/// The page.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The worker's name.
    pub worker: String,
    /// Of Hearth.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Whether it can take jobs.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What went wrong lately, the newest first.
    pub failures: Vec<Failure>,
}

/// One thing that went wrong.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Failure {
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What it happened to: a slot, or a job.
    pub what: String,
    /// Why.
    pub why: String,
}

/// The latest failures of this process.
#[derive(Debug)]
pub struct Failures(Mutex<VecDeque<Failure>>);

/// Those of this process, as its metrics are.
pub static FAILURES: Failures = Failures(Mutex::new(VecDeque::new()));

impl Failures {
    /// Notes one; the oldest goes when there are many.
    pub fn note(&self, what: impl ToString, why: impl ToString) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let why = why.to_string().chars().take(WHY_CHARS_MAX).collect();
        let failure = Failure {
            unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            what: what.to_string(),
            why,
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front(failure);
        kept.truncate(KEPT);
    }

    /// The newest first.
    pub fn latest(&self) -> Vec<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Who says so, and since when.
#[derive(Clone, Debug)]
pub struct Identity {
    worker: String,
    since: Instant,
}

impl Identity {
    /// From now on.
    pub fn new(worker: &str) -> Self {
        Self { worker: worker.to_owned(), since: Instant::now() }
    }

    /// The page as it is now.
    pub fn status(&self, reasons: Vec<String>) -> Status {
        Status {
            worker: self.worker.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.since.elapsed().as_secs_f64(),
            ready: reasons.is_empty(),
            reasons,
            failures: FAILURES.latest(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_failures_are_kept_and_are_bounded() {
        let failures = Failures(Mutex::default());
        for number in 0..100 {
            failures.note(format!("python-{number}"), "x".repeat(1000));
        }
        let latest = failures.latest();
        assert_eq!((latest.len(), latest[0].what.as_str()), (KEPT, "python-99"));
        assert_eq!(latest[0].why.len(), WHY_CHARS_MAX);
    }
}
