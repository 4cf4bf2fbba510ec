//! Files that a job brings along.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::PATH_MAX_BYTES;

/// One input. Give exactly one of `text`, `base64`, `tar_base64` and `object`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["text"], "properties": {"text": {"type": "string"}}},
    {"required": ["base64"], "properties": {"base64": {"type": "string"}}},
    {"required": ["tar_base64"], "properties": {"tar_base64": {"type": "string"}}},
    {"required": ["object", "sha256", "size"], "properties":
        {"object": {"type": "string"}, "sha256": {"type": "string"}, "size": {"type": "integer"}}},
]))]
pub struct InputFile {
    /// Where it goes, relative to the working tree. Directories on the way are made.
    #[schemars(length(min = 1, max = PATH_MAX_BYTES))]
    #[schemars(regex(
        pattern = r"^(?!\.\.?(?:/|$))[^/\u0000]{1,255}(?:/(?!\.\.?(?:/|$))[^/\u0000]{1,255})*$"
    ))]
    pub path: String,
    /// Permission bits in octal. Absent means `0644`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^0?[0-7]{3}$"))]
    pub mode: Option<String>,
    /// The content as text, at most 8 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The content in base64 (RFC 4648: standard alphabet, padded, no line breaks), at most 8 MiB once decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("contentEncoding" = "base64"))]
    pub base64: Option<String>,
    /// A directory as a tar archive in base64. Not yet supported: refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("contentEncoding" = "base64"))]
    pub tar_base64: Option<String>,
    /// The content by reference, such as `s3://bucket/key`. Not yet supported: refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// SHA-256 of the object in hex. Only with `object`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// Size of the object in bytes. Only with `object`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl InputFile {
    /// A file with a text for its content.
    pub fn text(path: impl Into<String>, text: impl Into<String>) -> Self {
        InputFile { path: path.into(), text: Some(text.into()), ..InputFile::default() }
    }
}
