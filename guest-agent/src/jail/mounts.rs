//! What of the file system a job sees: the read-only root, its working tree and /tmp as they are, and in place of
//! everything else something harmless, mounted over it where it cannot be taken away.

use std::ffi::CStr;

use rustix::{
    fs::{CWD, FileType, Mode, makedev, mkdir, mknodat, symlink},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount},
};

use super::JailError;
use crate::{copies::Copy, wake::BOOT_ID};

/// Made once; each jail shows it by a bind mount, which keeps its flags.
const DEV: &CStr = c"/run/jail-dev";
const EMPTY: &CStr = c"/run/jail-empty";

/// Devices that hold nothing: name and minor number, all of major 1 (devices.txt of the kernel).
const DEVICES: [(&CStr, u32); 5] = [
    (c"/run/jail-dev/null", 3),
    (c"/run/jail-dev/zero", 5),
    (c"/run/jail-dev/full", 7),
    (c"/run/jail-dev/random", 8),
    (c"/run/jail-dev/urandom", 9),
];
const LINKS: [(&CStr, &CStr); 4] = [
    (c"/proc/self/fd", c"/run/jail-dev/fd"),
    (c"/proc/self/fd/0", c"/run/jail-dev/stdin"),
    (c"/proc/self/fd/1", c"/run/jail-dev/stdout"),
    (c"/proc/self/fd/2", c"/run/jail-dev/stderr"),
];
/// What no job has any business with: the machine's devices and cgroups, the whole scratch disk, and the agent's own
/// files, which come last since the empty directory is there.
const HIDDEN: [&CStr; 3] = [c"/sys", c"/scratch", c"/run"];

/// Steps of a copy are counted from here.
const COPY_STEPS: u32 = 50;
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// Of the devices, which must work.
const DEV_FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
const SHM_FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Makes the directories that all jails show.
pub(super) fn prepare() -> Result<(), JailError> {
    let step = |what| move |source| JailError::Template { what, source };
    make_dev().map_err(step("making the devices"))?;
    make_empty().map_err(step("making the empty directory"))
}

fn make_dev() -> Result<(), Errno> {
    mkdir(DEV, 0o755.into())?;
    mount(c"tmpfs", DEV, c"tmpfs", DEV_FLAGS, c"mode=0755,size=64k")?;
    for (path, minor) in DEVICES {
        mknodat(CWD, path, FileType::CharacterDevice, 0o666.into(), makedev(1, minor))?;
        // The umask had a say in that.
        rustix::fs::chmod(path, Mode::from_raw_mode(0o666))?;
    }
    for (target, link) in LINKS {
        symlink(target, link)?;
    }
    mkdir(c"/run/jail-dev/shm", 0o755.into())?;
    mount_remount(DEV, MountFlags::BIND | MountFlags::RDONLY | DEV_FLAGS, c"")
}

fn make_empty() -> Result<(), Errno> {
    mkdir(EMPTY, 0o755.into())?;
    mount_bind(EMPTY, EMPTY)?;
    mount_remount(EMPTY, MountFlags::BIND | MountFlags::RDONLY | PLAIN, c"")
}

/// Mounts a jail's own file systems, in a mount namespace that is a fresh copy of the agent's. Only system calls.
///
/// # Errors
/// The step that failed, from 1, and why.
pub(super) fn enter(copy: Option<&Copy>) -> Result<(), (u32, Errno)> {
    let mut step = 0;
    let mut check = |outcome: Result<(), Errno>| {
        step += 1;
        outcome.map_err(|errno| (step, errno))
    };
    check(mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC))?;
    // Before the scratch disk, of which it is made, is hidden.
    if let Some(copy) = copy {
        copy.enter().map_err(|(copy_step, errno)| (COPY_STEPS.saturating_add(copy_step), errno))?;
    }
    // Of the new PID namespace; of its processes, those of other users are not even listed.
    check(mount(c"proc", c"/proc", c"proc", PLAIN, c"hidepid=2"))?;
    // The clone's own, if it has been woken.
    let (boot_id, over) = BOOT_ID;
    check(
        mount_bind(boot_id, over).or_else(|errno| if errno == Errno::NOENT { Ok(()) } else { Err(errno) }),
    )?;
    check(mount_bind(DEV, c"/dev"))?;
    // Its pages are charged to the cgroup that writes them.
    check(mount(c"tmpfs", c"/dev/shm", c"tmpfs", SHM_FLAGS, c"mode=1777"))?;
    for place in HIDDEN {
        check(mount_bind(EMPTY, place))?;
    }
    Ok(())
}
