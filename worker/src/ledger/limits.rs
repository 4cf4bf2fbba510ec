//! How much of a tenant may run, over all workers.

use std::{collections::BTreeMap, time::Duration};

/// How long to wait before asking again for a tenant that runs as many jobs as it may, unless one of them ends.
const RUNNING_PAUSE: Duration = Duration::from_secs(1);

/// What one tenant may do, over all workers together. The default has no limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantLimits {
    /// Jobs held at once.
    pub running_max: Option<u32>,
    /// How fast jobs begin.
    pub starts: Option<Rate>,
}

/// A rate of beginnings. Attempts after the first do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run; at least 1.
    pub per_minute: u32,
    /// So many at once after a rest; at least 1.
    pub burst: u32,
}

impl Rate {
    /// The time from one beginning to the next in the long run.
    pub fn every(&self) -> Duration {
        Duration::from_secs(60) / self.per_minute.max(1)
    }
}

/// The limits of all tenants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Of those without limits of their own.
    pub default: TenantLimits,
    /// Limits of their own.
    pub tenants: BTreeMap<String, TenantLimits>,
}

impl Quotas {
    /// A tenant's limits.
    pub fn of(&self, tenant: &str) -> TenantLimits {
        self.tenants.get(tenant).copied().unwrap_or(self.default)
    }
}

/// Why a tenant's next job does not begin yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// As many of its jobs run as may: so many.
    Running(u32),
    /// Its jobs began as fast as they may.
    Rate {
        /// The next one may begin then.
        free_in: Duration,
    },
}

impl Busy {
    /// When it is worth to ask again, at the latest.
    pub fn again_in(&self) -> Duration {
        match self {
            Self::Running(_) => RUNNING_PAUSE,
            Self::Rate { free_in } => *free_in,
        }
    }
}
