//! The kernel's file systems, and the working tree that a machine has before its wake.

use std::ffi::CStr;

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use super::BootError;
use crate::console::say;

/// The working tree.
pub(crate) const WORK: &str = "/work";
/// The same, for a system call.
pub(crate) const WORK_DIR: &CStr = c"/work";
/// Where jobs keep temporary files.
pub(crate) const TMP: &str = "/tmp";
/// The same, for a system call.
pub(crate) const TMP_DIR: &CStr = c"/tmp";

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// Of /run: the agent's own few files.
const RUN_OPTIONS: &CStr = c"mode=0755,size=16m";
/// Of the early tree: a warm-up's files, which a snapshot does not keep. 10000 is `JOB_ID`.
const EARLY_OPTIONS: &CStr = c"mode=1777,size=64m,uid=10000,gid=10000";

fn mount_at(kind: &str, target: &str, flags: MountFlags, options: Option<&CStr>) -> Result<(), BootError> {
    match mount(kind, target, kind, flags, options) {
        // The kernel may have mounted it (CONFIG_DEVTMPFS_MOUNT).
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(BootError::step(format!("mounting {kind} on {target}"))(errno)),
    }
}

/// What is needed to find the root, in the initramfs. Moves along with it.
pub(super) fn first() -> Result<(), BootError> {
    for directory in ["/dev", "/proc", "/sys", "/newroot"] {
        match rustix::fs::mkdir(directory, 0o755.into()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(BootError::step(format!("making {directory}"))(errno)),
        }
    }
    mount_at("devtmpfs", "/dev", MountFlags::NOSUID, None)?;
    mount_at("proc", "/proc", PLAIN, None)?;
    mount_at("sysfs", "/sys", PLAIN, None)
}

/// Everything else, in the real root.
pub(super) fn rest() -> Result<(), BootError> {
    mount_at("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, Some(RUN_OPTIONS))?;
    mount_cgroups()?;
    for directory in ["/dev/shm", "/dev/pts"] {
        let _ = rustix::fs::mkdir(directory, 0o755.into());
    }
    mount_at("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777"))?;
    mount_at(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"mode=0620,ptmxmode=0666"),
    )?;
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        let _ = rustix::fs::symlink(target, link);
    }
    mount_early_tree().map_err(BootError::step("mounting the early working tree"))
}

/// A process that joins a cgroup waits for a grace period of RCU unless the hierarchy favours that over forks (cgroup-v2:
/// `favordynmods`, Linux 6.0 and later).
fn mount_cgroups() -> Result<(), BootError> {
    let at = "/sys/fs/cgroup";
    mount_at("cgroup2", at, PLAIN, Some(c"favordynmods")).or_else(|_| mount_at("cgroup2", at, PLAIN, None))
}

/// Mounts an empty working tree and an empty /tmp in memory.
pub(crate) fn mount_early_tree() -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", WORK, "tmpfs", flags, EARLY_OPTIONS)?;
    mount("tmpfs", TMP, "tmpfs", flags, EARLY_OPTIONS)
}

/// Takes them away, with everything in them.
pub(crate) fn drop_early_tree() {
    for target in [WORK, TMP] {
        if let Err(errno) = unmount(target, UnmountFlags::DETACH) {
            say(&format_args!("unmounting {target}: {errno}"));
        }
    }
}
