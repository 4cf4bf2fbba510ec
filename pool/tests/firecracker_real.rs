//! Real Firecracker VMs: bake, restore, clones, failures. Run by `make test-firecracker`, which gives them a machine with a
//! true /dev/kvm; anywhere else they say that they were skipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may"
)]

mod real;
mod world;

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use futures_util::future::join_all;
use hearth_pool::{
    hypervisor::{Accept, Hypervisor, RestoreError, Slot},
    net::{Networks, Policy, with_card},
    reclaim::reclaim,
    snapshot::Baked,
};
use hearth_schemas::guest::messages::User;
use real::{Rig, Worker, connect, identity, kill, run_as, run_with, slot, table, until, vmms, wake};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use world::World;

const CLONES: u32 = 10;
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_bake_with_nothing_changed_does_nothing() {
    let Some(rig) = Rig::start().await else { return };
    let Baked::Unchanged(directory) = rig.bake().await else { panic!("it was baked already") };
    for entry in fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.metadata().unwrap().permissions().readonly(), "{:?}", entry.path());
    }
    rig.nothing_is_left();
}

#[tokio::test]
async fn ten_clones_at_once_are_machines_of_their_own() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    let restored = join_all((0..CLONES).map(|n| {
        let firecracker = &firecracker;
        async move { firecracker.restore(&slot(n), &identity(n)).await.unwrap() }
    }))
    .await;
    println!("{}", table(&restored));

    let seen = join_all(restored.iter().zip(0..).map(|(restored, n)| {
        let firecracker = &firecracker;
        async move {
            let session = wake(firecracker, &restored.vm, n).await;
            let script = "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1; hostname; date +%s";
            run_as(&session, User::Job, script).await.unwrap()
        }
    }))
    .await;
    for part in 0..3 {
        let different: BTreeSet<_> = seen.iter().map(|said| said.lines().nth(part).unwrap()).collect();
        assert_eq!(different.len(), CLONES as usize, "line {part} of {seen:#?}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for said in &seen {
        let clock: u64 = said.lines().nth(3).unwrap().parse().unwrap();
        assert!(now.abs_diff(clock) <= 60, "{clock} is not {now}");
    }
    for (restored, n) in restored.into_iter().zip(0..) {
        firecracker.destroy(&slot(n), Some(restored.vm)).await.unwrap();
    }
    rig.nothing_is_left();
}

/// What is the same in every clone is in the snapshot: no wake mounts it.
#[tokio::test]
async fn a_clone_has_its_scratch_disk_before_its_wake_and_a_name_only_after() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    let restored = firecracker.restore(&slot(0), &identity(0)).await.unwrap();
    let session = connect(&firecracker, &restored.vm).await;
    let script =
        "grep -c -e ' /work ext4' -e ' /tmp ext4' /proc/mounts; ls -A /work /tmp; cat /etc/machine-id";
    let before = run_as(&session, User::Root, script).await.unwrap();
    assert_eq!(before, "2\n/tmp:\n\n/work:\n", "both mounted, nothing in them, no id");
    drop(session);
    let session = wake(&firecracker, &restored.vm, 0).await;
    let after = run_as(&session, User::Job, "cat /etc/machine-id /etc/hostname").await.unwrap();
    let (id, name) = after.split_once('\n').unwrap();
    assert!(id.len() == 32 && name == "clone-0\n", "{after}");
    firecracker.destroy(&slot(0), Some(restored.vm)).await.unwrap();
    rig.nothing_is_left();
}

#[tokio::test]
async fn a_guest_reaches_the_host_on_its_own_port_only() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    let restored = firecracker.restore(&slot(0), &identity(0)).await.unwrap();
    let mut listener = firecracker.listen(&restored.vm, 9000).unwrap();
    // Root may run commands until the wake, and jobs may not open such sockets.
    let session = connect(&firecracker, &restored.vm).await;
    let dial = |port: u16| {
        format!(
            "perl -e 'socket(my $s, 40, 1, 0) or die; connect($s, pack(\"SSLLL\", 40, 0, {port}, 2, 0)) or die; \
             syswrite($s, \"hello\"); sysread($s, my $said, 5); print $said'"
        )
    };
    let answer = async {
        let mut ours = listener.accept().await.unwrap();
        let mut heard = [0; 5];
        ours.read_exact(&mut heard).await.unwrap();
        ours.write_all(b"world").await.unwrap();
        heard
    };
    let ours = dial(9000);
    let (heard, said) = tokio::join!(answer, run_as(&session, User::Root, &ours));
    assert_eq!((&heard, said.unwrap().as_str()), (b"hello", "world"));
    assert!(run_as(&session, User::Root, &dial(9001)).await.is_err(), "nobody listens there");
    firecracker.destroy(&slot(0), Some(restored.vm)).await.unwrap();
    rig.nothing_is_left();
}

#[tokio::test]
async fn a_vmm_that_dies_is_noticed_and_cleared() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    let restored = firecracker.restore(&slot(0), &identity(0)).await.unwrap();
    let session = wake(&firecracker, &restored.vm, 0).await;
    let killed = async {
        rig.kill_vmm();
        timeout(LIMIT, firecracker.exited(&restored.vm)).await.unwrap();
    };
    let ((), said) = tokio::join!(killed, timeout(LIMIT, run_as(&session, User::Job, "sleep 600")));
    assert!(said.unwrap().is_err(), "the command did not end by itself");
    firecracker.destroy(&slot(0), Some(restored.vm)).await.unwrap();
    rig.nothing_is_left();
    // The same slot, the next lease.
    let restored = firecracker.restore(&slot(0), &identity(1)).await.unwrap();
    wake(&firecracker, &restored.vm, 1).await;
    firecracker.destroy(&slot(0), Some(restored.vm)).await.unwrap();
}

