//! Starting a process that cannot outlive the guard, and a guard that outlives a Ctrl-C.
#![allow(unsafe_code, reason = "signal dispositions and code between fork and exec; see SAFETY below")]

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::sys::signal::{self, SigHandler};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Signal, getpid, getppid, set_parent_process_death_signal},
};

/// Starts `argv` in `directory`, with `output` as its stdout and stderr.
///
/// The kernel kills it when the calling *thread* ends, so a guard spawns from its only one. `lock` stays open in it.
/// Its environment is empty but for a plain `PATH`.
pub fn spawn(argv: &[String], directory: &Path, output: OwnedFd, lock: OwnedFd) -> io::Result<Child> {
    let [program, arguments @ ..] = argv else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "empty argv"));
    };
    let guard = getpid();
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
        if getppid() != Some(guard) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
        }
        fcntl_setfd(&lock, FdFlags::empty())?;
        Ok(())
    };
    // SAFETY: the closure runs in the forked child, where only async-signal-safe work is allowed: it makes three
    // plain system calls (rustix calls the kernel directly), allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Lets SIGINT, SIGTERM and SIGHUP pass this process by. Children inherit that; they end by SIGKILL anyway.
pub fn ignore_signals() -> io::Result<()> {
    for ignored in [signal::Signal::SIGINT, signal::Signal::SIGTERM, signal::Signal::SIGHUP] {
        // SAFETY: ignoring installs no handler, so nothing of ours runs in a signal's context.
        unsafe { signal::signal(ignored, SigHandler::SigIgn) }?;
    }
    Ok(())
}
