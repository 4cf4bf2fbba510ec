//! What processes that play VMs have on their host.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sha2::{Digest, Sha256};
use tokio::{task::JoinHandle, time::sleep};

/// What the cgroups of VMs begin with.
const PREFIX: &str = "hearth-process";
/// Characters of a run directory's digest in those names.
const DIGEST_CHARACTERS: usize = 12;

/// There are no cgroups to put VMs into.
#[derive(Debug, thiserror::Error)]
#[error("no cgroup v2 hierarchy that this process may write")]
pub struct NoCgroups(#[source] pub io::Error);

/// This process's own cgroup, in the first hierarchy of version 2, if it may make others in it.
pub fn cgroups() -> Result<PathBuf, NoCgroups> {
    let found = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let place = own_cgroup(&mounts, &own).ok_or(io::ErrorKind::NotFound)?;
        rustix::fs::access(&place, rustix::fs::Access::WRITE_OK)?;
        Ok(place)
    };
    found().map_err(NoCgroups)
}

fn own_cgroup(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = mountinfo.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let of_version_2 = rest.split_whitespace().next() == Some("cgroup2");
        of_version_2.then(|| fields.split_whitespace().nth(4)).flatten()
    })?;
    Some(Path::new(mount).join(own))
}

/// The cgroup of one VM. Workers of one run directory are told from those of others.
pub(super) fn cgroup_name(run_dir: &Path, unique: &str) -> String {
    format!("{}{unique}", prefix(run_dir))
}

fn prefix(run_dir: &Path) -> String {
    let digest = Sha256::digest(run_dir.as_os_str().as_encoded_bytes());
    let digest: String =
        digest.iter().map(|byte| format!("{byte:02x}")).take(DIGEST_CHARACTERS / 2).collect();
    format!("{PREFIX}-{digest}-")
}

/// The cgroups that are left of the VMs of a run directory.
pub fn left_of(cgroups: &Path, run_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = prefix(run_dir);
    let mut left = Vec::new();
    for entry in fs::read_dir(cgroups)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            left.push(entry.path());
        }
    }
    Ok(left)
}

/// A process's end by chance. Called off when dropped.
#[derive(Debug)]
pub(super) struct Doom(JoinHandle<()>);

impl Doom {
    /// Of a process that was just started, and has not been waited for.
    pub(super) fn of(pid: u32, after: Duration) -> Self {
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let process: Option<OwnedFd> = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self(tokio::spawn(async move {
            sleep(after).await;
            if let Some(process) = process {
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
        }))
    }
}

impl Drop for Doom {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_in_a_mixed_hierarchy() {
        let mounts = "32 30 0:28 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n\
                      40 30 0:40 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(own_cgroup(mounts, "4:memory:/x\n0::/a\n"), Some("/sys/fs/cgroup/unified/a".into()));
        assert_eq!(own_cgroup(mounts, "4:memory:/x\n"), None);
    }

    #[test]
    fn run_directories_do_not_share_names() {
        assert_ne!(prefix(Path::new("/a")), prefix(Path::new("/b")));
        assert!(cgroup_name(Path::new("/a"), "x-1-2").starts_with(&prefix(Path::new("/a"))));
    }
}