#[tokio::test]
async fn a_killed_worker_leaves_nothing() {
    let Some(rig) = Rig::start().await else { return };
    let mut worker = Worker::start(rig.run_dir()).await;
    assert!(!rig.left().is_empty() && !vmms().is_empty());
    worker.kill().await;
    until(LIMIT, "the guard cleared up", || rig.left().is_empty() && vmms().is_empty()).await;
}

/// A jailed process changed its user and is not told when its parent dies.
#[tokio::test]
async fn a_killed_guard_takes_its_vms_along_and_reclaim_the_rest() {
    let Some(rig) = Rig::start().await else { return };
    let mut worker = Worker::start(rig.run_dir()).await;
    kill(worker.guard);
    worker.kill().await;
    until(LIMIT, "no Firecracker outlives both", || vmms().is_empty()).await;
    assert!(!rig.left().is_empty(), "nobody has cleared up");
    let run_dir = rig.run_dir().to_owned();
    let reclaimed = tokio::task::spawn_blocking(move || reclaim(&run_dir)).await.unwrap().unwrap();
    assert_eq!((reclaimed.directories, reclaimed.failed), (1, 0), "{reclaimed:?}");
    rig.nothing_is_left();
}

#[tokio::test]
async fn a_cancelled_restore_is_cleared_without_its_vm() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    for cut_ms in [0, 1, 5, 20, 50, 100] {
        let (slot, identity) = (slot(0), identity(cut_ms));
        let _ = timeout(Duration::from_millis(cut_ms.into()), firecracker.restore(&slot, &identity)).await;
        firecracker.destroy(&slot, None).await.unwrap();
        rig.nothing_is_left();
    }
}

/// Seen in BandSox: `Address in use`, from a socket file of an earlier VM. The first half shows Firecracker's own answer.
#[tokio::test]
async fn a_stale_vsock_socket_cannot_be_in_the_way() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    let why = rig.load_beside_a_stale_socket().await;
    assert!(why.contains("Address in use") || why.contains("Address already in use"), "{why}");
    // Here a directory is never used twice, and a used one is refused.
    let first = firecracker.restore(&slot(0), &identity(0)).await.unwrap();
    firecracker.destroy(&slot(0), Some(first.vm)).await.unwrap();
    let second = firecracker.restore(&slot(0), &identity(0)).await.unwrap();
    firecracker.destroy(&slot(0), Some(second.vm)).await.unwrap();
    rig.nothing_is_left();
}

#[tokio::test]
async fn a_snapshot_of_another_release_is_refused_with_what_to_do() {
    let Some(rig) = Rig::start().await else { return };
    let mut here = rig.here.clone();
    here.hypervisor_version = "1.99.0".to_owned();
    let firecracker = rig.firecracker_at(here);
    let Err(RestoreError::Snapshot(why)) = firecracker.restore(&slot(0), &identity(0)).await else {
        panic!("it was restored")
    };
    assert!(why.contains("Firecracker") && why.ends_with("run `hearth bake bash`"), "{why}");
    firecracker.destroy(&slot(0), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_with_a_card_reaches_what_is_allowed_and_nothing_else() {
    let Some(rig) = Rig::start().await else { return };
    if !world::usable() {
        return;
    }
    let world = World::make(&["93.184.216.34", "169.254.169.254"], &[80, 81]).await;
    world.name("api.example.com", &["93.184.216.34"], 60);
    let networks = Arc::new(Networks::open(world.config(), world.host.clone()).await.unwrap());
    rig.bake_with_card(&networks.take().await.unwrap()).await;
    // The snapshot remembers the bake's TAP, and none of this name is anywhere.
    let why = rig.load_without_tap().await;
    assert!(why.contains("TUN/TAP"), "{why}");

    let firecracker = rig.firecracker().with_networks(Some(networks));
    let slot = Slot { runtime: with_card("bash"), number: 0 };
    let restored = firecracker.restore(&slot, &identity(0)).await.unwrap();
    println!("{:?}", restored.steps);
    let network = Arc::clone(firecracker.network(&restored.vm).unwrap());
    let tap = network.tap().to_owned();
    let session = wake(&firecracker, &restored.vm, 0).await;
    let reach =
        "for to in 93.184.216.34/80 api.example.com/81 93.184.216.34/81 169.254.169.254/80 93.184.0.1/80; do
        if (exec 3<>/dev/tcp/$to && echo hi >&3 && read -t 60 line <&3 && [ \"$line\" = hi ]) 2>/dev/null
        then echo reached; else echo not; fi; done | paste -sd' '";
    assert_eq!(run_with(&session, User::Job, true, reach).await.unwrap(), "not not not not not\n");
    let mut policy = Policy::default();
    policy.add("93.184.216.34:80").unwrap();
    policy.add("api.example.com:81").unwrap();
    network.allow(policy).await.unwrap();
    // What is resolved on the way is allowed from then on, on its own port.
    assert_eq!(
        run_with(&session, User::Job, true, reach).await.unwrap(),
        "reached reached reached not not\n"
    );
    let no_ip =
        run_as(&session, User::Job, "(exec 3<>/dev/tcp/93.184.216.34/80) 2>/dev/null || echo no").await;
    assert_eq!(no_ip.unwrap(), "no\n", "a command without IP has none");
    drop(session);
    drop(network);
    firecracker.destroy(&slot, Some(restored.vm)).await.unwrap();
    assert!(!world.links().contains(&tap), "removed with its VM");
    rig.nothing_is_left();
}
