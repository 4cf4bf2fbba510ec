//! Firecracker that was started and has no guest yet.

use std::{fs, sync::Arc, time::Duration};

use hearth_pool::{
    firecracker::{BakeRequest, bake_snapshot},
    hypervisor::{Hypervisor, RestoreError, Slot},
    net::{Networks, Policy, with_card},
    scale::gate::DORMANT_MIB,
};
use hearth_schemas::guest::messages::User;
use tokio::time::timeout;

use super::{LIMIT, Print, Rig, identity, run_as, run_with, slot, until, vmms, wake};
use crate::world::{self, World};

/// Memory that is a process' own or that of what it maps, in KiB.
fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The TAP in a process' network namespace: what its link is called on the host, too.
fn link_of(pid: i32) -> String {
    let devices = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let names = devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    names.filter(|name| name.starts_with("hth")).map(str::to_owned).next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dormant_firecracker_takes_little_and_becomes_a_vm() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    assert!(firecracker.starts_ahead());
    let dormant = firecracker.start(&slot(0), &identity(0)).await.unwrap();
    let vmm = vmms()[0];
    let kib = resident_kib(vmm);
    println!("a dormant Firecracker: {kib} KiB");
    assert!(kib < DORMANT_MIB * 1024, "{kib} KiB");
    assert_eq!(firecracker.dormant_from(&dormant), firecracker.current("bash").as_deref());
    // The CID is taken from the start.
    let busy = firecracker.start(&slot(1), &identity(0)).await.unwrap_err();
    assert!(matches!(busy, RestoreError::IdentityBusy { cid: 3 }), "{busy}");

    let restored = firecracker.load(dormant).await.unwrap();
    assert_eq!(vmms(), [vmm], "the same process");
    let steps: Vec<_> = restored.steps.iter().map(|step| step.name).collect();
    assert!(steps.starts_with(&["load", "resume"]), "{steps:?}");
    let session = wake(&firecracker, &restored.vm, 0).await;
    assert_eq!(run_as(&session, User::Job, "echo hello; hostname").await.unwrap(), "hello\nclone-0\n");
    firecracker.destroy(&slot(0), Some(restored.vm)).await.unwrap();
    rig.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dormant_firecracker_that_ends_is_noticed_and_cleared() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    let dormant = firecracker.start(&slot(0), &identity(0)).await.unwrap();
    let mut noticed = Box::pin(firecracker.dormant_exited(&dormant));
    assert!(timeout(Duration::from_millis(100), &mut noticed).await.is_err(), "it lives");
    rig.kill_vmm();
    timeout(LIMIT, &mut noticed).await.unwrap();
    drop(noticed);
    let Err(RestoreError::Vmm(why)) = firecracker.load(dormant).await else { panic!("nobody is there") };
    assert!(why.contains("process"), "{why}");
    firecracker.destroy(&slot(0), None).await.unwrap();
    rig.nothing_is_left();
    // The same slot and identity again.
    let dormant = firecracker.start(&slot(0), &identity(0)).await.unwrap();
    firecracker.load(dormant).await.unwrap();
    firecracker.destroy(&slot(0), None).await.unwrap();
    rig.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dormant_firecracker_that_is_not_wanted_leaves_nothing_whenever_it_goes() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    // Asleep, several at once.
    for nth in 0..3 {
        drop(firecracker.start(&slot(nth), &identity(nth)).await.unwrap());
    }
    assert_eq!(vmms().len(), 3);
    for nth in 0..3 {
        firecracker.destroy(&slot(nth), None).await.unwrap();
    }
    rig.nothing_is_left();
    // While it is started, and while it is loaded.
    for cut_ms in [0, 1, 5, 20, 50, 100] {
        let (slot, identity, cut) = (slot(0), identity(cut_ms), Duration::from_millis(cut_ms.into()));
        let _ = timeout(cut, firecracker.start(&slot, &identity)).await;
        firecracker.destroy(&slot, None).await.unwrap();
        rig.nothing_is_left();
        let dormant = firecracker.start(&slot, &identity).await.unwrap();
        let _ = timeout(cut, firecracker.load(dormant)).await;
        firecracker.destroy(&slot, None).await.unwrap();
        rig.nothing_is_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dormant_firecracker_knows_that_its_snapshot_was_replaced_and_still_has_it() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    let dormant = firecracker.start(&slot(0), &identity(0)).await.unwrap();
    let Rig { config, guard, here, runtime, image, .. } = &rig;
    let again = BakeRequest { config, guard, here, runtime, image, network: None, again: true };
    bake_snapshot(&again, &Print).await.unwrap();
    let from = firecracker.dormant_from(&dormant).unwrap().to_owned();
    assert_ne!(Some(&from), firecracker.current("bash").as_ref());
    // Its turn may come in the very moment.
    let restored = firecracker.load(dormant).await.unwrap();
    assert_eq!(firecracker.came_from(&restored.vm), Some(from.as_str()));
    wake(&firecracker, &restored.vm, 0).await;
    firecracker.destroy(&slot(0), Some(restored.vm)).await.unwrap();
    rig.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_of_a_dormant_firecracker_goes_with_it_or_becomes_the_vms() {
    let Some(rig) = Rig::start().await else { return };
    if !world::usable() {
        return;
    }
    let world = World::make(&["93.184.216.34"], &[80]).await;
    let networks = Arc::new(Networks::open(world.config(), world.host.clone()).await.unwrap());
    rig.bake_with_card(&networks.take().await.unwrap()).await;
    let firecracker = rig.firecracker().with_networks(Some(networks));
    let slot = Slot { runtime: with_card("bash"), number: 0 };
    let dormant = firecracker.start(&slot, &identity(0)).await.unwrap();
    let link = link_of(vmms()[0]);
    assert!(world.links().contains(&link), "{link}");
    drop(dormant);
    firecracker.destroy(&slot, None).await.unwrap();
    until(LIMIT, "its link is gone", || !world.links().contains(&link)).await;
    rig.nothing_is_left();

    let dormant = firecracker.start(&slot, &identity(1)).await.unwrap();
    let link = link_of(vmms()[0]);
    let restored = firecracker.load(dormant).await.unwrap();
    let network = Arc::clone(firecracker.network(&restored.vm).unwrap());
    assert_eq!(network.tap(), link);
    let session = wake(&firecracker, &restored.vm, 1).await;
    let mut policy = Policy::default();
    policy.add("93.184.216.34:80").unwrap();
    network.allow(policy).await.unwrap();
    let reach = "exec 3<>/dev/tcp/93.184.216.34/80 && echo hi >&3 && read -t 60 line <&3 && echo \"$line\"";
    assert_eq!(run_with(&session, User::Job, true, reach).await.unwrap(), "hi\n");
    drop((session, network));
    firecracker.destroy(&slot, Some(restored.vm)).await.unwrap();
    assert!(!world.links().contains(&link), "removed with its VM");
    rig.nothing_is_left();
}
