//! Results of which only a short form fitted a message.

use std::path::Path;

use bytes::Bytes;
use hearth_schemas::result::Reduced;
use hearth_worker::objects::Objects;
use serde::Deserialize;
use tempfile::TempDir;

use crate::cli::{
    exit::{Exit, Failure, chain},
    host,
};

/// Where the whole ones may be.
pub struct Whole {
    objects: Objects,
    configured: bool,
    /// Of results on their way.
    _spool: TempDir,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    reduced: Option<Reduced>,
}

impl Whole {
    /// The stores of a file, or none.
    pub fn open(file: Option<&Path>) -> Result<Self, Failure> {
        let spool = tempfile::tempdir().map_err(|error| Failure::from_error(Exit::Internal, &error))?;
        let objects = Objects::open(&host::objects(file)?, spool.path().to_owned());
        let objects = objects.map_err(|error| Failure::from_error(Exit::Config, &error))?;
        Ok(Self { objects, configured: file.is_some(), _spool: spool })
    }

    /// The whole result where it can be had, on one line; else what came, and on stderr why.
    pub async fn of(&self, body: Bytes) -> Bytes {
        let reduced = serde_json::from_slice(&body).ok().and_then(|head: Head| head.reduced);
        let reduced = match reduced {
            Some(reduced @ Reduced::ByReference { .. }) if self.configured => reduced,
            Some(Reduced::ByReference { object, size_bytes, .. }) => {
                tracing::warn!(object, size_bytes, "a result is kept elsewhere; --objects fetches it");
                return body;
            }
            Some(Reduced::Cut { .. }) | None => return body,
        };
        match self.objects.result(&reduced).await {
            Ok(whole) => whole,
            Err(error) => {
                tracing::warn!(error = chain(&error), "the whole result could not be fetched");
                body
            }
        }
    }
}
