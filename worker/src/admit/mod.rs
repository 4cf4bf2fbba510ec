//! From a request to a job, or to a refusal that names the field and what is allowed. Pure: it knows what intake
//! tells it and nothing else. What is admitted needs no further checks of its shape.

mod cases;
mod code;
mod command;
mod digest;
mod files;
mod limits;
mod network;
mod objects;
mod terms;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use hearth_schemas::{
    job::{JOB_VERSION, JobRequest, Lane, LimitsRequest, StageRequest, is_name},
    limits::{METADATA_MAX_BYTES, OUTPUT_GLOBS_MAX},
    paths::check_glob,
    result::{Refusal, RefusalCode},
};

pub use cases::{CHECKER_FILES, Case, Expectation};
pub use code::{CODE_STAGE, COMPILE_STAGE};
pub use command::base_env;
pub use files::{Content, JobFile};
pub use limits::Limits;
pub use objects::{EVERY_TENANT, ObjectInput, ObjectTerms};
pub(crate) use objects::{hex, unhex};
pub use terms::{Bound, LimitTerms, NetworkTerms, Offer, Producer, Terms};

use hearth_pool::net::Policy;

use crate::ledger::JobKey;

/// A job that was admitted: everything checked, decoded and resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Whose job, and its id.
    pub key: JobKey,
    /// SHA-256 of the request in hex, whatever its id, tenant, what is live of it, white space and order of fields: the same id with
    /// another digest is another job.
    pub digest: String,
    /// The runtime, one that is offered.
    pub runtime: String,
    /// What it may reach, if anything.
    pub network: Option<Policy>,
    /// How urgent it is.
    pub lane: Lane,
    /// When an unfinished job expires, counted from the message's timestamp or intake.
    pub deadline: Duration,
    /// What to put into the working tree, no path twice and none below another.
    pub files: Vec<JobFile>,
    /// What to run, at least one.
    pub stages: Vec<Stage>,
    /// Patterns of what to return.
    pub outputs: Vec<String>,
    /// Whether it has live events.
    pub stream: bool,
    /// Echoed in the result.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

impl Job {
    /// Which VMs it runs in, as the pool and the queues call them.
    pub fn pool_key(&self) -> String {
        network::pool_key(&self.runtime, self.network.as_ref())
    }
}

/// One command of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Unique in its job.
    pub name: String,
    /// The command and its arguments, at least one.
    pub argv: Vec<String>,
    /// The whole environment: [`base_env`] and the stage's own.
    pub env: BTreeMap<String, String>,
    /// Relative to the working tree; empty means the tree itself.
    pub cwd: String,
    /// What it reads on standard input.
    pub stdin: Bytes,
    /// What it may use, nothing left open.
    pub limits: Limits,
    /// Whether the next stage runs even if this one is not accepted.
    pub continue_on_failure: bool,
    /// Its runs, when it has more than the one on its own input.
    pub cases: Vec<Case>,
    /// Whether the first case that is not accepted ends the stage.
    pub stop_on_failure: bool,
    /// Whether what its cases print is live.
    pub stream_cases: bool,
    /// Whether it may use IP.
    pub ip: bool,
}

/// Admits a request, or says why not.
///
/// # Errors
/// The first thing that is wrong, always the same one for the same request.
pub fn admit(mut request: JobRequest, terms: &Terms, producer: &Producer<'_>) -> Result<Job, Refusal> {
    supported(&request)?;
    let key = key(&mut request, producer)?;
    // Whether somebody watches does not make it another job.
    let stream = std::mem::take(&mut request.stream);
    let stream_cases: Vec<bool> =
        request.stages.iter_mut().map(|stage| std::mem::take(&mut stage.stream_cases)).collect();
    let network = network::policy(&request.network, &terms.network)?;
    let offer = offer(&request.runtime, network.as_ref(), terms)?;
    let digest = digest::digest(&request)?;
    for (stage, stream) in request.stages.iter_mut().zip(stream_cases) {
        stage.stream_cases = stream;
    }
    outputs(&request.outputs)?;
    let deadline = deadline(request.deadline_ms, terms)?;
    metadata(&request.metadata)?;
    let written = code::written_out(&mut request, offer)?;
    let mut stages = stages(written.stages, &request, offer, terms)?;
    stages.iter_mut().for_each(|stage| stage.ip = network.is_some());
    let objects = (&terms.objects, key.tenant.as_str());
    let files = files::files(written.files, request.code.is_some(), objects)?;
    files::room(&files, &stages, &terms.objects)?;
    Ok(Job {
        key,
        digest,
        runtime: request.runtime,
        network,
        lane: request.lane.unwrap_or_default(),
        deadline,
        files,
        stages,
        outputs: request.outputs,
        stream,
        metadata: request.metadata,
    })
}

fn invalid(field: impl Into<String>, message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Invalid, field, message)
}

fn not_supported(field: impl Into<String>, instead: &str) -> Refusal {
    Refusal::new(RefusalCode::NotSupported, field, format!("not yet supported; {instead}"))
}

fn too_large(field: impl Into<String>, message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::TooLarge, field, message)
}

