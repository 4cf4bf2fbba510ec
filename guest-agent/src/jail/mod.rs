//! What a job lives in: namespaces of its own, with an init of ours as their PID 1, and a filter on its calls.
//!
//! One command has one jail. Its network namespace alone is shared by all commands of a machine: nothing can be
//! made in it without privileges but abstract sockets, and those end with their processes.

#![allow(unsafe_code, reason = "namespaces and the bounding set have no safe form")]

pub(crate) mod card;
mod filter;
mod init;
mod mounts;

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::OnceLock,
};

pub(crate) use filter::Filter;
use hearth_schemas::guest::messages::Network;
pub(crate) use init::{ending, init, status_of};
use rustix::io::Errno;

use crate::copies::Copy;

/// Namespaces that each command gets anew, as flags of clone3.
pub(crate) const NAMESPACES: u64 =
    (libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64;
/// Processes in a command's cgroup that are not the command's: the init.
pub(crate) const OWN_PROCESSES: u64 = 1;
/// Largest number of capabilities that a kernel could know: they are bits of a u64 (linux/capability.h).
const CAPABILITIES_MAX: libc::c_int = 64;

/// Why there can be no jails here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JailError {
    #[error("making the jails' network namespace")]
    Network(#[source] std::io::Error),
    #[error("raising the loopback of the jails' network namespace")]
    Loopback(#[source] std::io::Error),
    #[error("{what}, which every jail shows")]
    Template { what: &'static str, source: Errno },
}

/// What all jails of this machine share.
#[derive(Debug)]
pub(crate) struct Jail {
    network: OwnedFd,
    /// Whether its loopback is up.
    loopback: OnceLock<()>,
}

impl Jail {
    /// Makes what jails share. Once, as root, with a writable /run.
    pub(crate) fn prepare() -> Result<Self, JailError> {
        mounts::prepare()?;
        let network = empty_network().map_err(JailError::Network)?;
        Ok(Self { network, loopback: OnceLock::new() })
    }

    /// Lets commands that may use IP reach each other over the loopback.
    pub(crate) fn raise_loopback(&self) -> Result<(), JailError> {
        if self.loopback.get().is_none() {
            in_network(&self.network, raise_loopback).map_err(JailError::Loopback)?;
            let _ = self.loopback.set(());
        }
        Ok(())
    }

    /// Makes a network card theirs, and sets it up.
    pub(crate) fn take_card(&self, card: u32, network: &Network) -> std::io::Result<()> {
        card::give(card, self.network.as_fd())?;
        in_network(&self.network, || card::set_up(card, network))
    }

    /// Makes the world of a process that was just cloned with [`NAMESPACES`]; with a copy, that is its working tree.
    /// Only system calls.
    ///
    /// # Errors
    /// The step that failed, from 1, and why.
    pub(crate) fn enter(&self, copy: Option<&Copy>) -> Result<(), (u32, Errno)> {
        join(&self.network).map_err(|errno| (1, errno))?;
        mounts::enter(copy).map_err(|(step, errno)| (step.saturating_add(1), errno))
    }
}

/// Does `work` in a network namespace, in a thread that ends at once: the agent's own stays as it is.
fn in_network(network: &OwnedFd, work: impl FnOnce() -> std::io::Result<()> + Send) -> std::io::Result<()> {
    let done = std::thread::scope(|threads| {
        threads.spawn(|| join(network).map_err(Into::into).and_then(|()| work())).join()
    });
    done.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))
}

fn raise_loopback() -> std::io::Result<()> {
    // SAFETY: takes plain numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: zero is a valid value of every field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: reads a request that is ours.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A network namespace with nothing but a loopback that is down.
fn empty_network() -> std::io::Result<OwnedFd> {
    // Of a thread that ends at once: the agent's own stays as it is.
    let made = std::thread::spawn(|| {
        // SAFETY: only this thread changes, and it does nothing else.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
    });
    made.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))
}

fn join(namespace: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: only changes what this process sees.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Takes every capability out of what an exec could ever give. Only system calls.
pub(crate) fn drop_capabilities() -> Result<(), Errno> {
    for number in 0..CAPABILITIES_MAX {
        // SAFETY: takes plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
            // The kernel knows no more than this many.
            return if last_errno() == Errno::INVAL { Ok(()) } else { Err(last_errno()) };
        }
    }
    Ok(())
}

/// Gives a pipe to the one who is to use it, so that opening /dev/stdin and the like works.
pub(crate) fn give(stdio: BorrowedFd<'_>, uid: rustix::process::Uid) -> Result<(), Errno> {
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(stdio)?.st_mode);
    // An empty stdin is /dev/null, which belongs to everybody.
    if kind == rustix::fs::FileType::Fifo { rustix::fs::fchown(stdio, Some(uid), None) } else { Ok(()) }
}

pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
