//! What makes two requests the same job.

use std::io;

use hearth_schemas::{job::JobRequest, result::Refusal};
use sha2::{Digest, Sha256};

use super::invalid;

/// SHA-256 in hex over the request as we write it: fields in the contract's order, maps sorted, what is absent left
/// out. Fields that are added to the contract later do not change it for those who do not use them.
pub(super) fn digest(request: &JobRequest) -> Result<String, Refusal> {
    let mut hasher = Hasher(Sha256::new());
    serde_json::to_writer(&mut hasher, request).map_err(|error| invalid("request", error.to_string()))?;
    Ok(hasher.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct Hasher(Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
