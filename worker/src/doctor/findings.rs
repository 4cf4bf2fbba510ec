//! What the facts mean: one line each, with what to do about it.

mod host;
mod network;
mod services;
mod worker;

use serde::Serialize;

use super::facts::{Facts, Program, Version};

/// How a capability stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// There and good.
    Ok,
    /// Absent or less than it could be; jobs run without it.
    Warn,
    /// No job can run here until it is mended.
    Fail,
}

impl Level {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One capability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, such as `kvm`; for one runtime's snapshot `snapshot <runtime>`.
    pub name: String,
    /// How it stands.
    pub level: Level,
    /// What was found, in one line.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn new(name: &str, level: Level, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level, detail: detail.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Judges everything, in the order in which one would mend it.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    // What the other hypervisor would need stops no job.
    let by_firecracker = facts.hypervisor.as_ref().is_ok_and(|hypervisor| hypervisor.firecracker);
    let of_qemu = |finding: Finding| match by_firecracker {
        true => Finding { level: finding.level.min(Level::Warn), ..finding },
        false => finding,
    };
    let mut findings = vec![host::hypervisor(&facts.hypervisor)];
    findings.extend(facts.worker.as_ref().map(worker::worker));
    findings.extend([
        host::kvm(&facts.kvm),
        of_qemu(host::qemu(&facts.qemu)),
        of_qemu(host::vsock(&facts.vsock)),
        firecracker("firecracker", &facts.firecracker),
        firecracker("jailer", &facts.jailer),
        host::cgroup(&facts.cgroup),
        host::data_dir(&facts.data_dir),
        host::run_dir(&facts.run_dir, facts.root, &facts.snapshots),
        host::memory(facts.memory_available_mib, &facts.snapshots),
        network::network(&facts.network, facts.root),
        host::bake(&facts.bake),
    ]);
    findings.extend(host::snapshots(&facts.snapshots));
    findings.push(services::broker(&facts.broker));
    findings.push(services::redis(&facts.redis));
    findings
}

/// Whether jobs can run here.
pub fn jobs_can_run(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Fail)
}

/// Restored guests of older ones may find their host port in use and hang (firecracker issue 5688).
const FIRECRACKER_LEAST: Version = Version(1, 15, 0);
/// A guest that it restores can be silent for ever: fixed by pull request 5958 in 1.16.1.
const FIRECRACKER_REFUSED: Version = Version(1, 16, 0);
/// Resuming a VM that was only paused stops vsock for good: issue 6074, fixed in 1.16.2.
const FIRECRACKER_CAREFUL: Version = Version(1, 16, 1);

fn firecracker(name: &'static str, program: &Program) -> Finding {
    let get = "run deploy/install-firecracker.sh, which installs a release of the Firecracker project";
    let (path, version) = match program {
        Program::Missing => {
            return Finding::new(name, Level::Warn, "not found").remedy(get);
        }
        Program::Found { path, version: None } => {
            let detail = format!("{} does not tell its version", path.display());
            return Finding::new(name, Level::Warn, detail).remedy(get);
        }
        Program::Found { path, version: Some(version) } => (path.display(), *version),
    };
    let found = format!("{version} ({path})");
    if version == FIRECRACKER_REFUSED {
        let why = "is refused: vsock of a guest that it restores can stay dead (fixed in 1.16.1)";
        return Finding::new(name, Level::Warn, format!("{found} {why}")).remedy(get);
    }
    if version < FIRECRACKER_LEAST {
        let why =
            format!("is refused: before {FIRECRACKER_LEAST} a restored guest's vsock ports can collide");
        return Finding::new(name, Level::Warn, format!("{found} {why}")).remedy(get);
    }
    if version == FIRECRACKER_CAREFUL {
        let why = "works for jobs; a VM paused and resumed without a snapshot loses its vsock";
        return Finding::new(name, Level::Warn, format!("{found} {why}")).remedy(get);
    }
    Finding::new(name, Level::Ok, found)
}

#[cfg(test)]
#[path = "findings/tests.rs"]
mod tests;
