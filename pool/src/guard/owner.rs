//! What a VM's directory says about who made it, for whoever has to clear up after them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    cgroup::{is_cgroup, remove_cgroup},
    process::ProcessId,
};

const FILE: &str = "owner.json";

/// Written before a VM has anything else, and again whenever it gets a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The worker that asked for the VM.
    pub worker: String,
    /// The guard that made it.
    pub guard: ProcessId,
    /// The boot of the host that every [`ProcessId`] here belongs to.
    pub boot_id: String,
    /// The VM's CID, whose lock is held while the VM lives.
    pub cid: u32,
    /// Directories of the VM outside its own one, control groups among them.
    pub also: Vec<PathBuf>,
    /// Its processes.
    pub processes: Vec<ProcessId>,
}

impl Owner {
    /// Reads the record of a VM's directory.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let bytes = fs::read(directory.join(FILE))?;
        serde_json::from_slice(&bytes).map_err(io::Error::from)
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let new = directory.join("owner.json.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, directory.join(FILE))
    }
}

/// Removes everything of a VM. The VM's own directory goes last, since its record names the others.
pub fn remove_directories(directory: &Path, also: &[PathBuf]) -> io::Result<()> {
    for path in also {
        remove_tree(path)?;
    }
    remove_tree(directory)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let removed = if is_cgroup(path) { remove_cgroup(path) } else { fs::remove_dir_all(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("remove {}: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}
