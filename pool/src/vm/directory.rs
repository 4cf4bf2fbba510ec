//! Names of VMs' directories, and what is left of VMs whose guard is dead.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    guard::{owner::Owner, vms_directory},
    hypervisor::{DestroyError, Slot},
    lease::Identity,
    reclaim::reclaim,
};

/// Characters of a runtime's name that go into a directory's: sockets are below it, and their paths are short.
const NAME_CHARACTERS: usize = 16;

/// What the directories of a slot's VMs begin with.
fn prefix(slot: &Slot) -> String {
    let runtime: String = slot.runtime.chars().take(NAME_CHARACTERS).collect();
    format!("{runtime}-{}-", slot.number)
}

/// The name of a VM's directory. The slot and the CID are for people and for reclaim; the token makes it new.
pub fn unique_name(slot: &Slot, identity: &Identity) -> String {
    format!("{}{}-{:x}", prefix(slot), identity.cid, identity.token)
}

/// Removes what is left of a slot's VM after the guard died, and by that every VM of this worker.
pub async fn clear_without_guard(run_dir: &Path, worker: &str, slot: &Slot) -> Result<(), DestroyError> {
    let failed = |what: String| DestroyError { slot: slot.clone(), what };
    let directory = run_dir.to_owned();
    let reclaimed = tokio::task::spawn_blocking(move || reclaim(&directory)).await;
    match reclaimed {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(failed(format!("{error}: {}", error.source))),
        Err(error) => return Err(failed(error.to_string())),
    }
    match left_of(run_dir, worker, slot) {
        Ok(None) => Ok(()),
        Ok(Some(path)) => Err(failed(format!("{} is still there", path.display()))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// A directory of this worker's VM in the slot, if there still is one.
fn left_of(run_dir: &Path, worker: &str, slot: &Slot) -> io::Result<Option<PathBuf>> {
    let prefix = prefix(slot);
    let entries = match std::fs::read_dir(vms_directory(run_dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let ours =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix));
        if ours && Owner::read(&path).is_ok_and(|owner| owner.worker == worker) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
