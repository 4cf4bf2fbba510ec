//! TAP devices. They cannot be made by rtnetlink, only by an ioctl.
#![allow(unsafe_code, reason = "ioctls have no safe form; see SAFETY below")]

use std::{fs::File, io, os::fd::AsRawFd};

use nix::{ioctl_write_int, libc};

// linux/if_tun.h
ioctl_write_int!(set_interface, b'T', 202);
ioctl_write_int!(set_persist, b'T', 203);
ioctl_write_int!(set_owner, b'T', 204);
ioctl_write_int!(set_group, b'T', 206);

/// Makes the TAP `name` in the caller's namespace, or finds it, and lets the user `owner` attach to it. It stays until its
/// namespace goes.
pub(super) fn persist(name: &str, owner: u32) -> io::Result<()> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    let descriptor = tun.as_raw_fd();
    let request = request(name)?;
    // SAFETY: the pointer is to a request that lives through the call.
    unsafe { set_interface(descriptor, std::ptr::from_ref(&request) as libc::c_ulong) }?;
    // SAFETY: these take plain numbers.
    unsafe {
        set_persist(descriptor, 1)?;
        set_owner(descriptor, owner.into())?;
        set_group(descriptor, owner.into())?;
    }
    Ok(())
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: zero is a valid value of every field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    if name.len() >= request.ifr_name.len() {
        let what = format!("{name} has more than {} bytes", libc::IFNAMSIZ - 1);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_cut_is_refused() {
        assert!(request("hth456789abcdef").is_ok());
        assert_eq!(request("fc-rt-0123456789").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
