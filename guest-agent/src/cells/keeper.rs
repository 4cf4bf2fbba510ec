//! PID 1 of a cell: starts one command after another, and says of each how it ended and whether anything of it is left.
//!
//! It was copied from the agent and so makes system calls and nothing else: no allocation, no locks. It is root without
//! the filter's calls; nobody in the cell can see it, signal it or trace it.

#![allow(
    unsafe_code,
    reason = "clone with a stack, waiting for children and System V objects have no safe form"
)]

use std::{
    ffi::{c_int, c_void},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg},
    process::{Gid, Uid},
};

use super::order::{Desk, Read};
use crate::{
    exec::{InCell, REPORT_BYTES, run_in_cell, settle, work_dir},
    jail::{Filter, last_errno},
};

/// Descriptors that come with an order: stdin, stdout, stderr, the list of a cgroup's processes.
pub(super) const DESCRIPTORS: usize = 4;
/// Bytes of a [`Word`].
pub(super) const WORD_BYTES: usize = 4 + 1 + 1 + REPORT_BYTES + 8;
pub(super) const FAILURE_BYTES: usize = 8;
/// The step of a keeper that had made its cell.
const SERVING: u32 = 300;
/// Says that the cell is made.
pub(super) const READY: [u8; 1] = [1];
/// The keeper's own descriptors are out of the way of a command's.
const OUT_OF_THE_WAY: c_int = 10;
const STACK_BYTES: usize = 64 * 1024;
/// A tmpfs in which nothing was ever made was last changed here; 1970 is as good as any time that is not now.
const LONG_AGO_S: i64 = 1;
/// As a shell says it; nobody sees it.
const EXIT_REFUSED: c_int = 127;

/// What a keeper needs, made before there is one.
#[derive(Debug)]
pub(super) struct Keeper {
    desk: Desk,
    stack: Vec<u8>,
    user: (Uid, Gid),
    filter: Filter,
}

/// What a command's first instructions need.
struct Start<'a> {
    read: &'a Read<'a>,
    /// The working tree of the cell.
    work: BorrowedFd<'a>,
    descriptors: [OwnedFd; DESCRIPTORS],
    user: (Uid, Gid),
    /// Written by the command before its exec, in memory that it shares with the keeper.
    refused: Option<[u8; REPORT_BYTES]>,
}

/// What a keeper says of a command that is gone with all that it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// As waitpid(2) gave it.
    pub(super) status: c_int,
    /// Whether nothing is left of it.
    pub(super) clean: bool,
    /// Why it was not executed.
    pub(super) refused: Option<[u8; REPORT_BYTES]>,
    /// From its start to its end, in nanoseconds.
    pub(super) wall_ns: u64,
}

impl Word {
    fn encode(self) -> [u8; WORD_BYTES] {
        let mut bytes = [0; WORD_BYTES];
        let refused = self.refused.unwrap_or_default();
        let flags = [u8::from(self.clean), u8::from(self.refused.is_some())];
        let (status, wall) = (self.status.to_le_bytes(), self.wall_ns.to_le_bytes());
        let all = status.into_iter().chain(flags).chain(refused).chain(wall);
        bytes.iter_mut().zip(all).for_each(|(place, byte)| *place = byte);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; WORD_BYTES]) -> Option<Self> {
        let (status, rest) = bytes.split_first_chunk::<4>()?;
        let ([clean, is_refused], rest) = rest.split_first_chunk::<2>()?;
        let (refused, wall) = rest.split_first_chunk::<REPORT_BYTES>()?;
        Some(Self {
            status: c_int::from_le_bytes(*status),
            clean: *clean == 1,
            refused: (*is_refused == 1).then_some(*refused),
            wall_ns: u64::from_le_bytes(*wall.first_chunk::<8>()?),
        })
    }
}

impl Keeper {
    pub(super) fn new(user: (Uid, Gid)) -> Self {
        Self { desk: Desk::new(), stack: vec![0; STACK_BYTES], user, filter: Filter::of_jobs(false) }
    }

