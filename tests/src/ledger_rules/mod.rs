//! What every ledger promises, as tests of whichever ledger there is.

mod attempts;
mod reaping;
mod repeats;
mod tenants;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hearth_schemas::result::{Millis, Step};
use hearth_worker::ledger::{
    Begun, FailedAttempt, HEARTBEAT_LAPSES_AFTER, JobKey, Ledger, Registration, TenantLimits, Token,
};

pub use self::{attempts::*, reaping::*, repeats::*, tenants::*};
use crate::wait::until_some;

/// From an owner's last sign of life to the next begin, at most.
pub const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(5);

/// Ledgers of two workers that know of the same jobs.
pub trait Backing {
    /// What is tested.
    type Ledger: Ledger;

    /// The ledger, as each of two workers has it.
    fn ledgers(&self) -> [&Self::Ledger; 2];
}

/// A job's name.
pub fn job(tenant: &str, id: &str) -> JobKey {
    JobKey { tenant: tenant.into(), id: id.into() }
}

/// What it is when it is the first attempt that is begun.
pub async fn begin(ledger: &impl Ledger, key: &JobKey, owner: &str) -> Token {
    match ledger.begin(key, "digest", owner).await.unwrap() {
        Begun::Begun { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

/// An attempt that failed.
pub fn failed(worker: &str, counted: bool) -> FailedAttempt {
    FailedAttempt {
        worker: worker.into(),
        step: Step::Upload,
        message: "it \"broke\"\n".into(),
        failed_unix_ms: 1_700_000_000_123,
        took_ms: Millis::from_micros(1500),
        counted,
    }
}

/// Registration with a deadline so far from now, in milliseconds.
pub fn due_in(ms: i64) -> Registration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let deadline = i64::try_from(now).unwrap() + ms;
    Registration {
        deadline_unix_ms: Some(deadline.try_into().unwrap()),
        route: Bytes::from_static(b"\x00route"),
        limits: TenantLimits::default(),
        shards: 0,
    }
}

/// Begins a job as soon as its silent owner's time is over.
async fn take_over(ledger: &impl Ledger, key: &JobKey, owner: &str) -> (Token, Vec<FailedAttempt>) {
    let begin = async || match ledger.begin(key, "digest", owner).await.unwrap() {
        Begun::Begun { token, history, .. } => Some((token, history)),
        Begun::Held { lapses_in } => {
            assert!(lapses_in <= HEARTBEAT_LAPSES_AFTER);
            None
        }
        other => panic!("{other:?}"),
    };
    until_some(TAKEN_OVER_WITHIN, "the job is taken over", begin).await
}

/// Makes one test of each rule. `$open` is a future of `Option<Backing>`; without a backing the test is skipped, and
/// whatever returns `None` says so aloud.
#[macro_export]
macro_rules! ledger_rules {
    ($open:expr) => {
        $crate::ledger_rules! { @ $open;
            a_job_is_begun_committed_published_and_remembered
            a_redelivery_while_the_job_runs_waits
            a_redelivery_after_the_commit_gets_the_same_bytes
            a_resubmission_of_a_waiting_job_changes_nothing
            another_request_with_the_same_id_is_a_conflict_at_every_stage
            the_same_id_of_another_tenant_is_another_job
            the_first_result_stays
            of_many_begins_at_once_one_is_granted
            a_silent_owner_is_taken_over_within_5_s_and_can_do_nothing_any_more
            heartbeats_hold_jobs_and_are_answered_in_order
            a_failure_of_ours_is_noted_once_and_the_next_attempt_begins_at_once
            a_cancel_is_seen_by_the_owner_and_by_the_next_begin
            a_cancel_may_come_before_the_job_and_may_be_too_late
            a_tenant_runs_no_more_jobs_than_it_may
            a_tenants_jobs_begin_no_faster_than_they_may
            tenants_wait_apart_while_there_are_shards_enough
            an_overdue_job_that_waits_is_seized_once_and_ended
            a_resubmission_of_what_has_a_result_is_never_overdue
            an_overdue_job_that_runs_is_left_to_its_owner_for_a_while
            a_cancelled_job_that_nobody_runs_can_be_ended_at_once
            one_at_a_time_looks_after_jobs_and_another_follows_within_its_lease
            committed_results_are_listed_until_they_are_published
        }
    };
    (@ $open:expr; $($rule:ident)*) => {
        $(
            #[tokio::test]
            async fn $rule() {
                if let Some(backing) = $open.await {
                    $crate::ledger_rules::$rule(backing).await;
                }
            }
        )*
    };
}
