//! What a snapshot may have inside that nobody meant it to have: a connection that somebody held, a device that the manifest
//! does not speak of.

use std::{fs, os::unix::fs::symlink, path::PathBuf, sync::Mutex};

use futures_util::future::join_all;
use hearth_pool::{
    firecracker::{BakeRequest, bake_snapshot},
    hypervisor::{Hypervisor, RestoreError, Slot},
    image::Progress,
    runtime::{AgentTransport, Runtime},
    session::Session,
    snapshot::{MANIFEST, Verification},
};
use hearth_schemas::{
    guest::AGENT_PORT,
    guest::messages::User,
    manifest::{Manifest, Transport},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::Handle,
    task::block_in_place,
};

use super::{LIMIT, Rig, identity, run_as, wake};

/// How many sessions an agent has at once, but for the bake's own.
const SESSIONS: usize = 15;

/// A bridge as people put beside a VM: it is connected to the agent through all that happens. A bake tells it when: it
/// connects before the guest is paused, and looks when the snapshot is written and the VM not yet ended.
struct Bridge {
    jails: PathBuf,
    connections: usize,
    held: Mutex<Vec<Session>>,
    /// The pipes of a serial port, where there is one.
    pipes: Mutex<Vec<fs::File>>,
    seen_over_the_pause: Mutex<usize>,
}

impl Bridge {
    fn connect(&self) {
        let vm = fs::read_dir(&self.jails).unwrap().next().unwrap().unwrap().path();
        for pipe in ["serial.in", "serial.out"] {
            let open = fs::File::options().read(true).write(true).open(vm.join(pipe));
            self.pipes.lock().unwrap().extend(open);
        }
        // In its jail the socket's name is too long to be dialled.
        let short = tempfile::tempdir().unwrap();
        let root = fs::read_dir(vm.join("firecracker"))
            .map_or(vm.clone(), |mut jails| jails.next().unwrap().unwrap().path().join("root"));
        symlink(root, short.path().join("root")).unwrap();
        let socket = short.path().join("root/vsock.sock");
        let sessions = async {
            for _ in 0..self.connections {
                let mut stream = UnixStream::connect(&socket).await.unwrap();
                stream.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes()).await.unwrap();
                while stream.read_u8().await.unwrap() != b'\n' {}
                let session = Session::connect(stream, LIMIT).await.unwrap();
                self.held.lock().unwrap().push(session);
            }
        };
        block_in_place(|| Handle::current().block_on(sessions));
    }

    fn look(&self) {
        let mut alive = 0;
        for session in &*self.held.lock().unwrap() {
            let ended = async { tokio::time::timeout(std::time::Duration::ZERO, session.ended()).await };
            alive += usize::from(block_in_place(|| Handle::current().block_on(ended)).is_err());
        }
        *self.seen_over_the_pause.lock().unwrap() = alive;
    }
}

impl Progress for Bridge {
    fn report(&self, step: &'static str, message: &str) {
        println!("{step}: {message}");
        match (step, message) {
            ("save", "pausing the guest and saving it") => self.connect(),
            ("save", _) => self.look(),
            _ => {}
        }
    }
}

