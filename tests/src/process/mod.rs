//! VMs that are processes (`hearth_pool::fakes::process`), for tests and `bench`: what they need of this machine, a pool of
//! them, and a whole worker in a process of its own that can be killed.

#![allow(clippy::disallowed_methods, reason = "the harness is told by the environment what it must not skip")]

mod leftovers;
mod worker;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use hearth_pool::{
    fakes::process::{Chances, ProcessConfig, ProcessHypervisor, cgroups},
    guard::{Guard, GuardCommand},
};
use hearth_schemas::manifest::Entry;
use hearth_worker::admit::Offer;
use tempfile::TempDir;

pub use self::{
    leftovers::Left,
    worker::{Arguments, run, threads},
};

/// The runtime that processes offer.
pub const RUNTIME: &str = "bash";

/// What VMs that are processes need.
#[derive(Clone, Debug)]
pub struct ProcessMachine {
    /// The command that plays a VM.
    pub agent: Vec<String>,
    /// The guard.
    pub guard: GuardCommand,
    /// Where their cgroups go.
    pub cgroups: PathBuf,
}

impl ProcessMachine {
    /// What is here, with these programs, or aloud why there can be no VMs that are processes. Where
    /// `HEARTH_REQUIRE_REAL` is set a lack is a failure instead.
    ///
    /// # Errors
    /// Something is missing where it must not.
    pub fn find(agent: &Path, worker: &Path) -> Result<Option<Self>> {
        match cgroups() {
            Ok(cgroups) => Ok(Some(Self {
                agent: vec![agent.to_string_lossy().into_owned()],
                guard: GuardCommand { program: worker.to_owned(), arguments: vec!["guard".into()] },
                cgroups,
            })),
            Err(lack) if std::env::var_os("HEARTH_REQUIRE_REAL").is_some() => Err(lack.into()),
            Err(lack) => {
                eprintln!("SKIPPED: no processes that play VMs: {lack}");
                Ok(None)
            }
        }
    }

    /// A hypervisor with a guard of its own; its process is the second.
    ///
    /// # Errors
    /// The guard did not start.
    pub async fn hypervisor(
        &self,
        run_dir: &Path,
        worker: &str,
        restore_takes: Duration,
        chances: Option<Chances>,
    ) -> Result<(ProcessHypervisor, u32)> {
        let guard = Guard::start(&self.guard, run_dir, worker).await?;
        let pid = guard.pid();
        let config = ProcessConfig {
            agent: self.agent.clone(),
            run_dir: run_dir.to_owned(),
            cgroups: self.cgroups.clone(),
            worker: worker.to_owned(),
            restore_takes,
            chances,
        };
        Ok((ProcessHypervisor::new(config, guard), pid))
    }
}

/// A run directory in memory, with a path short enough for sockets.
///
/// # Errors
/// It cannot be made.
pub fn run_dir() -> Result<TempDir> {
    tempfile::Builder::new().prefix("hearth-").tempdir_in("/dev/shm").context("a run directory")
}

/// What processes offer to jobs.
pub fn offers() -> BTreeMap<String, Offer> {
    let entry = Entry::new("main.sh", ["bash", "main.sh"]);
    BTreeMap::from([(
        RUNTIME.to_owned(),
        Offer { vm_memory_mib: 256, scratch_mib: 512, entry, languages: BTreeMap::new() },
    )])
}
