//! Snapshots on disk: where they are, whether they fit this host, and who still uses them.
//!
//! ```text
//! <data>/snapshots/<runtime>/bake.lock       locked by whoever bakes this runtime
//! <data>/snapshots/<runtime>/current         symbolic link to the one that is restored
//! <data>/snapshots/<runtime>/<name>/         read only; replaced whole, never changed
//!     manifest.json                          locked (shared) by whoever uses the snapshot, which the last user removes
//!                                            when it is no longer current
//!     memory, state                          the guest's memory (sparse), the devices' state
//!     root.img, scratch.img                  the disks: shared by all VMs, copied for each
//! <data>/snapshots/<runtime>/.new-*          half a bake; removed by the next one
//! ```

mod check;
mod digest;
mod host;
mod publish;
mod store;

use std::path::PathBuf;

pub use check::{Verification, unfit};
pub use digest::{sha256_file, sha256_of};
pub use host::{HostFacts, host_facts, this_host};
pub use publish::{Draft, PublishError};
pub use store::{Snapshot, SnapshotError, SnapshotStore};

/// The guest's memory. Holes are zeros.
pub const MEMORY: &str = "memory";
/// The state of processors and devices.
pub const STATE: &str = "state";
/// The root disk, attached read only.
pub const ROOT: &str = "root.img";
/// The scratch disk as it was when memory was saved, which has it mounted: copied for each VM.
pub const SCRATCH: &str = "scratch.img";
/// What the snapshot says about itself.
pub const MANIFEST: &str = "manifest.json";

/// What a bake came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Baked {
    /// There was a snapshot of the same inputs already.
    Unchanged(PathBuf),
    /// There is a new one.
    New(PathBuf),
}
