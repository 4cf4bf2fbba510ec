//! Drafts, the current snapshot, who may remove what.

use std::fs;

use hearth_schemas::manifest::{
    Accelerator, Entry, Host, HypervisorKind, MANIFEST_VERSION, Machine, Manifest, Transport,
};

use super::super::{HostFacts, MEMORY, SnapshotError, SnapshotStore, Verification, store::open, unfit};

fn here() -> HostFacts {
    let host = Host {
        cpu_vendor: "V".to_owned(),
        cpu_model: "M".to_owned(),
        cpu_flags_sha256: "f".to_owned(),
        kernel: "6.1".to_owned(),
    };
    HostFacts { hypervisor_version: "10.0.2".to_owned(), accelerator: Accelerator::Kvm, host }
}

fn manifest(inputs_sha256: &str) -> Manifest {
    Manifest {
        manifest_version: MANIFEST_VERSION,
        runtime: "python".to_owned(),
        inputs_sha256: inputs_sha256.to_owned(),
        baked_unix_s: 1,
        hypervisor: HypervisorKind::Qemu,
        hypervisor_version: here().hypervisor_version,
        accelerator: Accelerator::Kvm,
        host: here().host,
        transport: Transport::VhostUserVsock,
        serial: false,
        protocol_version: 1,
        machine: Machine {
            vcpus: 1,
            vm_memory_mib: 256,
            scratch_mib: 64,
            kernel: "6.1".to_owned(),
            card: false,
        },
        entry: Entry::new("main.py", ["python3"]),
        languages: Default::default(),
        files: Vec::new(),
    }
}

fn bake(store: &SnapshotStore, inputs: &str, memory: &str) -> std::path::PathBuf {
    let draft = store.draft("python").unwrap().unwrap();
    fs::write(draft.directory().join(MEMORY), memory).unwrap();
    let files = vec![draft.describe(MEMORY, None).unwrap()];
    draft.publish(&Manifest { files, ..manifest(inputs) }).unwrap()
}

#[test]
fn what_is_published_is_current_read_only_and_verified() {
    let data = tempfile::tempdir().unwrap();
    let store = SnapshotStore::new(data.path());
    let missing = store.current("python", &here(), Verification::Size).unwrap_err();
    assert!(missing.to_string().ends_with("run `hearth bake python`"), "{missing}");

    let directory = bake(&store, "aaaa", "bytes");
    assert!(fs::metadata(directory.join(MEMORY)).unwrap().permissions().readonly());
    let snapshot = store.current("python", &here(), Verification::Digest).unwrap();
    assert_eq!((snapshot.memory(), &*snapshot.manifest.inputs_sha256), (directory.join(MEMORY), "aaaa"));

    // Another byte of the same length is found by its digest only; a lost one at once.
    fs::remove_file(directory.join(MEMORY)).unwrap();
    fs::write(directory.join(MEMORY), "bytez").unwrap();
    store.current("python", &here(), Verification::Size).unwrap();
    let changed = store.current("python", &here(), Verification::Digest).unwrap_err();
    assert!(changed.to_string().contains("memory has changed since the bake"), "{changed}");
    fs::write(directory.join(MEMORY), "byte").unwrap();
    let cut = store.current("python", &here(), Verification::Size).unwrap_err();
    assert!(
        matches!(&cut, SnapshotError::Damaged { .. })
            && cut.to_string().ends_with("run `hearth bake python`")
    );
}

#[test]
fn a_new_snapshot_removes_the_old_one_unless_somebody_uses_it() {
    let data = tempfile::tempdir().unwrap();
    let store = SnapshotStore::new(data.path());
    let first = bake(&store, "aaaa", "1");
    let used = store.current("python", &here(), Verification::Size).unwrap();
    let second = bake(&store, "bbbb", "2");
    assert!(first.exists() && second.exists(), "the first is in use");
    let too = open(&used.directory).unwrap();
    drop(used);
    assert!(first.exists(), "somebody else uses it");
    drop(too);
    assert!(!first.exists(), "it goes with its last user");
    drop(store.current("python", &here(), Verification::Size).unwrap());
    assert!(second.exists(), "it is current");
    let third = bake(&store, "bbbb", "3");
    assert!(!first.exists() && !second.exists() && third.exists());
    assert_ne!(second, third, "a snapshot's directory is never changed");
    let current = store.current("python", &here(), Verification::Digest).unwrap();
    assert_eq!(current.directory, third);
}

#[test]
fn one_bake_at_a_time_and_a_dead_ones_draft_goes() {
    let data = tempfile::tempdir().unwrap();
    let store = SnapshotStore::new(data.path());
    let draft = store.draft("python").unwrap().unwrap();
    assert!(store.draft("python").unwrap().is_none(), "locked");
    assert!(store.draft("gcc").unwrap().is_some(), "another runtime is not");
    let left = draft.directory().to_owned();
    drop(draft);
    assert!(!left.exists(), "a dropped draft is removed");
    fs::create_dir(left.with_file_name(".new-dead")).unwrap();
    let _draft = store.draft("python").unwrap().unwrap();
    assert!(!left.with_file_name(".new-dead").exists());
}

#[test]
fn a_host_that_differs_is_named_with_both_sides() {
    let baked = manifest("aaaa");
    assert_eq!(unfit(&baked, &here()), Vec::<String>::new());
    let other = HostFacts { hypervisor_version: "10.1.0".to_owned(), ..here() };
    assert_eq!(unfit(&baked, &other), ["it was baked with QEMU 10.0.2, here is 10.1.0"]);

    let mut newer = here();
    newer.host.kernel = "6.12".to_owned();
    assert_eq!(unfit(&baked, &newer), ["it was baked with host kernel 6.1, here is 6.12"]);
    let translated = Manifest { accelerator: Accelerator::Tcg, ..baked.clone() };
    assert!(unfit(&translated, &newer).is_empty(), "a guest of TCG sees no host kernel");

    let without = HostFacts { accelerator: Accelerator::Tcg, ..here() };
    assert_eq!(unfit(&baked, &without), ["it was baked with KVM, which does not run a guest here"]);
    let mut moved = here();
    moved.host.cpu_model = "N".to_owned();
    assert_eq!(unfit(&translated, &moved), ["it was baked with processor M, here is N"]);
}