    /// Everything after the world of the cell was made. Returns only what went wrong.
    pub(super) fn keep(&mut self, line: BorrowedFd<'_>) {
        let Ok(line) = alone_with(line) else { return };
        let Err(errno) = self.serve(&line);
        let _ = rustix::net::send(&line, &failure(SERVING, errno), SendFlags::NOSIGNAL);
    }

    fn serve(&mut self, line: &OwnedFd) -> Result<std::convert::Infallible, Errno> {
        let pids = rustix::fs::open(
            c"/proc/sys/kernel/ns_last_pid",
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let shm = rustix::fs::open(c"/dev/shm", flags, Mode::empty())?;
        let work = work_dir()?;
        age(&shm)?;
        settle(&self.filter)?;
        rustix::net::send(line, &READY, SendFlags::NOSIGNAL)?;
        loop {
            // The first process of each command has the same number.
            if let Some(pids) = &pids {
                let _ = rustix::io::pwrite(pids, b"1", 0);
            }
            let word = self.run_one(line, work.as_fd())?;
            let clean = untouched(&shm) && no_objects();
            rustix::net::send(line, &Word { clean, ..word }.encode(), SendFlags::NOSIGNAL)?;
        }
    }

    /// Waits for an order, obeys it, and sees to it that nobody but the keeper is left.
    fn run_one(&mut self, line: &OwnedFd, work: BorrowedFd<'_>) -> Result<Word, Errno> {
        let (length, descriptors) = receive(line, self.desk.space())?;
        let read = self.desk.read(length).ok_or(Errno::PROTO)?;
        let descriptors = descriptors.ok_or(Errno::PROTO)?;
        let mut start = Start { read: &read, work, descriptors, user: self.user, refused: None };
        let began = monotonic_ns();
        // SAFETY: the end of a stack of ours, aligned; the child runs on it alone, and this process waits until then.
        let command = unsafe {
            let top = self.stack.as_mut_ptr().add(STACK_BYTES - STACK_BYTES % 16).cast::<c_void>();
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            libc::clone(first_steps, top, flags, ptr::from_mut(&mut start).cast())
        };
        if command < 0 {
            return Err(last_errno());
        }
        // The child has executed or ended, and so has written what it had to.
        let refused = start.refused;
        drop(start);
        let status = reap_until(Some(command))?;
        let wall_ns = monotonic_ns().saturating_sub(began);
        // SAFETY: signals everybody in this PID namespace but its first process, which is this one.
        unsafe { libc::kill(-1, libc::SIGKILL) };
        match reap_until(None) {
            Err(Errno::CHILD) => Ok(Word { status, refused, wall_ns, clean: false }),
            Ok(_) => Err(Errno::PROTO),
            Err(errno) => Err(errno),
        }
    }
}

/// The command until its exec, in memory that it shares with the keeper, which stands still meanwhile.
extern "C" fn first_steps(start: *mut c_void) -> c_int {
    // SAFETY: `run_one` passes this, and does not return before this process has executed or ended.
    let Start { read, work, descriptors, user, refused } = unsafe { &mut *start.cast::<Start<'_>>() };
    let [stdin, stdout, stderr, procs] = descriptors.each_ref().map(AsFd::as_fd);
    *refused = Some(run_in_cell(&InCell {
        programs: read.programs,
        argv: read.argv,
        env: read.env,
        work: *work,
        cwd: read.cwd,
        settings: read.settings,
        stdio: [stdin, stdout, stderr],
        procs,
        user: *user,
    }));
    EXIT_REFUSED
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// Closes everything but the line, and keeps that where no command's descriptors go.
fn alone_with(line: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let kept = rustix::io::fcntl_dupfd_cloexec(line, OUT_OF_THE_WAY)?;
    let number = kept.as_raw_fd().unsigned_abs();
    // SAFETY: nothing here uses any other descriptor afterwards.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0u32, number.saturating_sub(1), 0u32);
        libc::syscall(libc::SYS_close_range, number.saturating_add(1), u32::MAX, 0u32);
    }
    for _ in 0..3 {
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        std::mem::forget(null);
    }
    Ok(kept)
}

/// The next order. When the agent is gone, so is everything.
fn receive(line: &OwnedFd, space: &mut [u8]) -> Result<(usize, Option<[OwnedFd; DESCRIPTORS]>), Errno> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut room);
    let mut buffers = [std::io::IoSliceMut::new(space)];
    let got = recvmsg(line, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Err(Errno::PIPE);
    }
    let mut found = [const { None }; DESCRIPTORS];
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            for (place, descriptor) in found.iter_mut().zip(descriptors) {
                *place = Some(descriptor);
            }
        }
    }
    let [Some(a), Some(b), Some(c), Some(d)] = found else { return Ok((got.bytes, None)) };
    Ok((got.bytes, Some([a, b, c, d])))
}

