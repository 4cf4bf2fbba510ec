//! From the initramfs into the root image.

use std::{path::Path, time::Duration};

use rustix::{
    mount::{MountFlags, mount, mount_move},
    process::{chdir, chroot},
};
use tokio::time::Instant;

use super::{BootError, cmdline::CommandLine};

const NEW_ROOT: &str = "/newroot";
/// How long a device may take to appear after its driver was loaded; an emulated machine is slow.
const DEVICE_WAIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Mounts the root image read-only and makes it the root.
pub(super) async fn enter(line: &CommandLine) -> Result<(), BootError> {
    let device = line.root.as_deref().ok_or(BootError::Missing("hearth.root"))?;
    appear(device).await?;
    let kind = line.root_type.as_deref().unwrap_or("ext4");
    mount(device, NEW_ROOT, kind, MountFlags::RDONLY, None)
        .map_err(BootError::step(format!("mounting {device} as {kind}")))?;
    for place in ["/dev", "/proc", "/sys"] {
        mount_move(place, Path::new(NEW_ROOT).join(place.trim_start_matches('/')))
            .map_err(BootError::step(format!("moving {place}")))?;
    }
    let steps = || {
        chdir(NEW_ROOT)?;
        mount_move(".", "/")?;
        chroot(".")?;
        chdir("/")
    };
    steps().map_err(BootError::step("entering the root"))
}

async fn appear(device: &str) -> Result<(), BootError> {
    let deadline = Instant::now() + DEVICE_WAIT;
    while !Path::new(device).exists() {
        if Instant::now() >= deadline {
            return Err(BootError::NoRoot { device: device.to_owned(), seconds: DEVICE_WAIT.as_secs() });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}
