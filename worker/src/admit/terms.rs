//! What intake knows when it admits a job.

use std::{collections::BTreeMap, net::SocketAddrV4};

use hearth_schemas::manifest::{Entry, Manifest};
use ipnet::Ipv4Net;

use super::objects::ObjectTerms;

/// Under which terms jobs are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The runtimes that are offered, by name; those with a network card by [`hearth_pool::net::with_card`] of it.
    pub runtimes: BTreeMap<String, Offer>,
    /// Defaults and bounds of the limits.
    pub limits: LimitTerms,
    /// Wall time of all stages together, at most: less than the broker's consumer timeout.
    pub job_wall_max_ms: u64,
    /// Default and bound of `deadline_ms`.
    pub deadline_ms: Bound,
    /// Which objects jobs may name.
    pub objects: ObjectTerms,
    /// What jobs may reach.
    pub network: NetworkTerms,
}

/// What jobs may reach beyond the internet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkTerms {
    /// Private ranges that a job may name.
    pub private: Vec<Ipv4Net>,
    /// Addresses of the worker's host, each with a TCP port, that jobs may name.
    pub host: Vec<SocketAddrV4>,
}

impl Terms {
    /// The operator's defaults over these runtimes.
    pub fn new(runtimes: BTreeMap<String, Offer>) -> Self {
        Terms {
            runtimes,
            limits: LimitTerms::default(),
            job_wall_max_ms: 20 * 60 * 1000,
            deadline_ms: Bound { default: 60 * 60 * 1000, max: 24 * 60 * 60 * 1000 },
            objects: ObjectTerms::default(),
            network: NetworkTerms::default(),
        }
    }
}

/// What one runtime offers to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Memory of its VM in MiB, the agent's reserve included.
    pub vm_memory_mib: u64,
    /// Size of its scratch disk in MiB.
    pub scratch_mib: u64,
    /// How it runs `code`.
    pub entry: Entry,
    /// How it runs `code` of other languages, by name.
    pub languages: BTreeMap<String, Entry>,
}

impl From<&Manifest> for Offer {
    fn from(manifest: &Manifest) -> Self {
        Offer {
            vm_memory_mib: manifest.machine.vm_memory_mib,
            scratch_mib: manifest.machine.scratch_mib,
            entry: manifest.entry.clone(),
            languages: manifest.languages.clone(),
        }
    }
}

/// A limit that has a default: allowed is 1 to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// When the job does not say.
    pub default: u64,
    /// The most it may say.
    pub max: u64,
}

/// Defaults and bounds of the limits, beside what a runtime's VM bounds by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitTerms {
    /// Wall time of a stage.
    pub wall_ms: Bound,
    /// CPU time of a stage, at most; the default is its wall time.
    pub cpu_max_ms: u64,
    /// Bytes of each output stream.
    pub output_kib: Bound,
    /// Processes and threads.
    pub processes: Bound,
    /// Disk when the job does not say; at most the runtime's whole scratch disk.
    pub disk_default_mib: u64,
    /// Files and directories.
    pub files: Bound,
}

impl Default for LimitTerms {
    fn default() -> Self {
        LimitTerms {
            wall_ms: Bound { default: 10_000, max: 600_000 },
            cpu_max_ms: 600_000,
            output_kib: Bound { default: 1024, max: 65_536 },
            processes: Bound { default: 64, max: 1024 },
            disk_default_mib: 256,
            files: Bound { default: 1024, max: 65_536 },
        }
    }
}

/// Who sent a request, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer<'a> {
    /// The job's id when the request has none: the message's id, or a new one.
    pub fallback_id: &'a str,
    /// On whose behalf the producer speaks.
    pub tenant: &'a str,
    /// Whether its requests may name another tenant.
    pub may_name_tenant: bool,
}
