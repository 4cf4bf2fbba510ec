//! What the hypervisor's own code knows of this host: KVM and snapshots.

use std::{fs, io, path::Path};

use hearth_pool::{
    kvm::known_kvm,
    runtime::Runtimes,
    snapshot::{HostFacts, SnapshotError, SnapshotStore, Verification},
};

use crate::cli::Choice;

use super::facts::{Kvm, Snapshot, SnapshotState};

/// What is known of `/dev/kvm`. Boots nothing.
pub fn kvm(data_dir: &Path, choice: Option<&Choice>) -> Kvm {
    match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Kvm::Absent,
        Err(error) => return Kvm::Denied { why: error.to_string() },
        Ok(_) => {}
    }
    match choice.and_then(|choice| known_kvm(data_dir, &choice.facts)) {
        None => Kvm::Untried,
        Some(answer) if answer.usable => Kvm::Works,
        Some(answer) => Kvm::Broken { why: answer.why.lines().next().unwrap_or_default().to_owned() },
    }
}

/// Every runtime with its snapshot.
pub fn snapshots(data_dir: &Path, runtimes: &Runtimes, choice: Option<&Choice>) -> Vec<Snapshot> {
    let store = choice.map_or_else(|| SnapshotStore::new(data_dir), |choice| choice.vmm.store(data_dir));
    let here = choice.map(|choice| &choice.facts);
    let snapshot = |runtime: &hearth_pool::runtime::Runtime| {
        let state = state(&store, &runtime.name, here);
        Snapshot { runtime: runtime.name.clone(), vm_memory_mib: runtime.vm_memory_mib, state }
    };
    runtimes.iter().map(snapshot).collect()
}

fn state(store: &SnapshotStore, runtime: &str, here: Option<&HostFacts>) -> SnapshotState {
    let Some(here) = here else {
        return match store.current_name(runtime) {
            None => SnapshotState::Absent,
            Some(_) => SnapshotState::Unfit("there, but not to be judged without a hypervisor".to_owned()),
        };
    };
    match store.current(runtime, here, Verification::Size) {
        Ok(_) => SnapshotState::Fits,
        Err(SnapshotError::Missing { .. }) => SnapshotState::Absent,
        Err(SnapshotError::Unfit { reasons, .. } | SnapshotError::Damaged { reasons, .. }) => {
            SnapshotState::Unfit(reasons.join("; "))
        }
        Err(SnapshotError::Unreadable { source, .. }) => SnapshotState::Unfit(source.to_string()),
    }
}
