//! VMs whose agent is reached over Firecracker's only serial port.

use hearth_pool::{
    firecracker::{Firecracker, FirecrackerVm},
    hypervisor::{Hypervisor, Slot},
    runtime::{AgentTransport, Runtime},
    session::Session,
};
use hearth_schemas::guest::messages::User;

use super::{Rig, bare, identity, run_as, wake};

/// Bytes that a guest says at once: more than its port and its driver hold. Each of them ends an instruction of the guest.
const SAID_BYTES: usize = 16_384;

async fn restored(firecracker: &Firecracker, slot: &Slot, nth: u32) -> (FirecrackerVm, Session) {
    let restored = firecracker.restore(slot, &identity(nth)).await.unwrap();
    let session = wake(firecracker, &restored.vm, nth).await;
    println!("{}: {:?} {:?}", slot.runtime, firecracker.transport(&restored.vm), restored.steps);
    (restored.vm, session)
}

/// What a script printed that is longer than any buffer.
async fn much(session: &Session) {
    let script =
        format!("head -c {SAID_BYTES} /dev/zero | tr '\\0' x; head -c 4096 /dev/urandom | sha256sum >&2");
    let said = run_as(session, User::Job, &script).await.unwrap();
    assert!(said.len() == SAID_BYTES && said.bytes().all(|byte| byte == b'x'), "{} bytes", said.len());
}

/// An older snapshot: it has no vsock device, and its manifest says so.
#[tokio::test]
async fn a_legacy_snapshot_serves_over_the_serial_port_and_clones_do_not_hear_each_other() {
    let Some(rig) = Rig::start().await else { return };
    let runtime =
        Runtime { name: "legacy".to_owned(), transport: AgentTransport::Serial, ..rig.runtime.clone() };
    rig.bake_as(&runtime, &rig.image, None).await;
    let firecracker = rig.firecracker();
    let slots = [0, 1].map(|number| Slot { runtime: runtime.name.clone(), number });
    let (first, one) = restored(&firecracker, &slots[0], 0).await;
    let (second, two) = restored(&firecracker, &slots[1], 1).await;
    assert_eq!(firecracker.transport(&first), "serial");
    assert!(firecracker.listen(&first, 9000).is_err(), "a serial port carries one session");
    let (names, ()) = tokio::join!(
        async { [run_as(&one, User::Job, "hostname").await, run_as(&two, User::Job, "hostname").await] },
        much(&two)
    );
    assert_eq!(names.map(Result::unwrap), ["clone-0\n", "clone-1\n"]);
    // Its kernel says nothing there.
    assert!(run_as(&one, User::Job, "cat /proc/consoles").await.is_ok_and(|said| !said.contains("ttyS0")));
    drop((one, two));
    firecracker.destroy(&slots[0], Some(first)).await.unwrap();
    firecracker.destroy(&slots[1], Some(second)).await.unwrap();
    rig.nothing_is_left();
}

#[tokio::test]
async fn a_guest_without_vsock_is_reached_over_its_serial_port_where_its_snapshot_allows_that() {
    let Some(rig) = Rig::start().await else { return };
    let bare = bare::without_vsock(&rig.image, &rig.config.data_dir);
    let firecracker = rig.firecracker();
    for (name, image, transport) in [("either", &rig.image, "hybrid_vsock"), ("without", &bare, "serial")] {
        let runtime = Runtime {
            name: name.to_owned(),
            transport: AgentTransport::VsockOrSerial,
            ..rig.runtime.clone()
        };
        rig.bake_as(&runtime, image, None).await;
        let slot = Slot { runtime: runtime.name, number: 0 };
        let (vm, session) = restored(&firecracker, &slot, 0).await;
        assert_eq!(firecracker.transport(&vm), transport, "{name}");
        much(&session).await;
        drop(session);
        firecracker.destroy(&slot, Some(vm)).await.unwrap();
    }
    rig.nothing_is_left();
}
