//! Starts one process: in its cgroup from its first instruction, with nothing of the agent's.

#![allow(unsafe_code, reason = "clone3 and signal masks have no safe form")]

use std::{
    ffi::{CStr, CString},
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Gid, Pid, Uid},
};

use super::child::{become_command, become_init};
use crate::{
    copies::Copy,
    jail::{self, Filter, Jail},
};

/// Of linux/sched.h; libc's has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Bytes of a [`Refused`].
pub(crate) const REPORT_BYTES: usize = 8;

/// What to start, and as what.
pub(super) struct Launch<'a> {
    /// Paths to try, in this order.
    pub(super) programs: &'a [CString],
    pub(super) argv: &'a [CString],
    pub(super) env: &'a [CString],
    pub(super) cwd: BorrowedFd<'a>,
    /// Becomes 0, 1 and 2; closed here in any case.
    pub(super) stdio: [OwnedFd; 3],
    /// Directory of its cgroup.
    pub(super) group: BorrowedFd<'a>,
    /// Whom to become. `None`: stays what the agent is.
    pub(super) user: Option<(Uid, Gid)>,
    /// Gives up what no job may have, for good.
    pub(super) filter: Option<&'a Filter>,
    /// Where it lives, when it is to see nothing of the agent's world.
    pub(super) cell: Option<Cell<'a>>,
    /// A backstop should the agent not get to run: CPU seconds of each process.
    pub(super) cpu_seconds: Option<u64>,
    /// Open files of each process: the soft and the hard limit.
    pub(super) open_files: (u64, u64),
    /// Size of the largest file that each process may write.
    pub(super) file_size_bytes: Option<u64>,
}

/// A jail, and where in it to be: the directory that `cwd` names was opened outside of it.
#[derive(Clone, Copy)]
pub(super) struct Cell<'a> {
    pub(super) jail: &'a Jail,
    /// Relative to the working tree.
    pub(super) cwd: &'a CStr,
    /// What it has in place of the working tree itself.
    pub(super) copy: Option<&'a Copy>,
}

/// A child that has not necessarily executed anything yet.
pub(super) struct Launched {
    /// The command, or the init of its jail.
    pub(super) pid: Pid,
    /// Where that init says how the command ended; for [`jail::status_of`].
    pub(super) status: OwnedFd,
    /// Says nothing and closes when the exec is done, or gives a [`Refused`].
    pub(super) report: OwnedFd,
}

/// What the kernel refused the child before or at the exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A preparation of ours, by its place in the order below.
    Setup(u32, Errno),
    /// The exec itself.
    Exec(Errno),
}

impl Refused {
    /// Reads what a child wrote. `None` when it wrote nothing: it was executed, or killed.
    pub(crate) fn decode(report: &[u8]) -> Option<Self> {
        let (step, errno) = report.split_first_chunk::<4>()?;
        let errno = Errno::from_raw_os_error(i32::from_le_bytes(*errno.first_chunk::<4>()?));
        Some(match u32::from_le_bytes(*step) {
            0 => Self::Exec(errno),
            step => Self::Setup(step, errno),
        })
    }

    pub(super) fn encode(self) -> [u8; REPORT_BYTES] {
        let (step, errno) = match self {
            Self::Exec(errno) => (0, errno),
            Self::Setup(step, errno) => (step, errno),
        };
        let mut report = [0; REPORT_BYTES];
        let (first, second) = report.split_at_mut(4);
        first.copy_from_slice(&step.to_le_bytes());
        second.copy_from_slice(&errno.raw_os_error().to_le_bytes());
        report
    }
}

/// Starts it. Returns as soon as there is a child; never waits for the exec.
pub(super) fn launch(launch: Launch<'_>) -> Result<Launched, Errno> {
    let argv = pointers(launch.argv);
    let env = pointers(launch.env);
    let (report, child_report) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let (status, child_status) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let procs = openat(launch.group, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The child must not run our handlers, which would write into the agent's own self-pipe.
    let blocked = block_signals();
    let namespaces = if launch.cell.is_some() { jail::NAMESPACES } else { 0 };
    let cloned = match clone_into(launch.group, namespaces) {
        // A sandbox of the host (or a kernel before 5.7) may not know this: the child moves itself.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {
            clone_here(namespaces).map(|pid| (pid, true))
        }
        cloned => cloned.map(|pid| (pid, false)),
    };
    if let Ok((None, moves)) = cloned {
        let procs = moves.then_some(procs.as_fd());
        let Err(refused) = match launch.cell {
            Some(cell) => become_init(&launch, cell, procs, child_status.as_fd(), &argv, &env),
            None => become_command(&launch, procs, &argv, &env),
        };
        let _ = rustix::io::write(&child_report, &refused.encode());
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }
    restore_signals(&blocked);
    match cloned? {
        (Some(pid), _) => Ok(Launched { pid, status, report }),
        (None, _) => Err(Errno::CHILD),
    }
}

/// Starts PID 1 of a cell, which has this copy as its working tree and then does `keep`. What of its world cannot be made
/// it says on the line.
pub(crate) fn start_keeper(
    jail: &Jail,
    copy: &Copy,
    line: &OwnedFd,
    keep: impl FnOnce(),
) -> Result<Pid, Errno> {
    let blocked = block_signals();
    let cloned = clone_here(jail::NAMESPACES);
    if let Ok(None) = cloned {
        match jail.enter(Some(copy)) {
            Ok(()) => keep(),
            Err((step, errno)) => {
                let _ = rustix::io::write(line, &Refused::Setup(step, errno).encode());
            }
        }
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }
    restore_signals(&blocked);
    cloned?.ok_or(Errno::CHILD)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// A copy of this process in the cgroup, in new namespaces of these kinds. `None` in the child.
fn clone_into(group: BorrowedFd<'_>, namespaces: u64) -> Result<Option<Pid>, Errno> {
    // SAFETY: zero is a valid value of every field.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP | namespaces;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = group.as_raw_fd() as u64;
    clone3(&mut arguments)
}

pub(super) fn clone_here(namespaces: u64) -> Result<Option<Pid>, Errno> {
    // SAFETY: as above.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = namespaces;
    arguments.exit_signal = libc::SIGCHLD as u64;
    match clone3(&mut arguments) {
        Err(Errno::NOSYS) if namespaces == 0 => {
            // SAFETY: the child does nothing but system calls until it execs or exits.
            result_of(i64::from(unsafe { libc::fork() }))
        }
        cloned => cloned,
    }
}

fn clone3(arguments: &mut libc::clone_args) -> Result<Option<Pid>, Errno> {
    // SAFETY: no CLONE_VM and no stack: this is fork(2), and the child does nothing but system calls until it
    // execs or exits.
    result_of(unsafe { libc::syscall(libc::SYS_clone3, arguments, mem::size_of::<libc::clone_args>()) })
}

fn result_of(returned: i64) -> Result<Option<Pid>, Errno> {
    match returned {
        0 => Ok(None),
        pid if pid > 0 => Ok(Pid::from_raw(pid as i32)),
        _ => Err(last_errno()),
    }
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are plain values that outlive the call.
    unsafe {
        let (mut all, mut before) = (mem::zeroed(), mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        before
    }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: `before` is a set that the kernel gave us.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_child_reports_is_read_back() {
        for refused in [Refused::Exec(Errno::NOENT), Refused::Setup(7, Errno::PERM)] {
            assert_eq!(Refused::decode(&refused.encode()), Some(refused));
        }
        assert_eq!(Refused::decode(&[]), None);
        assert_eq!(Refused::decode(&[0; 7]), None);
    }
}
