//! Starting a process that cannot outlive the guard, and a guard that outlives a Ctrl-C.
#![allow(unsafe_code, reason = "signal dispositions and code between fork and exec; see SAFETY below")]

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::signal::{self, SigHandler},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    io::{Errno, FdFlags, fcntl_setfd},
    process::{PidfdFlags, Signal, getpid, pidfd_open, set_parent_process_death_signal},
};

use super::first::go_on_as_second;

/// How much likelier than others a VM's process is chosen when memory runs out (proc_pid_oom_score_adj(5), to 1000): a host
/// without memory ends a VM, which is replaced, before a worker, which is not.
const OOM_SCORE_ADJ: &[u8] = b"500";

/// Starts `argv` in `directory`, with `output` as its stdout and stderr. With a `group`, a control group of version 2, it is born
/// in that, so that it need not move there, for which the kernel waits for all of the host; and as the second process of a PID
/// namespace of its own, so that whatever becomes of it ends with the first, which is ours.
///
/// The kernel kills it when the calling *thread* ends, so a guard spawns from its only one. `lock` stays open in it (in the first).
/// Its environment is empty but for a plain `PATH`.
pub fn spawn(
    argv: &[String],
    directory: &Path,
    output: OwnedFd,
    lock: OwnedFd,
    group: Option<&Path>,
) -> io::Result<Child> {
    let [program, arguments @ ..] = argv else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "empty argv"));
    };
    let guard = pidfd_open(getpid(), PidfdFlags::empty())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let group = group.map(|path| open(path, flags, Mode::empty())).transpose()?;
    let alone = group.is_some();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The guard may have died before the line above; then nobody is left to send the signal.
        if has_ended(&guard)? {
            return Err(Errno::SRCH.into());
        }
        let score = open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(score, OOM_SCORE_ADJ)?;
        fcntl_setfd(&lock, FdFlags::empty())?;
        group.as_ref().map_or(Ok(()), |group| go_on_as_second(group, &lock))
    };
    // SAFETY: the closure runs in the forked child, where only async-signal-safe work is allowed: it makes plain
    // system calls (rustix calls the kernel directly), allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
    if alone { in_new_namespace(|| command.spawn()) } else { command.spawn() }
}

/// A child that is made within is the first process of a new PID namespace.
fn in_new_namespace(spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
    let own = File::open("/proc/self/ns/pid")?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    let spawned = spawn();
    // Else every later child would be in there, too.
    let back = setns(own, CloneFlags::CLONE_NEWPID);
    match (spawned, back) {
        (Ok(mut child), Err(errno)) => {
            child.kill()?;
            child.wait()?;
            Err(errno.into())
        }
        (spawned, _) => spawned,
    }
}

fn has_ended(process: &OwnedFd) -> Result<bool, Errno> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now))? > 0)
}

/// Lets SIGINT, SIGTERM and SIGHUP pass this process by. Children inherit that; they end by SIGKILL anyway.
pub fn ignore_signals() -> io::Result<()> {
    for ignored in [signal::Signal::SIGINT, signal::Signal::SIGTERM, signal::Signal::SIGHUP] {
        // SAFETY: ignoring installs no handler, so nothing of ours runs in a signal's context.
        unsafe { signal::signal(ignored, SigHandler::SigIgn) }?;
    }
    Ok(())
}
