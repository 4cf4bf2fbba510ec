//! What is measured, for Prometheus.

mod metric;
mod table;

use std::{sync::Arc, time::Duration};

use hearth_pool::{
    pool::{
        Observer, Outcome,
        events::{Event, Farewell},
    },
    reclaim::Reclaimed,
    scale::scaler::Policy,
};
use hearth_schemas::result::{JobResult, Timings};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use crate::status::FAILURES;

pub use self::{
    metric::{Kind, Metric, Values},
    table::*,
};

/// Upper bounds of histograms, in seconds: from a millisecond to the age of the oldest VM.
pub const SECONDS: [f64; 20] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0,
    300.0, 900.0, 1800.0,
];

/// Starts measuring in this process. Once.
///
/// # Errors
/// Something else measures already.
pub fn start() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().set_buckets(&SECONDS)?.install_recorder()?;
    ALL.iter().for_each(|metric| metric.describe());
    Ok(handle)
}

/// Says of counters by runtime, too, that nothing has happened yet, now that the runtimes are known.
pub fn offered<'a>(runtimes: impl Iterator<Item = &'a str>) {
    for runtime in runtimes {
        CLAIM_OUTCOMES.iter().for_each(|outcome| POOL_CLAIMS.add(&[runtime, outcome], 0));
        Farewell::NAMES.iter().for_each(|why| VM_RETIRED.add(&[runtime, why], 0));
    }
}

/// Notes what the settings promise.
pub fn promised(promise: Option<&Policy>) {
    if let Some(policy) = promise {
        TARGET_HIT.set(&[], policy.target_hit);
        TARGET_WAIT.set(&[], policy.target_wait.as_secs_f64());
    }
}

/// Notes a result that was decided here.
pub fn ended(result: &JobResult) {
    let verdict = result.verdict.map_or("none", |verdict| verdict.as_str());
    // What a refused request calls its runtime is anybody's text, and would be a label for ever.
    let runtime = if result.refusal.is_some() { "-" } else { &result.runtime };
    JOBS.count(&[runtime, result.status.as_str(), verdict]);
    if let Some(error) = &result.infra_error {
        FAILURES.note(format_args!("job {}", result.id), &error.message);
    }
    let Timings { queued_ms, fetch_ms, claim_ms, wake_ms, upload_ms, run_ms, download_ms, .. } =
        result.timings;
    for (step, took) in [
        ("queued", queued_ms),
        ("fetch", fetch_ms),
        ("claim", claim_ms),
        ("wake", wake_ms),
        ("upload", upload_ms),
        ("run", run_ms),
        ("download", download_ms),
    ] {
        if let Some(took) = took {
            step_took(step, Duration::from(took));
        }
    }
}

/// Notes how long a step of a job took that its result does not say.
pub fn step_took(step: &str, took: Duration) {
    JOB_STEP.record(&[step], took.as_secs_f64());
}

/// Notes what was cleared up at start.
pub fn reclaimed(reclaimed: Reclaimed) {
    ORPHANS.add(&["vm"], reclaimed.directories.into());
    ORPHANS.add(&["process"], reclaimed.processes.into());
}

/// Measures a pool.
pub fn observer() -> Observer {
    Arc::new(observe)
}

fn observe(event: Event<'_>) {
    match event {
        Event::Opened { slot } => POOL_SLOTS.shift(&[&slot.runtime, "vacant"], 1.0),
        Event::Moved { slot, from, to } => {
            POOL_SLOTS.shift(&[&slot.runtime, from.name()], -1.0);
            POOL_SLOTS.shift(&[&slot.runtime, to.name()], 1.0);
        }
        Event::Target { runtime, slots } => POOL_TARGET.set(&[runtime], slots.into()),
        Event::Claimed { runtime, outcome, waited } => {
            let outcome = match outcome {
                Outcome::Hit => "hit",
                Outcome::Wait => "wait",
                Outcome::Timeout => "timeout",
            };
            POOL_CLAIMS.count(&[runtime, outcome]);
            POOL_CLAIM_WAIT.record(&[runtime], waited.as_secs_f64());
        }
        Event::Started { slot, took } => tracing::debug!(%slot, ?took, "a VMM is dormant"),
        Event::Restored { slot, empty, steps, .. } => {
            POOL_REFILL.record(&[&slot.runtime], empty.as_secs_f64());
            for step in steps {
                RESTORE.record(&[&slot.runtime, step.name], step.took.as_secs_f64());
            }
            tracing::debug!(%slot, ?empty, ?steps, "VM is ready");
        }
        Event::Retired { slot, why, age } => {
            tracing::info!(%slot, %why, "VM retires");
            VM_RETIRED.count(&[&slot.runtime, why.name()]);
            if !matches!(
                why,
                Farewell::Finished
                    | Farewell::Stale
                    | Farewell::Surplus
                    | Farewell::Outdated
                    | Farewell::Closing
            ) {
                FAILURES.note(slot, why);
            }
            if let Some(age) = age {
                VM_AGE.record(&[&slot.runtime], age.as_secs_f64());
            }
        }
        Event::Transferred { transport, traffic, .. } => {
            TRANSFER.add(&["to_vm", transport], traffic.to_vm());
            TRANSFER.add(&["from_vm", transport], traffic.from_vm());
        }
        Event::Lease { event, .. } => LEASE_EVENTS.count(&["identity", event.name()]),
    }
}
