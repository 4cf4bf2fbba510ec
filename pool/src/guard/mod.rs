//! The child process that ends a dead worker's VMs.
//!
//! The worker spawns no VM process itself: it asks its guard (`hearth guard`, [`serve`]) over a socket pair. When
//! the worker dies, however it dies, the kernel closes its end, and the guard kills every process of every VM,
//! removes their directories and releases their CID locks, in this order. When the guard dies, the kernel kills
//! its children (`PR_SET_PDEATHSIG`); what then lies around is [`crate::reclaim`]'s.
//!
//! An exclusive `flock` per CID decides who may have a VM of that CID on this host. It is taken before anything is
//! made, is also held by the VM's processes (so that it outlives a killed guard exactly as long as they do), and is
//! released last.

mod cgroup;
mod client;
mod first;
pub(crate) mod lock;
pub(crate) mod log;
pub(crate) mod owner;
pub(crate) mod process;
mod protocol;
mod server;
mod spawn;
mod vm;

pub use client::{Guard, GuardCommand, GuardError, Opened};
pub use protocol::OpenVm;
pub use server::{ServeError, serve};

use std::path::{Path, PathBuf};

/// Where the directories of VMs are.
pub fn vms_directory(run_dir: &Path) -> PathBuf {
    run_dir.join("vms")
}

/// Where the CID locks are. Lock files are never removed: a lock on a removed file protects nothing.
pub fn locks_directory(run_dir: &Path) -> PathBuf {
    run_dir.join("cid")
}
