//! Cells: jails with a fresh copy of the working tree that serve one command after another, for as long as nothing of a
//! command is left in them. Making a jail costs several times what starting a program does; that a program has
//! left nothing is seen by a few looks. A cell in which anything was left is never used again.
//!
//! What is looked at: the directory that takes what is written to the copy, /dev/shm, the System V objects; processes are
//! killed. There are no POSIX message queues in a cell. Everything else that a command could change is gone with it.

mod keeper;
mod order;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub(crate) use order::{Order, Settings};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    },
    process::{Gid, Pid, PidfdFlags, Signal, Uid, pidfd_open, pidfd_send_signal},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};

use self::keeper::{DESCRIPTORS, Keeper, READY, WORD_BYTES, Word, read_failure};
use crate::{
    agent::Agent,
    copies::{Copy, CopyError},
    exec::{Refused, start_keeper},
    jail::{Jail, ending},
    reaper::Ending,
};

/// Idle cells that are kept: commands in copies come one after another.
const IDLE_MAX: usize = 2;

/// A cell could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CellError {
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error("making a cell")]
    Make(#[from] io::Error),
    #[error("preparation {0} of a cell")]
    Step(u32, #[source] Errno),
}

/// The cells that nobody uses, and whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    idle: Mutex<Vec<Cell>>,
    turn: tokio::sync::Mutex<()>,
}

/// One cell.
#[derive(Debug)]
pub(crate) struct Cell {
    keeper: Pid,
    /// Names the keeper even when its id is somebody else's.
    pidfd: OwnedFd,
    died: oneshot::Receiver<Ending>,
    line: AsyncFd<OwnedFd>,
    copy: Copy,
}

/// How a command in a cell ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub(crate) ending: Ending,
    /// Why it was not executed.
    pub(crate) refused: Option<Refused>,
    /// From its start to its end, as the keeper saw it; `None` when the keeper died.
    pub(crate) wall: Option<Duration>,
    /// The keeper lives and has found nothing.
    pub(crate) clean: bool,
}

impl Cells {
    fn idle(&self) -> MutexGuard<'_, Vec<Cell>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all that asked before have had their turns. Cancel safe: the turn is lost.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// A cell with a copy of the tree as it is now. Whoever changes the tree calls [`Cells::clear`] first.
    pub(crate) async fn take(&self, agent: &Agent, jail: &Jail) -> Result<Cell, CellError> {
        let idle = self.idle().pop();
        match idle {
            Some(cell) => Ok(cell),
            None => Cell::make(agent, jail).await,
        }
    }

    /// Keeps a cell for the next command if nothing is left in it, and removes it otherwise.
    pub(crate) async fn give_back(&self, cell: Cell, clean: bool) {
        if clean && cell.copy.untouched() {
            let mut idle = self.idle();
            if idle.len() < IDLE_MAX {
                idle.push(cell);
                return;
            }
        }
        cell.discard().await;
    }

    /// Removes all idle cells.
    pub(crate) async fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle());
        for cell in idle {
            cell.discard().await;
        }
    }
}

/// Starts a keeper. What it needs of memory is made here, before there are two processes.
fn start(jail: &Jail, copy: &Copy, line: &OwnedFd, user: (Uid, Gid)) -> io::Result<Pid> {
    let mut keeper = Keeper::new(user);
    Ok(start_keeper(jail, copy, line, || keeper.keep(line.as_fd()))?)
}

#[allow(unsafe_code, reason = "whether a descriptor stays open cannot be seen by its type")]
fn watched(line: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: it is open for as long as somebody owns it.
    Ok(unsafe { AsyncFd::register_with_interest(line, Interest::READABLE) }?)
}

impl Cell {
    async fn make(agent: &Agent, jail: &Jail) -> Result<Self, CellError> {
        let copy = agent.copies().make()?;
        let user = agent.ids_of(hearth_schemas::guest::messages::User::Job);
        let user = user.ok_or(CellError::Step(0, Errno::PERM))?;
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(io::Error::from)?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(io::Error::from)?;
        let pid = start(jail, &copy, &theirs, user)?;
        let died = agent.reaper().register(pid);
        drop(theirs);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from)?;
        let line = watched(ours)?;
        let cell = Self { keeper: pid, pidfd, died, line, copy };
        let mut ready = [0; 16];
        let said = cell.hear(&mut ready).await.unwrap_or(0);
        if ready.get(..said) == Some(&READY) {
            return Ok(cell);
        }
        let (step, errno) = ready.get(..said).and_then(read_failure).unwrap_or((0, Errno::PIPE));
        cell.discard().await;
        Err(CellError::Step(step, errno))
    }

    /// PID 1 of the cell, as the agent sees it: everybody in the cell dies with it.
    pub(crate) fn keeper(&self) -> Pid {
        self.keeper
    }

    /// Starts a command. Its descriptors are stdin, stdout, stderr and the processes of its cgroup.
    pub(crate) fn start(
        &self,
        order: &[u8],
        descriptors: [BorrowedFd<'_>; DESCRIPTORS],
    ) -> Result<(), Errno> {
        let mut room = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut room);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let parts = [io::IoSlice::new(order)];
        sendmsg(self.line.get_ref(), &parts, &mut ancillary, SendFlags::NOSIGNAL).map(drop)
    }

    /// Waits until the command and all that it started are gone. Cancel safe.
    pub(crate) async fn ended(&self) -> Left {
        let mut word = [0; WORD_BYTES];
        let heard = self.hear(&mut word).await;
        match heard.ok().filter(|length| *length == WORD_BYTES).and_then(|_| Word::decode(&word)) {
            Some(Word { status, clean, refused, wall_ns }) => Left {
                ending: ending(status),
                refused: refused.and_then(|report| Refused::decode(&report)),
                wall: Some(Duration::from_nanos(wall_ns)),
                clean,
            },
            // It was killed, and with it the command.
            None => {
                let ending = Ending::Signal(Signal::KILL.as_raw());
                Left { ending, refused: None, wall: None, clean: false }
            }
        }
    }

    async fn hear(&self, space: &mut [u8]) -> io::Result<usize> {
        let read = |line: &OwnedFd| Ok(rustix::io::read(line.as_fd(), &mut *space)?);
        self.line.async_io(Interest::READABLE, read).await
    }

    /// Ends it, and removes all that was written in it.
    pub(crate) async fn discard(self) {
        let Self { pidfd, died, line, copy, .. } = self;
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        drop(line);
        // Its mounts are gone when it is.
        let _ = died.await;
        copy.discard().await;
    }
}
