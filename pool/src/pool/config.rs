//! What a pool is told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{backoff::Backoff, events::Event};
use crate::{
    scale::{
        gate::{Cost, Limits},
        lanes::LaneRules,
        scaler::{Policy, Rule},
    },
    session::Command,
};

/// Hears of everything that metrics and tests want to know. Called where it happens: it must be quick.
pub type Observer = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// What a pool is told.
#[derive(Clone)]
pub struct Config {
    /// The runtimes and how many slots each has.
    pub runtimes: Vec<RuntimeSlots>,
    /// What else bounds a runtime, by name; those without are bounded by their slots alone.
    pub bounds: BTreeMap<String, Bounds>,
    /// How many VMs are warm follows the load; `None` keeps every slot filled.
    pub scaling: Option<Policy>,
    /// Memory of all VMs together, in MiB: reserved before a restore, free when the VM is destroyed.
    pub memory_mib: Option<u64>,
    /// Processors of all VMs together, in thousandths.
    pub cpu_milli: Option<u64>,
    /// VMs that are being restored or greeted at once. More than the host has processors makes all of them late.
    pub restores_at_once: usize,
    /// Restores a second that no claim waits for.
    pub refills_per_second: Option<f64>,
    /// Whether restores begin one at a time and double with each round that succeeds.
    pub gentle: bool,
    /// Who is served first.
    pub lanes: LaneRules,
    /// A VM that nobody claimed is replaced when it is this old, up to a tenth earlier so that VMs restored
    /// together do not all go together.
    pub max_age: Duration,
    /// A lease is at risk this long before it expires; its VM is destroyed in that time.
    pub lease_margin: Duration,
    /// Between tries to lease and restore.
    pub refill_backoff: Backoff,
    /// Between tries to destroy.
    pub quarantine_backoff: Backoff,
    /// The bound of each step.
    pub limits: StepLimits,
    /// For jitter; `None` takes one from the OS.
    pub seed: Option<u64>,
    /// Who hears of events.
    pub observer: Option<Observer>,
}

/// One runtime's share of the pool.
#[derive(Clone, Debug)]
pub struct RuntimeSlots {
    /// The runtime.
    pub name: String,
    /// VMs at once.
    pub slots: u32,
    /// Run once in each VM after its wake, before anybody may claim it; must exit with 0. With TCG the first
    /// command after a restore takes about a second more than the next.
    pub warm_up: Option<Command>,
}

/// What bounds a runtime beside its slots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    /// VMs that are kept warm at least, where scaling would keep fewer.
    pub floor: u32,
    /// What one VM takes.
    pub cost: Cost,
    /// VMMs without a guest that are kept beside the warm VMs, in slots that are left over. Where the hypervisor cannot start them
    /// ahead, none.
    pub dormant: u32,
}

/// Bounds of the pool's own steps. None is reached on a healthy host, however loaded.
#[derive(Clone, Copy, Debug)]
pub struct StepLimits {
    /// Getting a lease.
    pub acquire: Duration,
    /// Renewing all leases.
    pub renew: Duration,
    /// Giving a lease back.
    pub release: Duration,
    /// Restoring a VM.
    pub restore: Duration,
    /// Reaching its agent.
    pub dial: Duration,
    /// The hello.
    pub hello: Duration,
    /// The wake.
    pub wake: Duration,
    /// The warm-up command.
    pub warm_up: Duration,
    /// Destroying a VM; less than the lease's margin, in which it is done when the lease is at risk.
    pub destroy: Duration,
    /// Closing the pool once its grace is over.
    pub close: Duration,
}

/// The defaults of [`Config`].
pub const LEASE_MARGIN: Duration = Duration::from_secs(10);
/// See [`LEASE_MARGIN`].
pub const MAX_AGE: Duration = Duration::from_secs(30 * 60);

const DESTROY_LIMIT: Duration = Duration::from_secs(8);
const _: () = assert!(DESTROY_LIMIT.as_secs() < LEASE_MARGIN.as_secs(), "a VM dies before its lease expires");
const _: () =
    assert!(2 * LEASE_MARGIN.as_secs() < crate::lease::local::TTL.as_secs(), "most of a lease is not margin");

impl Default for StepLimits {
    fn default() -> Self {
        Self {
            acquire: Duration::from_secs(5),
            renew: Duration::from_secs(5),
            release: Duration::from_secs(5),
            restore: Duration::from_secs(60),
            dial: Duration::from_secs(30),
            hello: Duration::from_secs(10),
            wake: Duration::from_secs(15),
            warm_up: Duration::from_secs(60),
            destroy: DESTROY_LIMIT,
            close: Duration::from_secs(20),
        }
    }
}

impl Config {
    /// The defaults for some runtimes.
    pub fn new(runtimes: Vec<RuntimeSlots>) -> Self {
        Self {
            runtimes,
            bounds: BTreeMap::new(),
            scaling: None,
            memory_mib: None,
            cpu_milli: None,
            restores_at_once: 2,
            refills_per_second: None,
            gentle: true,
            lanes: LaneRules::default(),
            max_age: MAX_AGE,
            lease_margin: LEASE_MARGIN,
            refill_backoff: Backoff { first: Duration::from_millis(200), cap: Duration::from_secs(10) },
            quarantine_backoff: Backoff { first: Duration::from_millis(500), cap: Duration::from_secs(30) },
            limits: StepLimits::default(),
            seed: None,
            observer: None,
        }
    }

    /// What bounds all VMs together.
    pub(crate) fn budget(&self) -> Limits {
        Limits {
            restores_at_once: u32::try_from(self.restores_at_once.max(1)).unwrap_or(u32::MAX),
            memory_mib: self.memory_mib,
            cpu_milli: self.cpu_milli,
            refills_per_second: self.refills_per_second,
            gentle: self.gentle,
        }
    }

    /// What bounds a runtime.
    pub(crate) fn rule(&self, runtime: &RuntimeSlots) -> Rule {
        let bounds = self.bounds.get(&runtime.name);
        let (floor, cost) = bounds.map_or((0, Cost::default()), |bounds| (bounds.floor, bounds.cost));
        Rule { floor, ceiling: runtime.slots, cost }
    }
}
