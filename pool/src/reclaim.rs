//! Clears up after workers that are gone, with their guards: the second net, spread at start-up.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use crate::guard::{
    lock::CidLock,
    owner::{Owner, remove_directories},
    process::boot_id,
    vms_directory,
};

/// How long a killed process may take to be gone, in seconds.
const KILL_LIMIT_S: i64 = 2;

/// What was found and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Directories of VMs.
    pub directories: u32,
    /// Processes that were still running.
    pub processes: u32,
    /// Directories that could not be removed, each logged.
    pub failed: u32,
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
#[error("reclaim {}", path.display())]
pub struct ReclaimError {
    /// What could not be read.
    pub path: PathBuf,
    /// What the host said.
    #[source]
    pub source: io::Error,
}

/// Removes every VM whose CID nobody has locked: kills the processes that its record names, then removes its
/// directories. A VM whose lock is held belongs to a live guard and is not touched. Blocks.
pub fn reclaim(run_dir: &Path) -> Result<Reclaimed, ReclaimError> {
    let path = vms_directory(run_dir);
    let error = |source| ReclaimError { path: path.clone(), source };
    let mut reclaimed = Reclaimed::default();
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(reclaimed),
        Err(source) => return Err(error(source)),
    };
    let boot_id = boot_id().map_err(error)?;
    for entry in entries {
        let directory = entry.map_err(error)?.path();
        match reclaim_vm(run_dir, &directory, &boot_id) {
            Ok(Some(processes)) => {
                reclaimed.directories += 1;
                reclaimed.processes += processes;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(directory = %directory.display(), %error, "cannot be reclaimed");
                reclaimed.failed += 1;
            }
        }
    }
    Ok(reclaimed)
}

/// The number of processes killed, or `None` when the VM is somebody's or has just been removed.
fn reclaim_vm(run_dir: &Path, directory: &Path, boot_id: &str) -> io::Result<Option<u32>> {
    let recorded = read_owner(directory)?;
    let named = || cid_of(directory.file_name()?);
    let Some(cid) = recorded.map(|owner| owner.cid).or_else(named) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no record, and no CID in its name"));
    };
    // Held until everything is gone.
    let Some(_lock) = CidLock::take(run_dir, cid)? else { return Ok(None) };
    if !directory.try_exists()? {
        return Ok(None);
    }
    // Again, now that nobody writes it any more.
    let owner = read_owner(directory)?;
    let mut killed = 0;
    if let Some(owner) = owner.as_ref().filter(|owner| owner.boot_id == boot_id) {
        for process in &owner.processes {
            killed += u32::from(process.kill(KILL_LIMIT_S)?);
        }
    }
    remove_directories(directory, owner.as_ref().map_or(&[], |owner| &owner.also))?;
    Ok(Some(killed))
}

/// `None` without a record: the guard died before it was written, or is removing the directory just now.
fn read_owner(directory: &Path) -> io::Result<Option<Owner>> {
    match Owner::read(directory) {
        Ok(owner) => Ok(Some(owner)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The CID in `<slot>-<cid>-<token>`.
fn cid_of(name: &OsStr) -> Option<u32> {
    name.to_str()?.rsplit('-').nth(1)?.parse().ok()
}
