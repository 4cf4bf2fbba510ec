//! Files that are too large for a message: objects that jobs name are fetched and checked before a VM sees a byte of
//! them; outputs that do not fit a result are kept where the operator says.
//!
//! What an object costs in memory does not grow with its size: it goes by way of a spool, a file without a name.

mod fetch;
mod folder;
mod keep;
mod settings;
mod spool;
mod store;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use hearth_schemas::reference::{Prefix, StoreName};
use tokio::sync::Semaphore;

use self::store::Store;
pub(crate) use self::store::knows;
pub use self::{
    fetch::{FetchError, Fetched},
    keep::{KeepError, Keeping},
    settings::{ObjectSettings, OutputSettings, StoreSettings},
    store::OpenError,
};

/// The spool's room is counted in these.
const ROOM_UNIT_BYTES: u64 = 1 << 20;

/// The stores of a worker. Clones share them.
#[derive(Clone, Debug)]
pub struct Objects(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stores: BTreeMap<StoreName, Store>,
    outputs: Option<OutputSettings>,
    spool: PathBuf,
    room: Arc<Semaphore>,
}

impl Objects {
    /// No store at all.
    pub fn none() -> Self {
        let inner = Inner {
            stores: BTreeMap::new(),
            outputs: None,
            spool: PathBuf::new(),
            room: Arc::new(Semaphore::new(0)),
        };
        Self(Arc::new(inner))
    }

    /// Opens what is configured. Speaks to nobody yet. `spool` is a directory for objects on their way, on a disk.
    ///
    /// # Errors
    /// A store's settings make no client, a folder is not there, or the spool cannot be made.
    pub fn open(settings: &ObjectSettings, spool: PathBuf) -> Result<Self, OpenError> {
        if !settings.stores.is_empty() {
            std::fs::create_dir_all(&spool)
                .map_err(|source| OpenError::Spool { path: spool.clone(), source })?;
        }
        let mut stores = BTreeMap::new();
        for (name, store) in &settings.stores {
            stores.insert(name.clone(), Store::open(name, store)?);
        }
        let units = usize::try_from(settings.spool_max_bytes / ROOM_UNIT_BYTES).unwrap_or(usize::MAX);
        let room = Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)));
        Ok(Self(Arc::new(Inner { stores, outputs: settings.outputs.clone(), spool, room })))
    }

    /// How outputs are kept that are too large for a result, where the operator has said so.
    pub fn outputs(&self) -> Option<&OutputSettings> {
        self.0.outputs.as_ref()
    }

    fn store(&self, name: &StoreName) -> Option<&Store> {
        self.0.stores.get(name)
    }

    fn kept_below(&self) -> Option<(&Prefix, &Store)> {
        let below = &self.outputs()?.below;
        Some((below, self.store(&below.store)?))
    }
}
