//! What the ledger keeps of a job, so that it can be ended and its result published without its message.

use bytes::Bytes;
use hearth_schemas::{
    job::Lane,
    result::{Cause, JobResult, RunReport, StageReport, Status, Verdict},
};
use serde::{Deserialize, Serialize};

use crate::{
    admit::Job,
    ledger::{JobKey, Quotas, Registration, unix_ms},
    seams::{Properties, Publication},
};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The runtime that was asked for.
    pub runtime: String,
    /// The names of its stages.
    pub stages: Vec<String>,
    /// How urgent it is.
    pub lane: Lane,
    /// Whether it has live events.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// Echoed in the result.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Where the producer wants the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Goes back with the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

impl Route {
    /// Of a job and its message.
    pub fn new(job: &Job, properties: &Properties) -> Self {
        Self {
            runtime: job.runtime.clone(),
            stages: job.stages.iter().map(|stage| stage.name.clone()).collect(),
            lane: job.lane,
            stream: job.stream,
            metadata: job.metadata.clone(),
            reply_to: properties.reply_to.clone(),
            correlation_id: properties.correlation_id.clone(),
        }
    }

    /// As the ledger keeps it.
    pub fn encode(&self) -> Bytes {
        // String keys only and no number that JSON lacks: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// From the ledger. A job that was registered without one has an empty one.
    pub fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// A result of its job, decided without a VM; `cause` is that of the stages, all skipped.
    pub fn result(&self, key: &JobKey, status: Status, cause: Option<Cause>) -> JobResult {
        let mut result = JobResult::new(&key.id, &key.tenant, &self.runtime, status);
        let skipped = |name: &String| StageReport {
            name: name.clone(),
            run: RunReport::not_run(Verdict::Skipped, cause),
            cases: Vec::new(),
        };
        if cause.is_some() {
            result.stages = self.stages.iter().map(skipped).collect();
        }
        result.metadata.clone_from(&self.metadata);
        result
    }

    /// A publication of its job's committed result.
    pub fn publication(self, key: &JobKey, body: Bytes) -> Publication {
        let properties = Properties {
            reply_to: self.reply_to,
            correlation_id: self.correlation_id,
            ..Properties::default()
        };
        Publication { body, tenant: key.tenant.clone(), id: key.id.clone(), properties }
    }
}

/// What the ledger is told of a job.
pub fn registration(job: &Job, properties: &Properties, quotas: &Quotas) -> Registration {
    Registration {
        deadline_unix_ms: Some(due_unix_ms(job, properties)),
        route: Route::new(job, properties).encode(),
        limits: quotas.of(&job.key.tenant),
        shards: 0,
    }
}

/// When a job is overdue, in milliseconds since 1970. A producer's clock that is ahead of ours does not count.
pub fn due_unix_ms(job: &Job, properties: &Properties) -> u64 {
    let now = unix_ms();
    let sent = properties.sent_unix_ms.unwrap_or(now).min(now);
    sent.saturating_add(u64::try_from(job.deadline.as_millis()).unwrap_or(u64::MAX))
}

/// Whether a result was decided without its job's message: the job was cancelled, or too late, while it waited.
pub fn was_ended_waiting(result: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Head {
        status: Status,
        #[serde(default)]
        attempt: u32,
    }
    let head = serde_json::from_slice::<Head>(result);
    head.is_ok_and(|head| head.attempt == 0 && matches!(head.status, Status::Cancelled | Status::Expired))
}
