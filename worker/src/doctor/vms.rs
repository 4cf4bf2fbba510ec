//! What the hypervisor's own code knows of this host: KVM and snapshots.

use std::{fs, io, path::Path};

use hearth_pool::{
    kvm::known_kvm,
    runtime::Runtimes,
    snapshot::{HostFacts, SnapshotError, SnapshotStore, Verification},
};
use hearth_schemas::manifest::{Manifest, Transport};

use crate::cli::Choice;

use super::facts::{Kvm, SerialPort, Snapshot, SnapshotState};

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
        let (state, manifest) = state(&store, &runtime.name, here);
        let serial = manifest.as_ref().and_then(serial);
        Snapshot { runtime: runtime.name.clone(), vm_memory_mib: runtime.vm_memory_mib, state, serial }
    };
    runtimes.iter().map(snapshot).collect()
}

fn serial(manifest: &Manifest) -> Option<SerialPort> {
    match manifest.transport {
        Transport::Serial => Some(SerialPort::Always),
        _ => manifest.serial.then_some(SerialPort::WithoutVsock),
    }
}

fn state(
    store: &SnapshotStore,
    runtime: &str,
    here: Option<&HostFacts>,
) -> (SnapshotState, Option<Manifest>) {
    let Some(here) = here else {
        let state = match store.current_name(runtime) {
            None => SnapshotState::Absent,
            Some(_) => SnapshotState::Unfit("there, but not to be judged without a hypervisor".to_owned()),
        };
        return (state, None);
    };
    let state = match store.current(runtime, here, Verification::Size) {
        Ok(snapshot) => return (SnapshotState::Fits, Some(snapshot.manifest.clone())),
        Err(SnapshotError::Missing { .. }) => SnapshotState::Absent,
        Err(SnapshotError::Unfit { reasons, .. } | SnapshotError::Damaged { reasons, .. }) => {
            SnapshotState::Unfit(reasons.join("; "))
        }
        Err(SnapshotError::Unreadable { source, .. }) => SnapshotState::Unfit(source.to_string()),
    };
    (state, None)
}
