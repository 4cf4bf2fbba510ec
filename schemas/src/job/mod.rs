//! The job request, version 1: what a producer sends. Shapes only; whether a job makes sense is decided at admission.

mod files;
mod objects;
mod parse;
mod stages;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use files::InputFile;
pub use parse::{ParseError, Probe, is_name, parse, probe};
pub use stages::{CaseRequest, Checker, Expect, FloatTolerance, Match, StageRequest};

use crate::limits::{
    DESTINATIONS_MAX, FILES_MAX, OPEN_FILES_MAX, OPEN_FILES_MIN, OUTPUT_GLOBS_MAX, PATH_MAX_BYTES, STAGES_MAX,
};

/// The only version of the job request that exists.
pub const JOB_VERSION: u32 = 1;

/// A job for Hearth, version 1. Give either `code` or `stages`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    title = "Hearth job, version 1",
    extend("$id" = "urn:hearth:schema:job:1"),
    extend("oneOf" = [
        {"required": ["code"], "properties": {"code": {"type": "string"}, "stages": {"maxItems": 0}}},
        {"required": ["stages"], "properties": {"code": {"type": "null"}, "stages": {"minItems": 1}}},
    ])
)]
pub struct JobRequest {
    /// Version of this contract. Absent means 1.
    #[serde(default = "job_version", skip_serializing_if = "is_job_version")]
    #[schemars(extend("const" = 1))]
    pub version: u32,
    /// What the result is known by: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`. Absent: the message's id, or a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"))]
    pub id: Option<String>,
    /// The baked template to run in, such as `python`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"))]
    pub runtime: String,
    /// Shorthand: one source text, run by the runtime's own entry command as a single stage named `run`, after one named
    /// `compile` where the runtime compiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What `code` is written in, where the runtime knows more than one language. Absent means its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"))]
    pub language: Option<String>,
    /// Files to put into the working tree before the first stage.
    #[serde(default, deserialize_with = "objects::objects", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = FILES_MAX))]
    pub files: Vec<InputFile>,
    /// Commands, run in order over the same working tree. The job ends at the first that is not accepted, unless
    /// that stage says `continue_on_failure`.
    #[serde(default, deserialize_with = "objects::objects", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = STAGES_MAX))]
    pub stages: Vec<StageRequest>,
    /// Files to return: patterns relative to the working tree, with `*`, `?` and `[…]` within one component and `**`
    /// across them. What names a directory, without a wildcard in its last component or with `/` at its end, stands for all
    /// files in it. A pattern that matches nothing is listed in the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = OUTPUT_GLOBS_MAX), inner(length(min = 1, max = PATH_MAX_BYTES)))]
    pub outputs: Vec<String>,
    /// Limits of every stage that does not give its own.
    #[serde(default, deserialize_with = "objects::object", skip_serializing_if = "LimitsRequest::is_empty")]
    pub limits: LimitsRequest,
    /// What the job may reach.
    #[serde(default, deserialize_with = "objects::choice", skip_serializing_if = "NetworkRequest::is_none")]
    pub network: NetworkRequest,
    /// How urgent the job is. Absent means `normal`.
    #[serde(default, deserialize_with = "objects::optional_choice", skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// On whose behalf: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`. Honoured only from producers that may name tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"))]
    pub tenant: Option<String>,
    /// Milliseconds after which an unfinished job is `expired`, counted from the message's timestamp when it has one,
    /// else from intake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub deadline_ms: Option<u64>,
    /// Whether to publish output and state changes while they happen, as live events.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stream: bool,
    /// Echoed in the result, not interpreted. At most 16 KiB as JSON; integers beyond 64 bits become doubles.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Reserved. Not yet supported: anything but null is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<serde_json::Value>,
    /// Reserved. Not yet supported: anything but null is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<serde_json::Value>,
}

impl JobRequest {
    /// A request with nothing but its runtime: the caller adds `code` or `stages`.
    pub fn new(runtime: impl Into<String>) -> Self {
        JobRequest {
            version: JOB_VERSION,
            id: None,
            runtime: runtime.into(),
            code: None,
            language: None,
            files: Vec::new(),
            stages: Vec::new(),
            outputs: Vec::new(),
            limits: LimitsRequest::default(),
            network: NetworkRequest::None,
            lane: None,
            tenant: None,
            deadline_ms: None,
            stream: false,
            metadata: serde_json::Map::new(),
            session: None,
            checkpoint: None,
        }
    }
}

/// What a command and everything it starts may use. An absent limit is the job's, then the operator's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    /// Wall time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub wall_ms: Option<u64>,
    /// User and system time of all processes together, in milliseconds. Default: the wall time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub cpu_ms: Option<u64>,
    /// Memory of all processes together in MiB, page cache and shared memory included, no swap. Default and most: the
    /// VM's memory minus 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub memory_mib: Option<u64>,
    /// Output in KiB, for stdout and for stderr each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub output_kib: Option<u64>,
    /// Processes and threads alive at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub processes: Option<u64>,
    /// Disk that the working tree and `/tmp` may take, in MiB, uploaded files included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub disk_mib: Option<u64>,
    /// Files and directories in the working tree and `/tmp`, uploaded ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub files: Option<u64>,
    /// Open files of each process; beyond it, opening one fails with EMFILE. Default: 1,024, which a process may raise
    /// itself as far as 16,384.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = OPEN_FILES_MIN, max = OPEN_FILES_MAX))]
    pub open_files: Option<u64>,
    /// Size of each file that a process writes, in MiB; beyond it, writing fails with EFBIG and SIGXFSZ, which ends a
    /// process that does not expect it. Default: what the disk takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub file_size_mib: Option<u64>,
}

impl LimitsRequest {
    /// Whether no limit is given.
    pub fn is_empty(&self) -> bool {
        *self == LimitsRequest::default()
    }
}

/// What a job may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkRequest {
    /// Nothing: the job has no network.
    #[default]
    None,
    /// These destinations only, by TCP: `name:port`, `address:port` or `address/prefix:port`, IPv4. Only where the operator
    /// offers VMs of the runtime with a network.
    Allow(#[schemars(length(min = 1, max = DESTINATIONS_MAX))] Vec<String>),
}

impl NetworkRequest {
    /// Whether the job asks for no network.
    pub fn is_none(&self) -> bool {
        matches!(self, NetworkRequest::None)
    }
}

/// How urgent a job is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Somebody waits for the answer.
    Interactive,
    /// The default.
    #[default]
    Normal,
    /// Whenever there is room.
    Batch,
}

impl Lane {
    /// The word for this lane in JSON, queue names and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Interactive => "interactive",
            Lane::Normal => "normal",
            Lane::Batch => "batch",
        }
    }
}

impl objects::Choice for NetworkRequest {
    fn is_word(&self) -> bool {
        self.is_none()
    }
}

impl objects::Choice for Lane {
    fn is_word(&self) -> bool {
        true
    }
}

/// An environment: names without `=`.
pub type Env = BTreeMap<String, String>;

fn job_version() -> u32 {
    JOB_VERSION
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_job_version(version: &u32) -> bool {
    *version == JOB_VERSION
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
