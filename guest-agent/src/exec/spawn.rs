//! Starts one process: in its cgroup from its first instruction, with nothing of the agent's.
//!
//! Between the clone and the exec the child shares no memory with anybody, but was copied from a process that
//! may have had other threads. So it makes system calls and nothing else: no allocation, no locks, no libc that
//! keeps state.

#![allow(unsafe_code, reason = "clone3, execve and signal dispositions have no safe form")]

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Gid, Pid, Resource, Rlimit, Signal, Uid},
};

use super::confine::confine;

/// Open files of a command: as many as common tools expect, and what it may raise that to.
const OPEN_FILES: (u64, u64) = (1024, 16_384);
/// Of linux/sched.h; libc's has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Bytes of a [`Refused`] on the pipe.
const REPORT_BYTES: usize = 8;

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
    /// Whether it gives up what no job may have, for good.
    pub(super) confined: bool,
    /// A backstop should the agent not get to run: CPU seconds of each process.
    pub(super) cpu_seconds: Option<u64>,
}

/// A child that has not necessarily executed anything yet.
pub(super) struct Launched {
    pub(super) pid: Pid,
    /// Says nothing and closes when the exec is done, or gives a [`Refused`].
    pub(super) report: OwnedFd,
}

/// What the kernel refused the child before or at the exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A preparation of ours, by its place in the order below.
    Setup(u32, Errno),
    /// The exec itself.
    Exec(Errno),
}

impl Refused {
    /// Reads what a child wrote. `None` when it wrote nothing: it was executed, or killed.
    pub(super) fn decode(report: &[u8]) -> Option<Self> {
        let (step, errno) = report.split_first_chunk::<4>()?;
        let errno = Errno::from_raw_os_error(i32::from_le_bytes(*errno.first_chunk::<4>()?));
        Some(match u32::from_le_bytes(*step) {
            0 => Self::Exec(errno),
            step => Self::Setup(step, errno),
        })
    }

    fn encode(self) -> [u8; REPORT_BYTES] {
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
    let procs = openat(launch.group, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The child must not run our handlers, which would write into the agent's own self-pipe.
    let blocked = block_signals();
    let cloned = match clone_into(launch.group) {
        // A sandbox of the host (or a kernel before 5.7) may not know this: the child moves itself.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {
            clone_here().map(|pid| (pid, true))
        }
        cloned => cloned.map(|pid| (pid, false)),
    };
    if let Ok((None, moves)) = cloned {
        let procs = moves.then_some(procs.as_fd());
        let Err(refused) = become_command(&launch, procs, &argv, &env);
        let _ = rustix::io::write(&child_report, &refused.encode());
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }
    restore_signals(&blocked);
    match cloned? {
        (Some(pid), _) => Ok(Launched { pid, report }),
        (None, _) => Err(Errno::CHILD),
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// A copy of this process in the cgroup. `None` in the child.
fn clone_into(group: BorrowedFd<'_>) -> Result<Option<Pid>, Errno> {
    // SAFETY: zero is a valid value of every field.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = group.as_raw_fd() as u64;
    clone3(&mut arguments)
}

fn clone_here() -> Result<Option<Pid>, Errno> {
    // SAFETY: as above.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    match clone3(&mut arguments) {
        Err(Errno::NOSYS) => {
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

/// Everything from the clone to the exec, in the child.
fn become_command(
    launch: &Launch<'_>,
    procs: Option<BorrowedFd<'_>>,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
) -> Result<Infallible, Refused> {
    let mut step = 0;
    let mut check = |outcome: Result<(), Errno>| {
        step += 1;
        outcome.map_err(|errno| Refused::Setup(step, errno))
    };
    if let Some(procs) = procs {
        check(rustix::io::write(procs, b"0").map(drop))?;
    }
    check(rustix::process::setsid().map(drop))?;
    let [stdin, stdout, stderr] = &launch.stdio;
    check(rustix::stdio::dup2_stdin(stdin))?;
    check(rustix::stdio::dup2_stdout(stdout))?;
    check(rustix::stdio::dup2_stderr(stderr))?;
    check(rustix::process::fchdir(launch.cwd))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    check(killable_by_oom())?;
    check(limit(Resource::Core, 0, 0))?;
    check(limit(Resource::Nofile, OPEN_FILES.0, OPEN_FILES.1))?;
    if let Some(seconds) = launch.cpu_seconds {
        check(limit(Resource::Cpu, seconds, seconds.saturating_add(1)))?;
    }
    if let Some((uid, gid)) = launch.user {
        check(rustix::thread::set_thread_groups(&[]))?;
        check(rustix::thread::set_thread_res_gid(gid, gid, gid))?;
        check(rustix::thread::set_thread_res_uid(uid, uid, uid))?;
    }
    // After the change of user, which would clear it. Pointless under PID 1, whose end is the machine's.
    check(rustix::process::set_parent_process_death_signal(Some(Signal::KILL)))?;
    check(close_the_rest())?;
    default_signals();
    if launch.confined {
        check(rustix::thread::set_no_new_privs(true))?;
        check(confine())?;
    }
    Err(Refused::Exec(execute(launch.programs, argv, env)))
}

/// The agent is exempt from the OOM killer, and what it starts would inherit that.
fn killable_by_oom() -> Result<(), Errno> {
    let file =
        rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, b"0").map(drop)
}

/// Lowers a limit; never beyond what this process itself may have.
fn limit(resource: Resource, soft: u64, hard: u64) -> Result<(), Errno> {
    let own = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit { current: Some(soft.min(own)), maximum: Some(hard.min(own)) };
    rustix::process::setrlimit(resource, limit)
}

/// Everything but 0, 1 and 2 is closed by the exec; until then the report's pipe stays open.
fn close_the_rest() -> Result<(), Errno> {
    // SAFETY: only marks descriptors.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    // Before Linux 5.11: everything that the agent opens is marked anyway.
    if marked == 0 || matches!(last_errno(), Errno::NOSYS | Errno::INVAL) {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// Ignored signals stay ignored across an exec, and the runtime ignores SIGPIPE. The mask is emptied last.
///
/// By the system call itself: libc keeps two signals to itself, and musl takes a lock for another.
fn default_signals() {
    /// `struct sigaction` of the kernel, at its longest: all zero is the default disposition.
    const DEFAULT: [u64; 4] = [0; 4];
    const SIGNALS: libc::c_int = 64;
    // SAFETY: dispositions and mask of a child that has no other thread; the set is a plain value.
    unsafe {
        for number in 1..=SIGNALS {
            let none: *mut u64 = ptr::null_mut();
            libc::syscall(libc::SYS_rt_sigaction, number, DEFAULT.as_ptr(), none, 8usize);
        }
        let mut none = mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}

/// Tries the paths in order, like execvp(3) but without a shell for what is not executable.
fn execute(programs: &[CString], argv: &[*const libc::c_char], env: &[*const libc::c_char]) -> Errno {
    let mut why = Errno::NOENT;
    for program in programs {
        let program: &CStr = program;
        // SAFETY: both arrays end with a null pointer, and what they point to is alive.
        unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        match last_errno() {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => why = Errno::ACCESS,
            other => return other,
        }
    }
    why
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
