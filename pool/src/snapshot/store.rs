//! Finding a runtime's snapshot.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use hearth_schemas::manifest::Manifest;
use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Handle;

use super::{
    HostFacts, MANIFEST, MEMORY, ROOT, SCRATCH, STATE, Verification,
    check::{damaged, unfit},
    publish::remove_unlocked,
};

/// Longest manifest that is read, in bytes.
const MANIFEST_MAX_BYTES: u64 = 1024 * 1024;

/// Why there is no snapshot to restore. Every message ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The runtime was never baked here.
    #[error("there is no snapshot of runtime {runtime}: run `hearth bake {runtime}`")]
    Missing {
        /// The runtime.
        runtime: String,
    },
    /// It would not run here as it was baked.
    #[error("the snapshot of runtime {runtime} does not fit this host: {}: run `hearth bake {runtime}`", reasons.join("; "))]
    Unfit {
        /// The runtime.
        runtime: String,
        /// What differs.
        reasons: Vec<String>,
    },
    /// Its files are not what was baked.
    #[error("the snapshot of runtime {runtime} is damaged: {}: run `hearth bake {runtime}`", reasons.join("; "))]
    Damaged {
        /// The runtime.
        runtime: String,
        /// Which and how.
        reasons: Vec<String>,
    },
    /// It could not be looked at.
    #[error("the snapshot of runtime {runtime} cannot be read ({source}): run `hearth bake {runtime}`")]
    Unreadable {
        /// The runtime.
        runtime: String,
        /// Why.
        source: io::Error,
    },
}

/// A snapshot that fits. While this lives nobody removes it; the last one that lives removes it when it is no longer
/// current.
#[derive(Debug)]
pub struct Snapshot {
    /// Where it is.
    pub directory: PathBuf,
    /// What it says about itself.
    pub manifest: Manifest,
    /// Whether a hypervisor has loaded its state, and that had what the manifest says.
    pub(crate) seen: AtomicBool,
    _in_use: InUse,
}

impl Snapshot {
    /// Its name among the snapshots of its runtime: see [`SnapshotStore::current_name`].
    pub fn name(&self) -> &str {
        self.directory.file_name().and_then(OsStr::to_str).unwrap_or_default()
    }

    /// The guest's memory.
    pub fn memory(&self) -> PathBuf {
        self.directory.join(MEMORY)
    }

    /// The devices' state.
    pub fn state(&self) -> PathBuf {
        self.directory.join(STATE)
    }

    /// The root disk.
    pub fn root(&self) -> PathBuf {
        self.directory.join(ROOT)
    }

    /// The scratch disk to copy.
    pub fn scratch(&self) -> PathBuf {
        self.directory.join(SCRATCH)
    }
}

/// A shared lock on a snapshot's manifest.
#[derive(Debug)]
struct InUse {
    manifest: Option<File>,
    directory: PathBuf,
}

impl Drop for InUse {
    /// Gives the lock up. A snapshot that is not current goes with its last user; where that fails, the next bake removes it.
    fn drop(&mut self) {
        let Some(manifest) = self.manifest.take() else { return };
        let parent = self.directory.parent().unwrap_or(Path::new(""));
        let current = fs::read_link(parent.join("current")).ok();
        if current.is_none_or(|name| self.directory.file_name() == Some(name.as_os_str())) {
            return;
        }
        let directory = std::mem::take(&mut self.directory);
        let remove = move || match remove_unlocked(&manifest, &directory) {
            Ok(true) => tracing::info!(directory = %directory.display(), "an old snapshot goes"),
            Ok(false) => {}
            Err(error) => tracing::warn!(directory = %directory.display(), %error, "an old snapshot stays"),
        };
        // It may take a moment.
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// The snapshots of a data directory.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    directory: PathBuf,
}

impl SnapshotStore {
    /// The store of a data directory, which need not exist yet.
    pub fn new(data_dir: &Path) -> Self {
        Self { directory: data_dir.join("snapshots") }
    }

    /// Where a runtime's snapshots are.
    pub(super) fn of_runtime(&self, runtime: &str) -> PathBuf {
        self.directory.join(runtime)
    }

    /// The name of the snapshot that is restored now, if there is one: cheap enough to ask before each restore.
    pub fn current_name(&self, runtime: &str) -> Option<String> {
        fs::read_link(self.of_runtime(runtime).join("current")).ok()?.to_str().map(str::to_owned)
    }

    /// The runtime's snapshot, checked against this host and held in use. Blocks.
    pub fn current(
        &self,
        runtime: &str,
        here: &HostFacts,
        how: Verification,
    ) -> Result<Snapshot, SnapshotError> {
        let snapshot = self.open(runtime)?;
        let runtime = runtime.to_owned();
        let reasons = unfit(&snapshot.manifest, here);
        if !reasons.is_empty() {
            return Err(SnapshotError::Unfit { runtime, reasons });
        }
        match damaged(&snapshot.directory, &snapshot.manifest.files, how) {
            Ok(reasons) if reasons.is_empty() => Ok(snapshot),
            Ok(reasons) => Err(SnapshotError::Damaged { runtime, reasons }),
            Err(source) => Err(SnapshotError::Unreadable { runtime, source }),
        }
    }

    /// The runtime's snapshot whether it fits or not. A bake may replace it between the two steps of opening it, so
    /// a vanished one is looked up again.
    fn open(&self, runtime: &str) -> Result<Snapshot, SnapshotError> {
        let mut name = None;
        loop {
            let current = self.current_name(runtime);
            let Some(now) = current.filter(|now| name.as_ref() != Some(now)) else {
                return Err(SnapshotError::Missing { runtime: runtime.to_owned() });
            };
            match open(&self.of_runtime(runtime).join(&now)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => name = Some(now),
                Err(source) => {
                    return Err(SnapshotError::Unreadable { runtime: runtime.to_owned(), source });
                }
                Ok(snapshot) => return Ok(snapshot),
            }
        }
    }
}

/// The snapshot of a directory, held in use.
pub(super) fn open(directory: &Path) -> io::Result<Snapshot> {
    let path = directory.join(MANIFEST);
    let in_use = File::open(&path)?;
    flock(&in_use, FlockOperation::LockShared)?;
    // It may have been removed before the lock was had.
    if !path.try_exists()? {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut text = String::new();
    (&in_use).take(MANIFEST_MAX_BYTES).read_to_string(&mut text)?;
    let manifest = serde_json::from_str(&text)?;
    let in_use = InUse { manifest: Some(in_use), directory: directory.to_owned() };
    Ok(Snapshot { directory: directory.to_owned(), manifest, seen: AtomicBool::new(false), _in_use: in_use })
}
