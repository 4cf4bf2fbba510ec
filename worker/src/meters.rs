//! What is measured, for Prometheus. Names, units and labels are a contract with dashboards and alerts.

use std::sync::Arc;

use hearth_pool::pool::{Observer, Outcome, events::Event};
use hearth_schemas::result::{JobResult, Timings};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of histograms of seconds.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0];

/// Starts measuring in this process. Once.
///
/// # Errors
/// Something else measures already.
pub fn start() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().set_buckets(&SECONDS)?.install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    let count = Unit::Count;
    describe_counter!("hearth_jobs_total", count, "Jobs whose result this worker decided");
    describe_histogram!("hearth_job_step_seconds", Unit::Seconds, "Time of each step of a job");
    describe_gauge!("hearth_jobs_inflight", count, "Jobs under way");
    describe_gauge!("hearth_pool_slots", count, "Slots by runtime and phase");
    describe_counter!("hearth_pool_claims_total", count, "Claims by how they ended");
    describe_histogram!("hearth_pool_claim_wait_seconds", Unit::Seconds, "How long a claim waited for a VM");
    describe_histogram!("hearth_restore_seconds", Unit::Seconds, "Time of each step of a restore");
    describe_histogram!("hearth_vm_age_seconds", Unit::Seconds, "Age of a VM when it retires");
    describe_counter!("hearth_lease_events_total", count, "What happened to leases");
    describe_counter!("hearth_redelivered_total", count, "Messages that had been delivered before");
    describe_counter!("hearth_result_publish_total", count, "Results by what became of their publication");
    describe_counter!("hearth_fallen_total", count, "Messages that the broker had given up on");
    describe_counter!(
        "hearth_amqp_reconnects_total",
        count,
        "Times that the broker's connection was made anew"
    );
    describe_counter!("hearth_live_events_total", count, "Live events that were told, by kind");
    describe_counter!(
        "hearth_live_dropped_bytes_total",
        Unit::Bytes,
        "Output that live events left out, since whoever watches was too slow"
    );
    describe_gauge!("hearth_results_spooled", count, "Results that wait on disk for the broker");
}

/// Notes a result that was decided here.
pub fn ended(result: &JobResult) {
    let verdict = result.verdict.map_or("none", |verdict| verdict.as_str());
    // What a refused request calls its runtime is anybody's text, and would be a label for ever.
    let runtime = if result.refusal.is_some() { "-".to_owned() } else { result.runtime.clone() };
    let labels =
        [("runtime", runtime), ("status", result.status.as_str().into()), ("verdict", verdict.into())];
    counter!("hearth_jobs_total", &labels).increment(1);
    let Timings { queued_ms, claim_ms, wake_ms, upload_ms, run_ms, download_ms, .. } = result.timings;
    for (step, took) in [
        ("queued", queued_ms),
        ("claim", claim_ms),
        ("wake", wake_ms),
        ("upload", upload_ms),
        ("run", run_ms),
        ("download", download_ms),
    ] {
        if let Some(took) = took {
            histogram!("hearth_job_step_seconds", "step" => step).record(took.as_micros() as f64 / 1e6);
        }
    }
}

/// Measures a pool.
pub fn observer() -> Observer {
    Arc::new(|event| match event {
        Event::Moved { slot, from, to } => {
            let slots = |phase: &'static str| gauge!("hearth_pool_slots", "runtime" => slot.runtime.clone(), "phase" => phase);
            slots(from.name()).decrement(1.0);
            slots(to.name()).increment(1.0);
        }
        Event::Claimed { runtime, outcome, waited } => {
            let outcome = match outcome {
                Outcome::Hit => "hit",
                Outcome::Wait => "wait",
                Outcome::Timeout => "timeout",
            };
            let runtime = runtime.to_owned();
            counter!("hearth_pool_claims_total", "runtime" => runtime.clone(), "outcome" => outcome)
                .increment(1);
            histogram!("hearth_pool_claim_wait_seconds", "runtime" => runtime).record(waited);
        }
        Event::Restored { slot, steps } => {
            for step in steps {
                let runtime = slot.runtime.clone();
                histogram!("hearth_restore_seconds", "runtime" => runtime, "step" => step.name)
                    .record(step.took);
            }
        }
        Event::Retired { slot, why, age } => {
            tracing::info!(%slot, %why, "VM retires");
            if let Some(age) = age {
                histogram!("hearth_vm_age_seconds", "runtime" => slot.runtime.clone()).record(age);
            }
        }
        Event::Lease { event, .. } => {
            counter!("hearth_lease_events_total", "kind" => "identity", "event" => format!("{event:?}").to_lowercase())
                .increment(1);
        }
    })
}
