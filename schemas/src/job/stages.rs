//! Commands of a job, and what is expected of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Env, LimitsRequest, is_false, objects};
use crate::limits::PATH_MAX_BYTES;

/// One command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageRequest {
    /// What the result calls it: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`, once per job.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"))]
    pub name: String,
    /// The command and its arguments. The first is a path, or looked up in `PATH`; no shell is involved.
    #[schemars(length(min = 1))]
    pub argv: Vec<String>,
    /// What the command reads on standard input. Absent means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Environment variables, in addition to the documented ones that every command gets.
    #[serde(default, skip_serializing_if = "Env::is_empty")]
    #[schemars(extend("propertyNames" = {"pattern": r"^[^=\u0000]+$"}))]
    pub env: Env,
    /// Directory to run in, relative to the working tree. Absent or `.` means the tree itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = PATH_MAX_BYTES))]
    pub cwd: Option<String>,
    /// Limits of this stage; an absent one is the job's.
    #[serde(default, deserialize_with = "objects::object", skip_serializing_if = "LimitsRequest::is_empty")]
    pub limits: LimitsRequest,
    /// Whether the next stage runs even if this one is not accepted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continue_on_failure: bool,
    /// Runs of this command with their own inputs and expectations, each in a fresh copy of the working tree and
    /// `/tmp` as they are when the stage begins. Nothing of a run is left for the next, for later stages or outputs.
    #[serde(default, deserialize_with = "objects::objects", skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<CaseRequest>,
    /// Whether the first case that is not accepted ends the stage: the others are skipped.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stop_on_failure: bool,
    /// Whether live events tell what each case prints, and not only how it goes; only with the job's `stream`. The next
    /// case is then not prepared while one runs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stream_cases: bool,
}

/// One run of a stage's command in a fresh copy of the working tree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaseRequest {
    /// What the result calls it: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`, once per stage.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"))]
    pub name: String,
    /// What the command reads on standard input. Absent means the stage's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Arguments after those of the stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv_extra: Vec<String>,
    /// What makes the case accepted, besides exit code 0. Absent means nothing.
    #[serde(default, deserialize_with = "objects::optional_object", skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
}

/// What a case must print.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The expected standard output. Every `match` but `none` and `checker` needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// How it is compared. Absent means `exact`.
    #[serde(
        default,
        rename = "match",
        deserialize_with = "objects::choice",
        skip_serializing_if = "Match::is_exact"
    )]
    pub how: Match,
}

/// How standard output is compared with what was expected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// Byte for byte.
    #[default]
    Exact,
    /// White space at the end of each line, and empty lines at the end, do not count.
    Trim,
    /// Sequences of words, whatever white space is between them.
    Tokens,
    /// Not at all.
    None,
    /// As `tokens`, but words that are both numbers may differ a little. NaN is NaN, and an infinity itself.
    Float(#[serde(deserialize_with = "objects::object")] FloatTolerance),
    /// By a program of the job's own.
    Checker(#[serde(deserialize_with = "objects::object")] Checker),
}

impl Match {
    /// Whether this is the default.
    pub fn is_exact(&self) -> bool {
        *self == Match::Exact
    }
}

impl objects::Choice for Match {
    fn is_word(&self) -> bool {
        !matches!(self, Match::Float(_) | Match::Checker(_))
    }
}

/// How much a number may differ from the expected one: by `abs`, or by `rel` times the expected one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FloatTolerance {
    /// Absolute difference. Absent means 0.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub abs: f64,
    /// Relative difference. Absent means 0.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub rel: f64,
}

/// A program that decides: exit code 0 accepts, 1 does not, and anything else is a failure of its own. It runs after each
/// case that would be accepted, with the stage's limits, in a copy of the working tree as it is when the stage begins,
/// with three more arguments: the files of the case's standard input, of the output, and of the expected output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checker {
    /// The command and its arguments.
    #[schemars(length(min = 1))]
    pub argv: Vec<String>,
}
