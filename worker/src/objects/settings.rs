//! What the operator says of stores. Endpoints and credentials come from nowhere else.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use hearth_schemas::{
    limits::INLINE_OUTPUTS_TOTAL_MAX_BYTES,
    reference::{Prefix, StoreName},
};

use crate::admit::ObjectTerms;

const MIB: u64 = 1 << 20;

/// Which stores there are, who may read what, and where outputs go. The default is none, nobody, nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSettings {
    /// By the name that jobs use.
    pub stores: BTreeMap<StoreName, StoreSettings>,
    /// What each tenant may read.
    pub tenants: BTreeMap<String, Vec<Prefix>>,
    /// Size of all objects of one job together, at most, in bytes.
    pub job_max_bytes: u64,
    /// Disk for objects on their way, at most, in bytes.
    pub spool_max_bytes: u64,
    /// Where outputs go that are too large for a result.
    pub outputs: Option<OutputSettings>,
}

impl Default for ObjectSettings {
    fn default() -> Self {
        ObjectSettings {
            stores: BTreeMap::new(),
            tenants: BTreeMap::new(),
            job_max_bytes: 512 * MIB,
            spool_max_bytes: 4096 * MIB,
            outputs: None,
        }
    }
}

impl ObjectSettings {
    /// What admission has to know.
    pub fn terms(&self) -> ObjectTerms {
        ObjectTerms {
            stores: self.stores.keys().cloned().collect(),
            tenants: self.tenants.clone(),
            total_max_bytes: self.job_max_bytes,
        }
    }

    /// Bytes that are moved for one job at most: what it names is moved twice, what it leaves once.
    pub fn moved_max_bytes(&self) -> u64 {
        let outputs = self.outputs.as_ref().map_or(0, |outputs| outputs.job_max_bytes);
        match self.stores.is_empty() {
            true => 0,
            false => self.job_max_bytes.saturating_mul(2).saturating_add(outputs),
        }
    }
}

/// Where and how outputs are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSettings {
    /// `<below>/<tenant>/<job>/<attempt>/<path>`; a whole result has the path `_result.json`.
    pub below: Prefix,
    /// Outputs of at most so many bytes stay in the result.
    pub inline_max_bytes: u64,
    /// Results of at most so many bytes, as JSON, are sent whole; larger ones are kept here too.
    pub result_max_bytes: usize,
    /// Size of one output at most, in bytes.
    pub file_max_bytes: u64,
    /// Size of all outputs of a job together, at most, in bytes.
    pub job_max_bytes: u64,
}

impl OutputSettings {
    /// Below this prefix, with the usual limits.
    pub fn new(below: Prefix) -> Self {
        OutputSettings {
            below,
            inline_max_bytes: 64 * 1024,
            result_max_bytes: 64 * 1024,
            file_max_bytes: 512 * MIB,
            job_max_bytes: 512 * MIB,
        }
    }

    /// Whether an output stays in the result, of which so many bytes are outputs already.
    pub fn stays(&self, size_bytes: u64, inline_bytes: u64) -> bool {
        size_bytes <= self.inline_max_bytes
            && inline_bytes.saturating_add(size_bytes) <= INLINE_OUTPUTS_TOTAL_MAX_BYTES
    }
}

/// How a store is reached.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreSettings {
    /// A folder on this host.
    Folder(PathBuf),
    /// Options of the client, credentials among them.
    Remote(BTreeMap<String, String>),
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreSettings::Folder(folder) => f.debug_tuple("Folder").field(folder).finish(),
            StoreSettings::Remote(options) => {
                f.debug_tuple("Remote").field(&options.keys().collect::<Vec<_>>()).finish()
            }
        }
    }
}
