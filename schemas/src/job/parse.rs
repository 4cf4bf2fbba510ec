//! From bytes to a request, with errors that a person can act on.

use serde::Deserialize;

use super::{JOB_VERSION, JobRequest, objects::Object};
use crate::limits::{NAME_MAX_BYTES, REQUEST_MAX_BYTES};

/// Why bytes are not a job request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// More than [`REQUEST_MAX_BYTES`].
    #[error("the request has {bytes} bytes; at most {REQUEST_MAX_BYTES} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not JSON.
    #[error("not valid JSON: {message} (line {line}, column {column})")]
    Malformed {
        /// What the parser stumbled over.
        message: String,
        /// Line from 1.
        line: usize,
        /// Column from 1, in bytes.
        column: usize,
    },
    /// A version that does not exist yet.
    #[error("version: {found} is not known here; allowed is {JOB_VERSION}, or no version at all")]
    Version {
        /// What the request says, as JSON.
        found: String,
    },
    /// JSON, but not the shape of a job.
    #[error("{field}: {message} (line {line}, column {column})")]
    Field {
        /// Where, such as `stages[0].limits.wall_ms`; `request` for the whole.
        field: String,
        /// What is wrong and what is allowed.
        message: String,
        /// Line from 1.
        line: usize,
        /// Column from 1, in bytes.
        column: usize,
    },
}

/// Parses a job request.
///
/// # Errors
/// The first thing that is wrong, in the order of the bytes; a wrong version goes before everything but broken JSON.
pub fn parse(bytes: &[u8]) -> Result<JobRequest, ParseError> {
    if bytes.len() > REQUEST_MAX_BYTES {
        return Err(ParseError::TooLarge { bytes: bytes.len() });
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize::<_, Object<JobRequest>>(&mut json);
    let Object(request) = parsed.map_err(|error| {
        let path = error.path().to_string();
        refine(bytes, &path, &error.into_inner())
    })?;
    json.end().map_err(|error| refine(bytes, ".", &error))?;
    match request.version {
        JOB_VERSION => Ok(request),
        other => Err(ParseError::Version { found: other.to_string() }),
    }
}

/// A job of a later version fails on its new fields first, so the version is looked at before they are blamed.
fn refine(bytes: &[u8], path: &str, error: &serde_json::Error) -> ParseError {
    let (line, column) = (error.line(), error.column());
    if !error.is_data() {
        return ParseError::Malformed { message: without_position(error), line, column };
    }
    if let Some(found) = other_version(bytes) {
        return ParseError::Version { found };
    }
    let (field, message) = explain(path, &without_position(error));
    ParseError::Field { field, message, line, column }
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

/// Puts serde's message into the words of somebody who has never heard of Rust.
fn explain(path: &str, message: &str) -> (String, String) {
    let member = |prefix: &str| {
        let name = message.strip_prefix(prefix)?.strip_suffix('`')?;
        Some(if path == "." { name.to_owned() } else { format!("{path}.{name}") })
    };
    if let Some(field) = member("missing field `") {
        return (field, "is missing; it is required".to_owned());
    }
    if let Some(field) = member("duplicate field `") {
        return (field, "is a duplicate field; allowed is one of a name".to_owned());
    }
    let field = if path == "." { "request" } else { path };
    let mut message = message.to_owned();
    for (theirs, ours) in [
        (
            "invalid type: unit variant, expected newtype variant",
            "a plain word, expected an object that says more",
        ),
        ("expected u64", "expected a whole number from 0 to 18446744073709551615"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected an array"),
        ("expected a map", "expected an object"),
        ("expected a boolean", "expected true or false"),
        ("invalid type: sequence", "invalid type: array"),
        ("invalid type: map", "invalid type: object"),
        ("invalid type: unit", "invalid type: null"),
        ("expected unit variant", "expected the plain word"),
    ] {
        message = message.replace(theirs, ours);
    }
    (field.to_owned(), message)
}

fn other_version(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: serde_json::Value,
    }
    let found = serde_json::from_slice::<Versioned>(bytes).ok()?.version;
    (found.as_u64() != Some(u64::from(JOB_VERSION))).then(|| found.to_string())
}

/// What can be told about a request that could not be parsed or admitted, so that its refusal finds its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// Its id, if it has a valid one.
    pub id: Option<String>,
    /// Its runtime, if it has a valid name.
    pub runtime: Option<String>,
    /// Its tenant, if it has a valid name.
    pub tenant: Option<String>,
}

/// Looks for names in bytes that may be anything. Never fails: what cannot be told is absent.
pub fn probe(bytes: &[u8]) -> Probe {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Names {
        id: serde_json::Value,
        runtime: serde_json::Value,
        tenant: serde_json::Value,
    }
    if bytes.len() > REQUEST_MAX_BYTES {
        return Probe::default();
    }
    let names: Names = serde_json::from_slice(bytes).unwrap_or_default();
    let valid = |value: &serde_json::Value| value.as_str().filter(|name| is_name(name)).map(str::to_owned);
    Probe { id: valid(&names.id), runtime: valid(&names.runtime), tenant: valid(&names.tenant) }
}

/// Whether this can be an id, a tenant, a runtime or the name of a stage: `[A-Za-z0-9_-]{1,64}`.
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}
