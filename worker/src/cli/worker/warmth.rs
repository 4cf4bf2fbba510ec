//! The pool as the settings want it, and its schedule as the clock moves.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hearth_pool::{
    pool::{Config as PoolConfig, Pool, RuntimeSlots},
    scale::gate::Cost,
    snapshot::Snapshot,
};
use hearth_worker::{
    local::warm_up,
    meters,
    settings::{PoolSettings, Settings},
};

use crate::cli::exit::{Exit, Failure};

/// How often the schedule is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the pool is told, and how many slots that is.
pub fn pool(
    settings: &Settings,
    snapshots: &BTreeMap<String, Snapshot>,
) -> Result<(PoolConfig, u32), Failure> {
    let slots = |(name, snapshot): (&String, &Snapshot)| RuntimeSlots {
        name: name.clone(),
        slots: settings.slots.get(name).copied().unwrap_or(1),
        warm_up: warm_up(&snapshot.manifest),
    };
    let slots: Vec<_> = snapshots.iter().map(slots).collect();
    let total = slots.iter().map(|runtime| runtime.slots).sum();
    let cost = |(name, snapshot): (&String, &Snapshot)| {
        let machine = &snapshot.manifest.machine;
        (name.clone(), Cost { memory_mib: machine.vm_memory_mib, cpu_milli: u64::from(machine.vcpus) * 1000 })
    };
    let mut config = PoolConfig::new(slots);
    let costs = snapshots.iter().map(cost).collect();
    settings.pool.apply(&mut config, &costs).map_err(|error| Failure::new(Exit::Config, error))?;
    config.observer = Some(meters::observer());
    Ok((config, total))
}

/// Keeps warm what the schedule asks for. Returns at once when there is none, else never.
pub async fn follow_schedule(settings: PoolSettings, pool: Pool) {
    if settings.schedule.is_empty() {
        return;
    }
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for prewarm in &settings.schedule {
            let warm = settings.scheduled(&prewarm.runtime, i64::try_from(now).unwrap_or(i64::MAX));
            pool.set_scheduled(&prewarm.runtime, warm);
        }
    }
}