/// Waits for children until this one has ended, or none is left.
fn reap_until(one: Option<c_int>) -> Result<c_int, Errno> {
    loop {
        let mut status = 0;
        // SAFETY: writes one integer of ours.
        let ended = unsafe { libc::waitpid(-1, &mut status, 0) };
        if ended < 0 && last_errno() != Errno::INTR {
            return Err(last_errno());
        }
        if one == Some(ended) {
            return Ok(status);
        }
    }
}

/// Makes a directory look as if it was changed long ago.
fn age(directory: &OwnedFd) -> Result<(), Errno> {
    let long_ago = rustix::fs::Timespec { tv_sec: LONG_AGO_S, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: long_ago, last_modification: long_ago };
    rustix::fs::futimens(directory, &times)
}

/// Whether nothing was made or removed in a directory since it was aged; only root could age it again.
fn untouched(directory: &OwnedFd) -> bool {
    rustix::fs::fstat(directory).is_ok_and(|state| state.st_mtime == LONG_AGO_S)
}

/// Whether this IPC namespace has no System V object.
fn no_objects() -> bool {
    /// `struct shm_info`, `struct seminfo` and `struct msginfo` start with integers; none is longer than this.
    const INFO_INTEGERS: usize = 64;
    const SHM_INFO: c_int = 14;
    const SEM_INFO: c_int = 19;
    const MSG_INFO: c_int = 12;
    // How many there are (shmctl(2) and its like): shm_info.used_ids, seminfo.semusz, msginfo.msgpool.
    let none = |call, arguments: [c_int; 3], at: usize| {
        let mut info = [0 as c_int; INFO_INTEGERS];
        let [first, second, third] = arguments;
        let space = info.as_mut_ptr();
        // SAFETY: each call writes one structure, shorter than the space.
        let done = unsafe {
            match call {
                libc::SYS_semctl => libc::syscall(call, first, second, third, space),
                _ => libc::syscall(call, first, second, space),
            }
        };
        done >= 0 && info.get(at) == Some(&0)
    };
    none(libc::SYS_shmctl, [0, SHM_INFO, 0], 0)
        && none(libc::SYS_semctl, [0, 0, SEM_INFO], SEM_USED)
        && none(libc::SYS_msgctl, [0, MSG_INFO, 0], 0)
}

/// `semusz` in `struct seminfo` (linux/sem.h).
const SEM_USED: usize = 7;

/// What a cell says that could not be made, or that fails: the step and the error.
pub(super) fn failure(step: u32, errno: Errno) -> [u8; FAILURE_BYTES] {
    let mut bytes = [0; FAILURE_BYTES];
    let (first, second) = bytes.split_at_mut(4);
    first.copy_from_slice(&step.to_le_bytes());
    second.copy_from_slice(&errno.raw_os_error().to_le_bytes());
    bytes
}

/// Reads that.
pub(super) fn read_failure(bytes: &[u8]) -> Option<(u32, Errno)> {
    let [a, b, c, d, e, f, g, h] = bytes.first_chunk::<FAILURE_BYTES>()?;
    let errno = Errno::from_raw_os_error(i32::from_le_bytes([*e, *f, *g, *h]));
    Some((u32::from_le_bytes([*a, *b, *c, *d]), errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_said() {
        let refused = Word { status: 127 << 8, refused: Some([1, 2, 3, 4, 5, 6, 7, 8]), ..Word::default() };
        let done = Word { status: 9, clean: true, refused: None, wall_ns: 5_000_000_000 };
        for word in [refused, done] {
            assert_eq!(Word::decode(&word.encode()), Some(word));
        }
    }
}
