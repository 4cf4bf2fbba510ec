//! Limits of devices, which come after the load of a snapshot that has none.

use std::{sync::Arc, time::Duration};

use hearth_pool::{
    firecracker::{Firecracker, FirecrackerConfig},
    hypervisor::{Hypervisor, Slot},
    net::{Networks, Policy, with_card},
    rates::Rates,
};
use hearth_schemas::guest::messages::User;
use tokio::time::Instant;

use super::{Rig, identity, run_with, slot, wake};
use crate::world::{self, World};

/// What a disk writes, and what it may a second.
const DISK: (u64, u64) = (12 << 20, 1 << 20);
/// What a card carries each way, and what it may a second.
const CARD: (u64, u64) = (320 << 10, 64 << 10);

fn limited(rig: &Rig, rates: Rates) -> Firecracker {
    let config = FirecrackerConfig { rates, ..rig.config.clone() };
    Firecracker::new(config, rig.here.clone(), rig.guard.clone())
}

/// Half the time that so many bytes take at so many a second, after a second's worth: Firecracker's bucket lets an operation
/// through that is larger than what is left in it.
fn least((bytes, per_second): (u64, u64)) -> Duration {
    Duration::from_secs_f64((bytes - per_second) as f64 / per_second as f64 / 2.0)
}

async fn time_of(firecracker: &Firecracker, slot: &Slot, nth: u32, script: &str) -> Duration {
    let restored = firecracker.restore(slot, &identity(nth)).await.unwrap();
    let session = wake(firecracker, &restored.vm, nth).await;
    if let Some(network) = firecracker.network(&restored.vm) {
        let mut policy = Policy::default();
        policy.add("93.184.216.34:80").unwrap();
        network.allow(policy).await.unwrap();
    }
    let begun = Instant::now();
    run_with(&session, User::Job, true, script).await.unwrap();
    let took = begun.elapsed();
    drop(session);
    firecracker.destroy(slot, Some(restored.vm)).await.unwrap();
    took
}

#[tokio::test]
async fn a_disk_is_no_faster_than_its_limit() {
    let Some(rig) = Rig::start().await else { return };
    let script = format!("dd if=/dev/zero of=/work/f bs=64k count={} conv=fsync", DISK.0 >> 16);
    let rates = Rates { disk_bytes: Some(DISK.1), ..Rates::default() };
    let free = time_of(&limited(&rig, Rates::default()), &slot(0), 0, &script).await;
    let held = time_of(&limited(&rig, rates), &slot(0), 1, &script).await;
    println!("{} KiB to a disk: {free:?}, at {} KiB/s {held:?}", DISK.0 >> 10, DISK.1 >> 10);
    // The limit is there and it is what holds.
    assert!(held >= least(DISK) && free < held, "{free:?} {held:?}");
    rig.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_is_no_faster_than_its_limit() {
    let Some(rig) = Rig::start().await else { return };
    if !world::usable() {
        return;
    }
    let world = World::make(&["93.184.216.34"], &[80]).await;
    let networks = Arc::new(Networks::open(world.config(), world.host.clone()).await.unwrap());
    rig.bake_with_card(&networks.take().await.unwrap()).await;
    let slot = Slot { runtime: with_card("bash"), number: 0 };
    let script = format!(
        "exec 3<>/dev/tcp/93.184.216.34/80; head -c {} /dev/zero >&3 & head -c {} <&3 | wc -c",
        CARD.0, CARD.0
    );
    let rates = Rates { network_bytes: Some(CARD.1), ..Rates::default() };
    let [free, held] = [Rates::default(), rates]
        .map(|rates| limited(&rig, rates).with_networks(Some(Arc::clone(&networks))));
    let free = time_of(&free, &slot, 0, &script).await;
    let held = time_of(&held, &slot, 1, &script).await;
    println!("{} KiB there and back: {free:?}, at {} KiB/s {held:?}", CARD.0 >> 10, CARD.1 >> 10);
    assert!(held >= least(CARD) && free < held, "{free:?} {held:?}");
    rig.nothing_is_left();
}
