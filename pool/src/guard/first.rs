//! The first process of a VM's PID namespace: with it the kernel ends everything in there, whatever user that has become.
#![allow(
    unsafe_code,
    reason = "clone3, close_range and an end without destructors have no safe form; see SAFETY below"
)]

use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::libc;
use rustix::{
    io::Errno,
    process::{Pid, WaitOptions, WaitStatus, wait},
    thread::set_name,
};

/// `CLONE_INTO_CGROUP` of linux/sched.h (Linux 5.7).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// What a shell adds to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;
/// The status of a first process that cannot wait.
const LOST: i32 = 255;

/// Returns in a second process, born in `group`; the first, which called this, ends with it and tells its end as a shell would.
/// For the time between fork and exec: system calls only.
pub(super) fn go_on_as_second(group: &OwnedFd, lock: &OwnedFd) -> io::Result<()> {
    let Some(second) = clone_into(group)? else { return Ok(()) };
    // What it is called by `ps`; how it is called changes nothing else.
    let _ = set_name(c"hearth-vm-first");
    // The guard waits until the pipe is closed by which a failed exec is told.
    close_all_but(lock);
    let status = loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == second => break told(status),
            // One that lost its parent, or a signal.
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break LOST,
        }
    };
    // SAFETY: ends the process without running anything of the guard's, of which it is a copy.
    unsafe { libc::_exit(status) }
}

fn told(status: WaitStatus) -> i32 {
    let signal = status.terminating_signal().map(|signal| BY_SIGNAL + signal);
    status.exit_status().or(signal).unwrap_or(LOST)
}

/// A copy of this process in the control group. `None` in the copy.
fn clone_into(group: &OwnedFd) -> Result<Option<Pid>, Errno> {
    // SAFETY: zero is a valid value of every field.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = group.as_raw_fd() as u64;
    let size = mem::size_of::<libc::clone_args>();
    // SAFETY: no CLONE_VM and no stack: this is fork(2), and the child does nothing but system calls until it execs.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) } {
        0 => Ok(None),
        pid if pid > 0 => Ok(i32::try_from(pid).ok().and_then(Pid::from_raw)),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// All but stdin, stdout and stderr, too.
fn close_all_but(kept: &OwnedFd) {
    let kept = kept.as_raw_fd().unsigned_abs();
    for (first, last) in [(3, kept.saturating_sub(1)), (kept.saturating_add(1), u32::MAX)] {
        if first <= last {
            // SAFETY: nothing of this process uses a descriptor any more; it only waits.
            unsafe { libc::close_range(first, last, 0) };
        }
    }
}
