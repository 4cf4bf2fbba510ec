//! Why a job was refused, and what failed on our side.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Millis;
use crate::job::ParseError;

/// Why a job was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// The field that is at fault, such as `stages[0].limits.wall_ms`. Absent when it is no single one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// For people: what is wrong, and what is allowed.
    pub message: String,
}

impl Refusal {
    /// A refusal because of one field.
    pub fn new(code: RefusalCode, field: impl Into<String>, message: impl Into<String>) -> Self {
        Refusal { code, field: Some(field.into()), message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        let (code, field, message) = match error {
            ParseError::TooLarge { .. } => (RefusalCode::TooLarge, None, error.to_string()),
            ParseError::Malformed { .. } => (RefusalCode::Malformed, None, error.to_string()),
            ParseError::Version { found } => (
                RefusalCode::Version,
                Some("version".to_owned()),
                format!("{found} is not known here; allowed is 1, or no version at all"),
            ),
            ParseError::Field { field, message, line, column } => {
                (RefusalCode::Invalid, Some(field), format!("{message} (line {line}, column {column})"))
            }
        };
        Refusal { code, field, message }
    }
}

/// Why a job was refused, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The message is not JSON.
    Malformed,
    /// A version of the contract that is not known here.
    Version,
    /// A field that does not exist, has the wrong type, or a value that is not allowed.
    Invalid,
    /// More bytes than allowed.
    TooLarge,
    /// A runtime that is not offered here.
    UnknownRuntime,
    /// Part of the contract, but not yet supported.
    NotSupported,
    /// A different job with the same id.
    IdConflict,
}

/// What failed on our side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InfraError {
    /// For people: what failed last.
    pub message: String,
    /// Every attempt that reached a VM, in order.
    pub attempts: Vec<Attempt>,
}

/// One attempt at a job that failed on our side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// The worker that made it.
    pub worker: String,
    /// The step that failed.
    pub step: Step,
    /// For people: how it failed.
    pub message: String,
    /// When it failed, in milliseconds since 1970.
    pub failed_unix_ms: u64,
    /// How long it took until then.
    pub took_ms: Millis,
}

/// A part of our own work on a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Waiting in a queue.
    Queued,
    /// Waiting for a warm VM.
    Claim,
    /// Making a restored VM its own machine.
    Wake,
    /// Sending files.
    Upload,
    /// Running stages.
    Run,
    /// Fetching outputs.
    Download,
    /// Publishing the result.
    Publish,
}

impl Step {
    /// Every step, in the order of a job.
    pub const ALL: [Step; 7] =
        [Step::Queued, Step::Claim, Step::Wake, Step::Upload, Step::Run, Step::Download, Step::Publish];

    /// The word for it in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Queued => "queued",
            Step::Claim => "claim",
            Step::Wake => "wake",
            Step::Upload => "upload",
            Step::Run => "run",
            Step::Download => "download",
            Step::Publish => "publish",
        }
    }
}
