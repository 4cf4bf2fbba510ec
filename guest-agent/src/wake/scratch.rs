//! The scratch disk: mounted once, before the snapshot, so that no clone reads what all of them know; the job's working tree
//! and /tmp are on it, so that neither is charged as memory.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
};

use rustix::{
    fs::statvfs,
    io::Errno,
    mount::{MountFlags, mount as mount_fs, mount_bind},
};

use super::WakeError;
use crate::{
    agent::{Agent, JOB_ID},
    boot, console, copies,
    tree::Tree,
};

const MOUNT: &str = "/scratch";
/// The disk dies with the VM: nothing has to survive a crash.
const OPTIONS: &std::ffi::CStr = c"usrquota,barrier=0";
const OPTIONS_WITHOUT_QUOTA: &std::ffi::CStr = c"barrier=0";

/// Mounts `device` and puts the working tree on it. Returns its size in bytes.
pub(super) fn mount(agent: &Agent, device: &Path) -> Result<u64, WakeError> {
    let quota = mount_disk(device).map_err(WakeError::step("mounting the scratch disk"))?;
    let (work, tmp) = copies::places(Path::new(MOUNT));
    prepare(&work, &tmp).map_err(WakeError::file("preparing the scratch disk"))?;
    if copies::kernel_has_overlay() {
        let place = agent.copies().enable(Path::new(MOUNT));
        place.map_err(WakeError::file("making a place for copies of the working tree"))?;
    }
    boot::drop_early_tree();
    mount_bind(&work, boot::WORK).map_err(WakeError::step("mounting the working tree"))?;
    mount_bind(&tmp, boot::TMP).map_err(WakeError::step("mounting /tmp"))?;
    let tree = Tree::open(Path::new(boot::WORK), Some(boot::job_ids()));
    agent.set_tree(tree.map_err(WakeError::step("opening the working tree"))?);
    if quota {
        agent.quota().enable(device.to_owned(), JOB_ID)?;
    }
    let size = statvfs(MOUNT).map_err(WakeError::step("reading the size of the scratch disk"))?;
    Ok(size.f_blocks.saturating_mul(size.f_frsize))
}

/// What there is without such a disk: the early tree, empty.
pub(super) fn without(agent: &Agent) -> Result<u64, WakeError> {
    boot::drop_early_tree();
    boot::mount_early_tree().map_err(WakeError::step("mounting the early working tree"))?;
    let tree = Tree::open(Path::new(boot::WORK), Some(boot::job_ids()));
    agent.set_tree(tree.map_err(WakeError::step("opening the working tree"))?);
    Ok(0)
}

/// Returns whether the quota is enforced.
fn mount_disk(device: &Path) -> Result<bool, Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    match mount_fs(device, MOUNT, "ext4", flags, OPTIONS) {
        Ok(()) => Ok(true),
        Err(errno @ (Errno::INVAL | Errno::SRCH | Errno::NOENT)) => {
            console::say(&format_args!("no quota on the scratch disk: {errno}"));
            mount_fs(device, MOUNT, "ext4", flags, OPTIONS_WITHOUT_QUOTA).map(|()| false)
        }
        Err(errno) => Err(errno),
    }
}

fn prepare(work: &Path, tmp: &Path) -> std::io::Result<()> {
    fs::set_permissions(MOUNT, fs::Permissions::from_mode(0o711))?;
    if let Some(tree) = work.parent() {
        fs::create_dir(tree)?;
    }
    fs::create_dir(work)?;
    fs::set_permissions(work, fs::Permissions::from_mode(0o755))?;
    chown(work, Some(JOB_ID), Some(JOB_ID))?;
    fs::create_dir(tmp)?;
    fs::set_permissions(tmp, fs::Permissions::from_mode(0o1777))
}
