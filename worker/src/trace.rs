//! What a trace sees of a job: a span for the job, below whatever its producer was doing, and one for each step.
//!
//! The job's span carries what every log line within it should say. It is of the level ERROR, so that no filter of log
//! lines takes it, and with it those fields, away.

use hearth_pool::pool::Claim;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Span, error_span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::admit::Job;

/// The target of all these spans.
pub const TARGET: &str = "hearth::job";
/// The headers, as W3C's Trace Context calls them.
pub const TRACEPARENT: &str = "traceparent";
/// See [`TRACEPARENT`].
pub const TRACESTATE: &str = "tracestate";

/// What a producer was doing when it sent a job, as W3C's Trace Context writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// Version, trace, span and flags.
    pub traceparent: String,
    /// What vendors add.
    pub tracestate: Option<String>,
}

impl Extractor for TraceContext {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => Some(&self.traceparent),
            TRACESTATE => self.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

/// The span of a delivery, below its producer's if that said one. What is no trace context is none.
pub(crate) fn delivery(worker: &str, context: Option<&TraceContext>) -> Span {
    let span = error_span!(
        target: TARGET,
        "job",
        otel.kind = "consumer",
        job = Empty,
        tenant = Empty,
        runtime = Empty,
        worker,
        attempt = Empty,
        slot = Empty,
        cid = Empty,
        status = Empty,
    );
    if let Some(context) = context {
        // Fails where nobody traces.
        let _ = span.set_parent(TraceContextPropagator::new().extract(context));
    }
    span
}

/// Notes in the delivery's span whose job it is.
pub(crate) fn admitted(job: &Job) {
    let span = Span::current();
    span.record("job", job.key.id.as_str()).record("tenant", job.key.tenant.as_str());
    span.record("runtime", job.runtime.as_str());
}

/// Notes in the delivery's span which VM has the job.
pub(crate) fn claimed(span: &Span, claim: &Claim) {
    let vm = claim.vm();
    span.record("slot", vm.slot.to_string()).record("cid", vm.identity.cid);
}

/// The span of a step, below the current one.
macro_rules! step {
    ($name:literal $(, $field:ident = $value:expr)*) => {
        ::tracing::info_span!(target: $crate::trace::TARGET, $name $(, $field = $value)*)
    };
}
pub(crate) use step;
