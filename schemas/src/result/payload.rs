//! Bytes in JSON: as text where they are text, in base64 where they are not.

use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bytes: `{"text": …}` when they are UTF-8, `{"base64": …}` when they are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// The bytes as UTF-8.
    Text(String),
    /// The bytes in base64 (RFC 4648: standard alphabet, padded).
    #[schemars(extend("contentEncoding" = "base64"))]
    Base64(String),
}

impl Payload {
    /// The bytes again.
    ///
    /// # Errors
    /// The base64 is not valid.
    pub fn decode(&self) -> Result<Vec<u8>, base64::DecodeError> {
        match self {
            Payload::Text(text) => Ok(text.clone().into_bytes()),
            Payload::Base64(base64) => STANDARD.decode(base64),
        }
    }
}

impl Default for Payload {
    fn default() -> Self {
        Payload::Text(String::new())
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Payload::Text(text),
            Err(error) => Payload::Base64(STANDARD.encode(error.as_bytes())),
        }
    }
}

/// The content of an output: inline, by reference, or not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputContent {
    /// The bytes as UTF-8.
    Text(String),
    /// The bytes in base64 (RFC 4648: standard alphabet, padded).
    #[schemars(extend("contentEncoding" = "base64"))]
    Base64(String),
    /// Where the bytes are kept, such as `s3://bucket/key`.
    Object(String),
    /// Why the bytes are not in this message.
    Omitted(Omitted),
}

/// Why the content of an output is not in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Omitted {
    /// It is in the whole result, which is kept in a store.
    ByReference,
    /// The message had no room, and there is no store.
    NoRoom,
}

impl From<Payload> for OutputContent {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Text(text) => OutputContent::Text(text),
            Payload::Base64(base64) => OutputContent::Base64(base64),
        }
    }
}
