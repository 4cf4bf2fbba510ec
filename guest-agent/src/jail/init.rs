//! PID 1 of a jail. It reaps, and when the command has ended it says how and ends, and with it all that is left in
//! the namespace: the kernel kills that and lets nothing be forked meanwhile.
//!
//! It says how on a pipe. Its own end would not do: the PID 1 of a namespace cannot end itself by a signal.

use std::{
    ffi::c_int,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{io::Errno, process::Pid};

use crate::reaper::Ending;

/// Waits for `command`, a child of this process, and ends. Only system calls: this process was copied from one that
/// may have had other threads. Signals stay blocked; the agent's SIGKILL comes from outside and works.
pub(crate) fn init(command: Pid, status: BorrowedFd<'_>) -> ! {
    // Everything that was the agent's goes, above all the ends of pipes that others wait for the closing of.
    // SAFETY: nothing here uses any descriptor afterwards but 0.
    unsafe {
        libc::dup2(status.as_raw_fd(), 0);
        libc::syscall(libc::SYS_close_range, 1u32, u32::MAX, 0u32);
    }
    let command = command.as_raw_nonzero().get();
    loop {
        let mut status: c_int = 0;
        // SAFETY: writes one integer of ours.
        let ended = unsafe { libc::waitpid(-1, &mut status, 0) };
        if ended == command {
            let bytes = status.to_ne_bytes();
            // SAFETY: reads four bytes of ours; the pipe is empty, so this does not wait.
            unsafe { libc::write(0, bytes.as_ptr().cast(), bytes.len()) };
            // SAFETY: ends without running anything of the agent's.
            unsafe { libc::_exit(0) };
        }
        if ended < 0 && super::last_errno() != Errno::INTR {
            // SAFETY: as above. Without a word: the agent then goes by this end.
            unsafe { libc::_exit(127) };
        }
    }
}

/// What an init that has ended said of its command. `None`: it was killed before that.
pub(crate) fn status_of(pipe: &OwnedFd) -> Option<Ending> {
    let mut bytes = [0; size_of::<c_int>()];
    let length = rustix::io::read(pipe.as_fd(), &mut bytes).ok()?;
    (length == bytes.len()).then(|| ending(c_int::from_ne_bytes(bytes)))
}

/// Reads a wait status of a process that has ended.
pub(crate) fn ending(status: c_int) -> Ending {
    if libc::WIFSIGNALED(status) {
        Ending::Signal(libc::WTERMSIG(status))
    } else {
        Ending::Code(libc::WEXITSTATUS(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_as_the_kernel_means_it() {
        for code in 0..=255 {
            assert_eq!(ending(code << 8), Ending::Code(code));
        }
        assert_eq!(ending(9), Ending::Signal(9));
        assert_eq!(ending(11 | 0x80), Ending::Signal(11), "with a core dump");
    }

    /// Runs an init over a process that does `end`, and exits with what that returns if it does.
    fn told_of(end: fn(c_int) -> c_int, how: c_int) -> Option<Ending> {
        let (read, write) = rustix::pipe::pipe().unwrap();
        // SAFETY: both children make system calls only, and end.
        let init_pid = unsafe { libc::fork() };
        if init_pid == 0 {
            // SAFETY: as above.
            match Pid::from_raw(unsafe { libc::fork() }) {
                // SAFETY: as above.
                None => unsafe { libc::_exit(end(how)) },
                Some(command) => init(command, write.as_fd()),
            }
        }
        drop(write);
        let mut status = 0;
        // SAFETY: writes one integer of ours.
        assert_eq!(unsafe { libc::waitpid(init_pid, &mut status, 0) }, init_pid);
        assert_eq!(ending(status), Ending::Code(0), "the init itself ends well");
        status_of(&read)
    }

    #[test]
    fn an_init_tells_how_its_command_ended() {
        assert_eq!(
            told_of(|code| code, 137),
            Some(Ending::Code(137)),
            "not the signal that a shell would mean"
        );
        for signal in [libc::SIGTERM, libc::SIGUSR1, libc::SIGKILL] {
            // SAFETY: ends the process that calls it.
            let kill = |signal| unsafe { libc::kill(libc::getpid(), signal) };
            assert_eq!(told_of(kill, signal), Some(Ending::Signal(signal)));
        }
    }

    #[test]
    fn half_a_status_is_none() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, &[0, 1]).unwrap();
        drop(write);
        assert_eq!(status_of(&read), None);
        assert_eq!(status_of(&read), None, "and so is nothing");
    }
}
