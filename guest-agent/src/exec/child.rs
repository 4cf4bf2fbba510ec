//! What a new process does between its clone and its exec.
//!
//! It shares no memory with anybody, but was copied from a process that may have had other threads. So it makes
//! system calls and nothing else: no allocation, no locks, no libc that keeps state.

#![allow(unsafe_code, reason = "execve and signal dispositions have no safe form")]

use std::{
    convert::Infallible,
    ffi::CStr,
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::{
    fs::{Mode, OFlags, openat2},
    io::Errno,
    process::{Gid, Resource, Rlimit, Signal, Uid},
};

use super::spawn::{Cell, Launch, REPORT_BYTES, Refused, clone_here, last_errno};
use crate::{
    boot,
    cells::Settings,
    jail::{self, Filter},
    tree::CONFINED,
};

/// Steps of the jail are counted from here, so that they are told from those of the command.
const JAIL_STEPS: u32 = 100;
/// And those of a command in a cell from here.
const CELL_STEPS: u32 = 200;
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Everything that PID 1 of a jail does, in the child. Its own child is the command.
pub(super) fn become_init(
    launch: &Launch<'_>,
    cell: Cell<'_>,
    procs: Option<BorrowedFd<'_>>,
    status: BorrowedFd<'_>,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
) -> Result<Infallible, Refused> {
    let refused = |errno| Refused::Setup(JAIL_STEPS, errno);
    if let Some(procs) = procs {
        rustix::io::write(procs, b"0").map_err(refused)?;
    }
    killable_by_oom().map_err(refused)?;
    cell.jail
        .enter(cell.copy)
        .map_err(|(step, errno)| Refused::Setup(JAIL_STEPS.saturating_add(step), errno))?;
    match clone_here(0).map_err(refused)? {
        Some(command) => jail::init(command, status),
        None => become_command(launch, None, argv, env),
    }
}

/// Everything from the clone to the exec, in the child.
pub(super) fn become_command(
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
    check(match launch.cell {
        Some(cell) => work_dir().and_then(|work| enter_dir(work.as_fd(), cell.cwd)),
        None => rustix::process::fchdir(launch.cwd),
    })?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    check(killable_by_oom())?;
    check(limit(Resource::Core, 0, 0))?;
    check(limit(Resource::Nofile, launch.open_files.0, launch.open_files.1))?;
    if let Some(bytes) = launch.file_size_bytes {
        check(limit(Resource::Fsize, bytes, bytes))?;
    }
    if let Some(seconds) = launch.cpu_seconds {
        check(limit(Resource::Cpu, seconds, seconds.saturating_add(1)))?;
    }
    if let Some((uid, gid)) = launch.user {
        for pipe in &launch.stdio {
            check(jail::give(pipe.as_fd(), uid))?;
        }
        check(jail::drop_capabilities())?;
        check(rustix::thread::set_thread_groups(&[]))?;
        check(rustix::thread::set_thread_res_gid(gid, gid, gid))?;
        check(rustix::thread::set_thread_res_uid(uid, uid, uid))?;
    }
    // After the change of user, which would clear it. Pointless under PID 1, whose end is the machine's.
    check(rustix::process::set_parent_process_death_signal(Some(Signal::KILL)))?;
    check(close_the_rest())?;
    default_signals();
    if let Some(filter) = launch.filter {
        check(rustix::thread::set_no_new_privs(true))?;
        check(filter.put_on())?;
    }
    let programs = launch.programs.iter().map(|program| program.as_ptr());
    Err(Refused::Exec(execute(programs, argv, env)))
}

/// A command in a cell, whose keeper has done what is the same for every command.
pub(crate) struct InCell<'a> {
    pub(crate) programs: &'a [*const libc::c_char],
    pub(crate) argv: &'a [*const libc::c_char],
    pub(crate) env: &'a [*const libc::c_char],
    /// The working tree, as this mount namespace shows it.
    pub(crate) work: BorrowedFd<'a>,
    /// Relative to it.
    pub(crate) cwd: &'a CStr,
    pub(crate) settings: Settings,
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    pub(crate) procs: BorrowedFd<'a>,
    pub(crate) user: (Uid, Gid),
}

/// Everything from the start in a cell to the exec. Returns only what was refused.
pub(crate) fn run_in_cell(run: &InCell<'_>) -> [u8; REPORT_BYTES] {
    let Err(refused) = execute_in_cell(run);
    refused.encode()
}

fn execute_in_cell(run: &InCell<'_>) -> Result<Infallible, Refused> {
    let mut step = CELL_STEPS;
    let mut check = |outcome: Result<(), Errno>| {
        step += 1;
        outcome.map_err(|errno| Refused::Setup(step, errno))
    };
    check(rustix::io::write(run.procs, b"0").map(drop))?;
    check(rustix::process::setsid().map(drop))?;
    let [stdin, stdout, stderr] = run.stdio;
    check(rustix::stdio::dup2_stdin(stdin))?;
    check(rustix::stdio::dup2_stdout(stdout))?;
    check(rustix::stdio::dup2_stderr(stderr))?;
    check(enter_dir(run.work, run.cwd))?;
    let Settings { open_files, file_size_bytes, cpu_seconds } = run.settings;
    check(limit(Resource::Nofile, open_files.0, open_files.1))?;
    if let Some(bytes) = file_size_bytes {
        check(limit(Resource::Fsize, bytes, bytes))?;
    }
    if let Some(seconds) = cpu_seconds {
        check(limit(Resource::Cpu, seconds, seconds.saturating_add(1)))?;
    }
    let (uid, gid) = run.user;
    for pipe in run.stdio {
        check(jail::give(pipe, uid))?;
    }
    check(rustix::thread::set_thread_res_gid(gid, gid, gid))?;
    check(rustix::thread::set_thread_res_uid(uid, uid, uid))?;
    Err(Refused::Exec(execute(run.programs.iter().copied(), run.argv, run.env)))
}

/// What a keeper does once for all the commands that it starts.
pub(crate) fn settle(filter: &Filter) -> Result<(), Errno> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    killable_by_oom()?;
    limit(Resource::Core, 0, 0)?;
    // Their names are in no directory, where it could be seen that one was left.
    limit(Resource::Msgqueue, 0, 0)?;
    rustix::thread::set_thread_groups(&[])?;
    jail::drop_capabilities()?;
    default_signals();
    rustix::thread::set_no_new_privs(true)?;
    filter.put_on()
}

/// The working tree that this mount namespace shows.
pub(crate) fn work_dir() -> Result<OwnedFd, Errno> {
    rustix::fs::open(boot::WORK_DIR, DIRECTORY, Mode::empty())
}

/// Enters a directory of the working tree. No link is followed.
fn enter_dir(work: BorrowedFd<'_>, cwd: &CStr) -> Result<(), Errno> {
    if cwd == c"." {
        return rustix::process::fchdir(work);
    }
    rustix::process::fchdir(openat2(work, cwd, DIRECTORY, Mode::empty(), CONFINED)?)
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
fn execute(
    programs: impl Iterator<Item = *const libc::c_char>,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
) -> Errno {
    let mut why = Errno::NOENT;
    for program in programs {
        // SAFETY: a C string, and two arrays that end with a null pointer; what they point to is alive.
        unsafe { libc::execve(program, argv.as_ptr(), env.as_ptr()) };
        match last_errno() {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => why = Errno::ACCESS,
            other => return other,
        }
    }
    why
}
