//! Gives the kernel's generator what the host sent: clones of one snapshot would otherwise draw the same numbers.

#![allow(unsafe_code, reason = "two ioctls of /dev/random (random(4)) have no safe form")]

use std::{mem, os::fd::AsRawFd, ptr};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};

/// More than the generator can use (its key has 32 bytes).
pub(super) const ENTROPY_MAX_BYTES: usize = 512;

/// `struct rand_pool_info` of linux/random.h.
#[repr(C)]
struct PoolInfo {
    entropy_count_bits: libc::c_int,
    buf_size_bytes: libc::c_int,
    buf: [u8; ENTROPY_MAX_BYTES],
}

/// `_IOW('R', 0x03, int[2])`: add and credit.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `_IO('R', 0x07)`: reseed from the pool now.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// Adds and credits `entropy`, then reseeds. Returns how many bytes were credited.
pub(super) fn credit(entropy: &[u8]) -> Result<u32, Errno> {
    let mut info = PoolInfo { entropy_count_bits: 0, buf_size_bytes: 0, buf: [0; ENTROPY_MAX_BYTES] };
    let target = info.buf.get_mut(..entropy.len()).ok_or(Errno::INVAL)?;
    target.copy_from_slice(entropy);
    let bytes = u32::try_from(entropy.len()).map_err(|_| Errno::INVAL)?;
    let count = libc::c_int::try_from(bytes).map_err(|_| Errno::INVAL)?;
    info.buf_size_bytes = count;
    info.entropy_count_bits = count * 8;
    let random = open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: the kernel reads the header and `buf_size_bytes` bytes behind it, which `info` has.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, ptr::from_ref(&info)) })?;
    // SAFETY: takes no argument.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _, 0) })?;
    Ok(bytes)
}

fn checked(returned: libc::c_int) -> Result<(), Errno> {
    if returned >= 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

const _: () = assert!(mem::size_of::<PoolInfo>() == 8 + ENTROPY_MAX_BYTES);