impl Rig {
    /// A runtime's snapshot as another's, with a manifest that says something else of its transport.
    fn copy_snapshot(&self, from: &str, to: &str, transport: Transport) {
        let snapshot = self.config.store().current(from, &self.here, Verification::Size).unwrap();
        let snapshots = snapshot.directory.parent().unwrap().parent().unwrap();
        let _ = fs::remove_dir_all(snapshots.join(to));
        let directory = snapshots.join(to).join("copy");
        fs::create_dir_all(&directory).unwrap();
        for entry in fs::read_dir(&snapshot.directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != MANIFEST {
                fs::hard_link(entry.path(), directory.join(entry.file_name())).unwrap();
            }
        }
        let manifest = Manifest { runtime: to.to_owned(), transport, ..snapshot.manifest.clone() };
        fs::write(directory.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        symlink("copy", snapshots.join(to).join("current")).unwrap();
    }
}

/// Seen in BandSox: a bridge held its connection while the snapshot was taken, and the guest of every clone has one whose other
/// end is nowhere. Here as many are held as an agent has sessions: with one of them left in a clone, nobody could greet it.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_a_bridge_holds_during_a_snapshot_are_not_in_its_clones() {
    let Some(rig) = Rig::start().await else { return };
    for (name, transport, connections, pipes, over) in [
        ("held", AgentTransport::Vsock, SESSIONS, 0, "hybrid_vsock"),
        ("heldport", AgentTransport::Serial, 0, 2, "serial"),
    ] {
        let bridge = Bridge {
            jails: rig.config.data_dir.join("firecracker/jails"),
            connections,
            held: Mutex::default(),
            pipes: Mutex::default(),
            seen_over_the_pause: Mutex::default(),
        };
        let runtime = Runtime { name: name.to_owned(), transport, ..rig.runtime.clone() };
        let Rig { config, guard, here, image, .. } = &rig;
        let request =
            BakeRequest { config, guard, here, runtime: &runtime, image, network: None, again: true };
        bake_snapshot(&request, &bridge).await.unwrap();
        assert_eq!(bridge.pipes.lock().unwrap().len(), pipes, "{name}");
        assert_eq!(*bridge.seen_over_the_pause.lock().unwrap(), connections, "{name}: held over the pause");

        let firecracker = rig.firecracker();
        let firecracker = &firecracker;
        let clones = join_all([0, 1].map(|number| {
            let slot = Slot { runtime: name.to_owned(), number };
            async move {
                let restored = firecracker.restore(&slot, &identity(number)).await.unwrap();
                let session = wake(firecracker, &restored.vm, number).await;
                let said = run_as(&session, User::Job, "hostname").await.unwrap();
                (slot, restored.vm, said)
            }
        }))
        .await;
        for ((slot, vm, said), number) in clones.into_iter().zip(0..) {
            assert_eq!(said, format!("clone-{number}\n"));
            assert_eq!(firecracker.transport(&vm), over, "{name}");
            firecracker.destroy(&slot, Some(vm)).await.unwrap();
        }
        rig.nothing_is_left();
    }
}

/// Seen in BandSox: the metadata said that a snapshot had no vsock, its state had one, and the second clone found its `Address
/// in use`. The first half shows Firecracker's own answer. Here each clone has a directory of its own, and a snapshot that is
/// not what its manifest says is refused by what was loaded, before the guest runs.
#[tokio::test]
async fn a_vsock_in_the_state_that_the_manifest_does_not_speak_of_is_refused_with_what_to_do() {
    let Some(rig) = Rig::start().await else { return };
    let why = rig.load_twice_in_one_place().await;
    assert!(why.contains("Address in use") || why.contains("Address already in use"), "{why}");

    let serial =
        Runtime { name: "legacy".to_owned(), transport: AgentTransport::Serial, ..rig.runtime.clone() };
    rig.bake_as(&serial, &rig.image, None).await;
    for (baked, said, has) in [
        ("bash", Transport::Serial, "has a vsock device (socket \"vsock.sock\")"),
        ("legacy", Transport::HybridVsock, "has no vsock device"),
    ] {
        let name = format!("{baked}lies");
        rig.copy_snapshot(baked, &name, said);
        let firecracker = rig.firecracker();
        let slots = [0, 1].map(|number| Slot { runtime: name.clone(), number });
        let (one, two) = (identity(0), identity(1));
        let both = tokio::join!(firecracker.restore(&slots[0], &one), firecracker.restore(&slots[1], &two));
        for (refused, slot) in [both.0, both.1].into_iter().zip(&slots) {
            let Err(RestoreError::Snapshot(why)) = refused else { panic!("{refused:?}") };
            assert!(why.contains(has), "{why}");
            assert!(why.ends_with(&format!("run `hearth bake {name} --force`")), "{why}");
            firecracker.destroy(slot, None).await.unwrap();
        }
        rig.nothing_is_left();
    }

    // What it says to do helps.
    let runtime = Runtime { name: "bashlies".to_owned(), ..rig.runtime.clone() };
    let Rig { config, guard, here, image, .. } = &rig;
    let request = BakeRequest { config, guard, here, runtime: &runtime, image, network: None, again: true };
    bake_snapshot(&request, &super::Print).await.unwrap();
    let (firecracker, slot) = (rig.firecracker(), Slot { runtime: runtime.name.clone(), number: 0 });
    let restored = firecracker.restore(&slot, &identity(2)).await.unwrap();
    wake(&firecracker, &restored.vm, 2).await;
    firecracker.destroy(&slot, Some(restored.vm)).await.unwrap();
    rig.nothing_is_left();
}