/// Refuses by name what the contract knows and this version does not do.
fn supported(request: &JobRequest) -> Result<(), Refusal> {
    if request.version != JOB_VERSION {
        let message = format!("{} is not known here; allowed is {JOB_VERSION}", request.version);
        return Err(Refusal::new(RefusalCode::Version, "version", message));
    }
    if request.session.is_some() {
        return Err(not_supported("session", "leave it out"));
    }
    if request.checkpoint.is_some() {
        return Err(not_supported("checkpoint", "leave it out"));
    }
    Ok(())
}

/// Takes id and tenant out of the request, so that they are no part of its digest.
fn key(request: &mut JobRequest, producer: &Producer<'_>) -> Result<JobKey, Refusal> {
    let id = request.id.take().unwrap_or_else(|| producer.fallback_id.to_owned());
    name("id", &id)?;
    let tenant = request.tenant.take().unwrap_or_else(|| producer.tenant.to_owned());
    name("tenant", &tenant)?;
    if tenant != producer.tenant && !producer.may_name_tenant {
        let own = producer.tenant;
        return Err(invalid("tenant", format!("`{tenant}` is not this producer's; allowed is `{own}`")));
    }
    Ok(JobKey { tenant, id })
}

fn name(field: impl Into<String>, name: &str) -> Result<(), Refusal> {
    if is_name(name) {
        return Ok(());
    }
    // Whatever was sent, the answer stays short.
    let shown: String = name.chars().take(80).collect();
    Err(invalid(field, format!("{shown:?} is not a name; allowed are 1 to 64 of A-Z, a-z, 0-9, `_` and `-`")))
}

fn offer<'a>(runtime: &str, policy: Option<&Policy>, terms: &'a Terms) -> Result<&'a Offer, Refusal> {
    name("runtime", runtime)?;
    terms.runtimes.get(&network::pool_key(runtime, policy)).ok_or_else(|| {
        if policy.is_some() && terms.runtimes.contains_key(runtime) {
            return network::not_offered(runtime);
        }
        let known: Vec<&str> =
            terms.runtimes.keys().map(String::as_str).filter(|known| is_name(known)).collect();
        let known = if known.is_empty() { "none is baked yet".to_owned() } else { known.join(", ") };
        let message = format!("`{runtime}` is not offered here; allowed: {known}");
        Refusal::new(RefusalCode::UnknownRuntime, "runtime", message)
    })
}

fn outputs(globs: &[String]) -> Result<(), Refusal> {
    if globs.len() > OUTPUT_GLOBS_MAX {
        return Err(invalid(
            "outputs",
            format!("{} patterns; allowed are 0 to {OUTPUT_GLOBS_MAX}", globs.len()),
        ));
    }
    for (index, glob) in globs.iter().enumerate() {
        check_glob(glob).map_err(|error| invalid(format!("outputs[{index}]"), error.to_string()))?;
    }
    Ok(())
}

fn deadline(asked_ms: Option<u64>, terms: &Terms) -> Result<Duration, Refusal> {
    let deadline_ms = asked_ms.unwrap_or(terms.deadline_ms.default);
    limits::within("deadline_ms", deadline_ms, 1, terms.deadline_ms.max, "")?;
    Ok(Duration::from_millis(deadline_ms))
}

fn metadata(metadata: &serde_json::Map<String, serde_json::Value>) -> Result<(), Refusal> {
    let json = serde_json::to_vec(metadata).map_err(|error| invalid("metadata", error.to_string()))?;
    if json.len() > METADATA_MAX_BYTES {
        let message = format!("has {} bytes as JSON; allowed are 0 to {METADATA_MAX_BYTES}", json.len());
        return Err(too_large("metadata", message));
    }
    Ok(())
}

fn stages(
    requests: Vec<StageRequest>,
    job: &JobRequest,
    offer: &Offer,
    terms: &Terms,
) -> Result<Vec<Stage>, Refusal> {
    let mut stages: Vec<Stage> = Vec::with_capacity(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        let compiles = job.code.is_some() && request.name == COMPILE_STAGE;
        let of_job = if compiles { &LimitsRequest::default() } else { &job.limits };
        let limits = limits::resolve(of_job, index, &request.limits, offer, &job.runtime, &terms.limits)?;
        let stage = command::stage(index, request, limits)?;
        if let Some(first) = stages.iter().position(|earlier| earlier.name == stage.name) {
            let message = format!("`{}` is the name of stages[{first}]; allowed is a name once", stage.name);
            return Err(invalid(format!("stages[{index}].name"), message));
        }
        stages.push(stage);
    }
    cases::all(&stages)?;
    let wall_ms = stages.iter().fold(0_u64, |sum, stage| sum.saturating_add(stage.wall_ms()));
    let message = match stages.iter().any(|stage| !stage.cases.is_empty()) {
        true => {
            "for all stages together, one with cases counting once for each of them and of their checkers"
        }
        false => "for all stages together",
    };
    limits::within("limits.wall_ms", wall_ms, 1, terms.job_wall_max_ms, message)?;
    Ok(stages)
}
