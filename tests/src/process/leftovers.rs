//! What workers must not leave behind.

#![allow(clippy::disallowed_types, reason = "real processes end by real time")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hearth_pool::fakes::process::left_of;

use crate::real::Leftovers;

/// What is left of the VMs of one run directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Processes and files.
    pub host: Leftovers,
    /// Cgroups.
    pub cgroups: Vec<PathBuf>,
}

impl Left {
    /// Looks now.
    pub fn of(run_dir: &Path, cgroups: &Path) -> Self {
        Self { host: Leftovers::of(run_dir), cgroups: left_of(cgroups, run_dir).unwrap_or_default() }
    }

    /// Looks until nothing is left or the time is over; what is left then.
    pub fn within(run_dir: &Path, cgroups: &Path, limit: Duration) -> Self {
        let deadline = Instant::now() + limit;
        loop {
            let left = Self::of(run_dir, cgroups);
            if left == Self::default() || Instant::now() >= deadline {
                return left;
            }
            std::thread::yield_now();
        }
    }
}
