//! Files that a job brings along.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::PATH_MAX_BYTES;

/// One input. Give exactly one of `text`, `base64`, `tar_base64`, `object` and `tar_object`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["text"], "properties": {"text": {"type": "string"}}},
    {"required": ["base64"], "properties": {"base64": {"type": "string"}}},
    {"required": ["tar_base64"], "properties": {"tar_base64": {"type": "string"}}},
    {"required": ["object", "sha256", "size"], "properties":
        {"object": {"type": "string"}, "sha256": {"type": "string"}, "size": {"type": "integer"}}},
    {"required": ["tar_object", "sha256", "size"], "properties":
        {"tar_object": {"type": "string"}, "sha256": {"type": "string"}, "size": {"type": "integer"}}},
]))]
pub struct InputFile {
    /// Where it goes, relative to the working tree. Directories on the way are made.
    #[schemars(length(min = 1, max = PATH_MAX_BYTES))]
    #[schemars(regex(
        pattern = r"^(?!\.\.?(?:/|$))[^/\u0000]{1,255}(?:/(?!\.\.?(?:/|$))[^/\u0000]{1,255})*$"
    ))]
    pub path: String,
    /// Permission bits in octal. Absent means `0644`. Not with a tar archive, whose entries have their own.
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
    /// A directory as a tar archive in base64, at most 8 MiB once decoded: regular files and directories, of whose
    /// modes the owner's executable bit counts. No compression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("contentEncoding" = "base64"))]
    pub tar_base64: Option<String>,
    /// The content by reference, such as `s3://bucket/key`: an object that the operator allows this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// A directory as a tar archive by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar_object: Option<String>,
    /// SHA-256 of the object in hex. Only with `object` and `tar_object`, and required there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// Size of the object in bytes. Only with `object` and `tar_object`, and required there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl InputFile {
    /// A file with a text for its content.
    pub fn text(path: impl Into<String>, text: impl Into<String>) -> Self {
        InputFile { path: path.into(), text: Some(text.into()), ..InputFile::default() }
    }
}
