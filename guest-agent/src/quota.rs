//! What the job user may have on the scratch disk: the file system's own user quota.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::{
    errno::Errno,
    sys::quota::{Dqblk, QuotaType, QuotaValidFlags, quotactl_get, quotactl_set},
};

use crate::exec::DiskUse;

/// Blocks in which space is handed out: quotas are only hit exactly at one.
const BLOCK_BYTES: u64 = 4096;
/// Unit of a quota's limits (quotactl(2): `dqb_bhardlimit` is in units of 1024 bytes).
const UNIT_BYTES: u64 = 1024;

/// The quota could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set the disk quota")]
pub(crate) struct QuotaError(#[from] Errno);

/// The job user's quota, when there is one.
#[derive(Debug, Default)]
pub(crate) struct Quota(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    disk: Option<Disk>,
    /// What running commands asked for; the strictest counts.
    holds: Vec<(u64, DiskLimits)>,
    next: u64,
    /// What the kernel was told last.
    told: DiskLimits,
}

#[derive(Clone, Debug)]
struct Disk {
    device: PathBuf,
    uid: u32,
    /// What the empty working tree itself takes.
    empty: DiskUse,
}

/// Limits of one command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DiskLimits {
    bytes: Option<u64>,
    files: Option<u64>,
}

/// A command's limits, in force until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    quota: &'a Quota,
    number: u64,
}

impl Quota {
    /// Uses the quota of `uid` on the file system of `device`. What the user has there now is not counted.
    pub(crate) fn enable(&self, device: PathBuf, uid: u32) -> Result<(), QuotaError> {
        let mut disk = Disk { device, uid, empty: DiskUse::default() };
        disk.empty = disk.used()?;
        self.lock().disk = Some(disk);
        Ok(())
    }

    /// Whether there is a quota.
    pub(crate) fn enabled(&self) -> bool {
        self.lock().disk.is_some()
    }

    /// What the job user has written. `None` without a quota.
    pub(crate) fn used(&self) -> Option<DiskUse> {
        let state = self.lock();
        let disk = state.disk.as_ref()?;
        let used = disk.used().ok()?;
        Some(DiskUse {
            bytes: used.bytes.saturating_sub(disk.empty.bytes),
            files: used.files.saturating_sub(disk.empty.files),
        })
    }

    /// Puts limits in force. `None` when there is no quota or nothing is asked of it.
    pub(crate) fn hold(
        &self,
        bytes: Option<u64>,
        files: Option<u64>,
    ) -> Result<Option<Hold<'_>>, QuotaError> {
        let mut state = self.lock();
        if state.disk.is_none() || bytes.or(files).is_none() {
            return Ok(None);
        }
        state.next += 1;
        let number = state.next;
        state.holds.push((number, DiskLimits { bytes, files }));
        state.apply()?;
        Ok(Some(Hold { quota: self, number }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.quota.lock();
        state.holds.retain(|(number, _)| *number != self.number);
        // The next command sets its own; one without limits is not watched either.
        let _ = state.apply();
    }
}

impl State {
    fn apply(&mut self) -> Result<(), QuotaError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let limits = strictest(self.holds.iter().map(|(_, limits)| *limits));
        if limits == self.told {
            // As of every case but the first.
            return Ok(());
        }
        let (units, inodes) = hard_limits(limits, disk.empty);
        let mut block = Dqblk::default();
        block.set_blocks_hard_limit(units);
        block.set_blocks_soft_limit(0);
        block.set_inodes_hard_limit(inodes);
        block.set_inodes_soft_limit(0);
        let uid = disk.uid as libc::c_int;
        quotactl_set(QuotaType::USRQUOTA, &disk.device, uid, &block, QuotaValidFlags::QIF_LIMITS)?;
        self.told = limits;
        Ok(())
    }
}

impl Disk {
    fn used(&self) -> Result<DiskUse, QuotaError> {
        let block = quotactl_get(QuotaType::USRQUOTA, &self.device, self.uid as libc::c_int)?;
        Ok(DiskUse {
            bytes: block.occupied_space().unwrap_or(0),
            files: block.allocated_inodes().unwrap_or(0),
        })
    }
}

fn strictest(all: impl Iterator<Item = DiskLimits>) -> DiskLimits {
    let stricter = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
    all.fold(DiskLimits::default(), |sum, next| DiskLimits {
        bytes: stricter(sum.bytes, next.bytes),
        files: stricter(sum.files, next.files),
    })
}

/// The kernel's limits, in its units; 0 is none. One block and one file more than asked: who uses the limit
/// exactly is within it, and who goes beyond shows that before the kernel refuses.
fn hard_limits(limits: DiskLimits, empty: DiskUse) -> (u64, u64) {
    let units = limits.bytes.map_or(0, |bytes| {
        let blocks = bytes.saturating_add(empty.bytes).div_ceil(BLOCK_BYTES).saturating_add(1);
        blocks.saturating_mul(BLOCK_BYTES / UNIT_BYTES)
    });
    let inodes = limits.files.map_or(0, |files| files.saturating_add(empty.files).saturating_add(1));
    (units, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_refuses_one_block_and_one_file_late() {
        let empty = DiskUse { bytes: 4096, files: 1 };
        let limits = DiskLimits { bytes: Some(8192), files: Some(10) };
        assert_eq!(hard_limits(limits, empty), (16, 12));
        assert_eq!(hard_limits(DiskLimits::default(), empty), (0, 0));
        let odd = DiskLimits { bytes: Some(1), files: None };
        assert_eq!(hard_limits(odd, DiskUse::default()), (8, 0));
    }

    #[test]
    fn the_strictest_of_several_commands_counts() {
        let of = |bytes, files| DiskLimits { bytes, files };
        let all = [of(Some(9), None), of(Some(5), Some(2)), of(None, Some(7))];
        assert_eq!(strictest(all.into_iter()), of(Some(5), Some(2)));
        assert_eq!(strictest([].into_iter()), of(None, None));
    }
}
