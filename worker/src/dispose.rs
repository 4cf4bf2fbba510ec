//! What becomes of a job after an attempt: the retry policy. Pure.

use std::time::Duration;

use crate::ledger::FailedAttempt;

/// Attempts that reached a VM, at most.
const COUNTED_MAX: usize = 3;
/// Attempts that did not, at most; the deadline usually comes first.
const UNCOUNTED_MAX: usize = 20;
/// The first pause between attempts.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// The longest pause between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Whose doing a failure may have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// Ours alone: host, hypervisor, broker, lease.
    Us,
    /// The guest died while it ran the job, which a job can cause.
    Job,
}

/// What to do after a failure of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again, elsewhere if possible, after this long.
    Retry {
        /// The pause.
        after: Duration,
    },
    /// The job is an `infra_error`, with its history.
    GiveUp,
}

/// Decides after a failure. `history` ends with it.
pub fn dispose(history: &[FailedAttempt], suspect: Suspect) -> Decision {
    if suspect == Suspect::Job || exhausted(history) {
        return Decision::GiveUp;
    }
    let doublings = u32::try_from(history.len().saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    Decision::Retry { after: BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX) }
}

/// Whether there have been as many attempts as there may be.
pub fn exhausted(history: &[FailedAttempt]) -> bool {
    let counted = history.iter().filter(|failed| failed.counted).count();
    counted >= COUNTED_MAX || history.len() - counted >= UNCOUNTED_MAX
}

#[cfg(test)]
mod tests {
    use hearth_schemas::result::{Millis, Step};

    use super::*;

    fn failed(counted: bool) -> FailedAttempt {
        FailedAttempt {
            worker: "w".into(),
            step: Step::Upload,
            message: "broken".into(),
            failed_unix_ms: 0,
            took_ms: Millis::default(),
            counted,
        }
    }

    #[test]
    fn a_job_is_rerun_only_for_our_own_failures() {
        assert_eq!(dispose(&[failed(true)], Suspect::Job), Decision::GiveUp);
        assert!(matches!(dispose(&[failed(true)], Suspect::Us), Decision::Retry { .. }));
    }

    #[test]
    fn three_attempts_that_reached_a_vm_are_enough() {
        assert!(matches!(dispose(&[failed(true), failed(true)], Suspect::Us), Decision::Retry { .. }));
        assert_eq!(dispose(&[failed(true), failed(true), failed(true)], Suspect::Us), Decision::GiveUp);
        let mixed = [failed(false), failed(true), failed(false), failed(true), failed(false)];
        assert!(matches!(dispose(&mixed, Suspect::Us), Decision::Retry { .. }));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_end() {
        let pauses: Vec<_> =
            (1..UNCOUNTED_MAX).map(|n| dispose(&vec![failed(false); n], Suspect::Us)).collect();
        assert_eq!(pauses[0], Decision::Retry { after: BACKOFF_FIRST });
        assert_eq!(pauses[1], Decision::Retry { after: BACKOFF_FIRST * 2 });
        assert_eq!(pauses.last(), Some(&Decision::Retry { after: BACKOFF_MAX }));
        assert_eq!(dispose(&vec![failed(false); UNCOUNTED_MAX], Suspect::Us), Decision::GiveUp);
    }
}
