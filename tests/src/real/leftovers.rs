//! What a worker must not leave behind.

#![allow(clippy::disallowed_types, reason = "real processes end by real time")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What is left of the VMs of one run directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Processes that run in a VM's directory, or have it in their command line, and are no zombies.
    pub processes: Vec<String>,
    /// Files, sockets and directories of VMs.
    pub files: Vec<PathBuf>,
}

impl Leftovers {
    /// Looks now.
    pub fn of(run_dir: &Path) -> Self {
        Self { processes: processes(run_dir), files: files(run_dir) }
    }

    /// Looks until nothing is left or the time is over; what is left then.
    pub fn within(run_dir: &Path, limit: Duration) -> Self {
        let deadline = Instant::now() + limit;
        loop {
            let left = Self::of(run_dir);
            if left == Self::default() || Instant::now() >= deadline {
                return left;
            }
            std::thread::yield_now();
        }
    }
}

fn processes(run_dir: &Path) -> Vec<String> {
    let run_dir = run_dir.to_string_lossy().into_owned();
    let own = std::process::id().to_string();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let alive = |proc: &Path| {
        let status = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        !matches!(
            status.rsplit(')').next().and_then(|rest| rest.trim().chars().next()),
            None | Some('Z' | 'X')
        )
    };
    let named = |proc: PathBuf| {
        let command = fs::read(proc.join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let cwd = fs::read_link(proc.join("cwd")).unwrap_or_default();
        let ours = proc.file_name().is_some_and(|name| name == own.as_str());
        let named = command.contains(&run_dir) || cwd.starts_with(&run_dir);
        (named && !ours && alive(&proc)).then(|| format!("{}: {command}", proc.display()))
    };
    pids.filter_map(named).collect()
}

/// Everything below `vms`, and every memory and scratch clone.
fn files(run_dir: &Path) -> Vec<PathBuf> {
    ["vms", "memory"]
        .iter()
        .flat_map(|dir| fs::read_dir(run_dir.join(dir)).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .collect()
}
