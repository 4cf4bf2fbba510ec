//! All metrics. Names, units and labels are a contract with dashboards and alerts.

use hearth_pool::{
    hypervisor::{RESTORE_STEPS, TRANSPORTS},
    phase::Phase,
    pool::events::{Farewell, LeaseEvent},
};
use hearth_schemas::result::{Status, Verdict};
use metrics::Unit;

use super::metric::{Kind, Metric, Values};

macro_rules! metrics {
    ($($(#[$doc:meta])* $id:ident: $kind:ident $name:literal [$unit:ident] {$($label:literal = $values:expr),*} $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $id: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                help: $help,
                labels: &[$(($label, $values)),*],
            };
        )*
        /// Every metric.
        pub static ALL: &[&Metric] = &[$(&$id),*];
    };
}

const RUNTIME: Values = Values::Runtimes;

metrics! {
    READY: Gauge "hearth_worker_ready" [Count] {}
        "1 while this worker can take jobs, else 0; /ready says why not";
    JOBS: Counter "hearth_jobs_total" [Count] {"runtime" = RUNTIME, "status" = STATUS, "verdict" = VERDICT}
        "Jobs whose result this worker decided; the runtime of a refused one is -";
    JOB_STEP: Histogram "hearth_job_step_seconds" [Seconds] {"step" = STEP}
        "Time of each step of a job";
    JOBS_INFLIGHT: Gauge "hearth_jobs_inflight" [Count] {}
        "Jobs under way";
    JOBS_WAITING: Gauge "hearth_jobs_waiting" [Count] {"runtime" = RUNTIME}
        "Jobs that wait on the broker, for whichever worker, as far as this one knows";
    POOL_SLOTS: Gauge "hearth_pool_slots" [Count] {"runtime" = RUNTIME, "phase" = PHASE}
        "Slots by runtime and phase";
    POOL_TARGET: Gauge "hearth_pool_target" [Count] {"runtime" = RUNTIME}
        "VMs of a runtime that the pool is to keep";
    POOL_CLAIMS: Counter "hearth_pool_claims_total" [Count] {"runtime" = RUNTIME, "outcome" = CLAIM}
        "Claims by how they ended: a VM was ready, came in time, or did not";
    POOL_CLAIM_WAIT: Histogram "hearth_pool_claim_wait_seconds" [Seconds] {"runtime" = RUNTIME}
        "How long a claim waited for a VM";
    TARGET_WAIT: Gauge "hearth_pool_target_wait_seconds" [Seconds] {}
        "How long a claim may wait, by this worker's settings";
    TARGET_HIT: Gauge "hearth_pool_target_hit_ratio" [Count] {}
        "Of all claims the part that is to wait no longer than that; without scaling there is none";
    POOL_REFILL: Histogram "hearth_pool_refill_seconds" [Seconds] {"runtime" = RUNTIME}
        "From a slot without a VM to one that is ready: turns, leases and failed tries included";
    RESTORE: Histogram "hearth_restore_seconds" [Seconds] {"runtime" = RUNTIME, "step" = RESTORE_STEP}
        "Time of each step of a restore, from nothing to a confirmed wake";
    VM_AGE: Histogram "hearth_vm_age_seconds" [Seconds] {"runtime" = RUNTIME}
        "Age of a VM when it retires, from its restore";
    VM_RETIRED: Counter "hearth_vm_retired_total" [Count] {"runtime" = RUNTIME, "why" = FAREWELL}
        "VMs, and what was to become one, by why they went";
    LEASE_EVENTS: Counter "hearth_lease_events_total" [Count] {"kind" = LEASE_KIND, "event" = LEASE_EVENT}
        "What happened to leases";
    TRANSFER: Counter "hearth_transfer_bytes_total" [Bytes] {"direction" = DIRECTION, "transport" = TRANSPORT}
        "Files and standard streams of jobs that went into VMs and came out, counted when a claim ends";
    ORPHANS: Counter "hearth_orphans_reclaimed_total" [Count] {"kind" = ORPHAN}
        "What workers that are gone had left on this host, found at start";
    REDELIVERED: Counter "hearth_redelivered_total" [Count] {}
        "Messages that had been delivered before";
    RESULT_PUBLISH: Counter "hearth_result_publish_total" [Count] {"outcome" = PUBLISHED}
        "Results by what became of their publication";
    LIVE_EVENTS: Counter "hearth_live_events_total" [Count] {"kind" = EVENT_KIND}
        "Live events that were told";
    LIVE_DROPPED: Counter "hearth_live_dropped_bytes_total" [Bytes] {}
        "Output that live events left out, since whoever watches was too slow";
    RESULTS_SPOOLED: Gauge "hearth_results_spooled" [Count] {}
        "Results that wait on disk, for the broker or the ledger";
    FALLEN: Counter "hearth_fallen_total" [Count] {}
        "Messages that the broker had given up on";
    RECONNECTS: Counter "hearth_amqp_reconnects_total" [Count] {}
        "Times that the broker's connection was made anew";
}

/// How claims end.
pub(super) const CLAIM_OUTCOMES: [&str; 3] = ["hit", "wait", "timeout"];

const STATUS: Values = Values::OneOf(|| Status::ALL.iter().map(|status| status.as_str()).collect());
const VERDICT: Values =
    Values::OneOf(|| Verdict::ALL.iter().map(|verdict| verdict.as_str()).chain(["none"]).collect());
const STEP: Values = Values::OneOf(|| {
    vec!["queued", "fetch", "claim", "wake", "upload", "run", "download", "commit", "publish"]
});
const PHASE: Values = Values::OneOf(|| Phase::ALL.iter().map(|phase| phase.name()).collect());
const CLAIM: Values = Values::OneOf(|| CLAIM_OUTCOMES.to_vec());
const RESTORE_STEP: Values = Values::OneOf(|| RESTORE_STEPS.to_vec());
const FAREWELL: Values = Values::OneOf(|| Farewell::NAMES.to_vec());
const LEASE_KIND: Values = Values::OneOf(|| vec!["identity"]);
const LEASE_EVENT: Values = Values::OneOf(|| LeaseEvent::NAMES.to_vec());
const DIRECTION: Values = Values::OneOf(|| vec!["to_vm", "from_vm"]);
const TRANSPORT: Values = Values::OneOf(|| TRANSPORTS.to_vec());
const ORPHAN: Values = Values::OneOf(|| vec!["vm", "process"]);
const EVENT_KIND: Values = Values::OneOf(|| vec!["state", "stdout", "stderr", "dropped"]);
const PUBLISHED: Values = Values::OneOf(|| vec!["routed", "reply_to_gone", "failed", "spooled"]);

/// The table for people, as `deploy/metrics.md` has it.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\nAt `/metrics` of `worker.admin`, for Prometheus. Made from the table in the code; a test says when it \
         is stale.\nWhere a label says no values, they are the runtimes that the worker offers.\n\n\
         | name | kind | unit | labels | what it says |\n|---|---|---|---|---|\n",
    );
    for metric in ALL {
        let label = |(name, values): &(&str, Values)| match values {
            Values::Runtimes => format!("`{name}`"),
            Values::OneOf(all) => format!("`{name}`: {}", all().join(", ")),
        };
        let labels: Vec<_> = metric.labels.iter().map(label).collect();
        let (kind, unit) = (metric.kind.name(), metric.unit.as_str());
        text +=
            &format!("| `{}` | {kind} | {unit} | {} | {} |\n", metric.name, labels.join("; "), metric.help);
    }
    text
}
