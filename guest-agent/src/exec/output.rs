//! Carries a command's output to the host, and its input from there.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bytes::{Bytes, BytesMut};
use hearth_schemas::{
    guest::messages::{self, Reply, reply},
    limits::{DATA_CHUNK_BYTES, INLINE_OUTPUT_REST_BYTES},
};
use hearth_wire::Sender;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::{mpsc, watch},
    time::timeout,
};

use super::{streams::Input, supervise::TICK};
use crate::live::Copier;

/// What is read at once of output that has ended already.
const SHORT_BYTES: usize = 4096;

/// Counts output, and says how much of it is still within the limit.
#[derive(Clone, Copy, Debug, Default)]
struct Cap {
    limit: Option<u64>,
    seen: u64,
}

impl Cap {
    /// Counts `length` more bytes; returns how many of them may pass.
    fn admit(&mut self, length: usize) -> usize {
        let room = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.seen));
        self.seen = self.seen.saturating_add(length as u64);
        usize::try_from(room).unwrap_or(usize::MAX).min(length)
    }

    fn over(&self) -> bool {
        self.limit.is_some_and(|limit| self.seen > limit)
    }
}

/// Who gets a command's output.
pub(super) enum To<'a> {
    /// A stream of its own; `None` once nobody reads it any more.
    Stream(Option<Sender>),
    /// The stream of the request. What is short waits for the end of the command.
    Inline { control: Option<&'a Sender>, stderr: bool, rest: BytesMut },
}

impl<'a> To<'a> {
    pub(super) fn inline(control: &'a Sender, stderr: bool) -> Self {
        Self::Inline { control: Some(control), stderr, rest: BytesMut::new() }
    }

    /// Takes at most a chunk. Waits for the host's credit.
    async fn pass(&mut self, bytes: &[u8]) {
        match self {
            Self::Stream(to) => {
                if let Some(sender) = to.take() {
                    // A copy of its true size: one byte must not hold a chunk's memory while it waits for credit.
                    *to = sender.data(Bytes::copy_from_slice(bytes)).await.is_ok().then_some(sender);
                }
            }
            Self::Inline { control, stderr, rest } => {
                if rest.len() + bytes.len() > INLINE_OUTPUT_REST_BYTES {
                    *control = say(*control, *stderr, rest.split().freeze()).await;
                }
                match bytes.len() {
                    length if length > INLINE_OUTPUT_REST_BYTES => {
                        *control = say(*control, *stderr, Bytes::copy_from_slice(bytes)).await;
                    }
                    _ => rest.extend_from_slice(bytes),
                }
            }
        }
    }

    /// Says the end, or gives what is left to say.
    async fn end(self) -> Bytes {
        match self {
            Self::Stream(sender) => {
                if let Some(sender) = sender {
                    let _ = sender.end().await;
                }
                Bytes::new()
            }
            Self::Inline { rest, .. } => rest.freeze(),
        }
    }
}

async fn say(control: Option<&Sender>, stderr: bool, data: Bytes) -> Option<&Sender> {
    let control = control?;
    if data.is_empty() {
        return Some(control);
    }
    let output = reply::Body::Output(messages::Output { stderr, data });
    control.message(&Reply { body: Some(output) }).await.ok().map(|()| control)
}

/// Where one stream of output goes.
pub(super) struct Output<'a> {
    /// The end that is read here.
    pub(super) pipe: OwnedFd,
    /// Who gets it.
    pub(super) to: To<'a>,
    /// Where a copy goes, without waiting.
    pub(super) live: Option<Copier>,
    /// What may pass.
    pub(super) limit: Option<u64>,
    /// Told once when there was more.
    pub(super) over: mpsc::Sender<()>,
    /// Becomes true when every process that could write is gone.
    pub(super) gone: watch::Receiver<bool>,
}

/// What became of one stream of output.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// How much was written to it.
    pub(super) bytes: u64,
    /// What the host has not been sent of it.
    pub(super) rest: Bytes,
}

impl Output<'_> {
    /// Carries everything until the pipe is closed or, should a stranger hold it open, until it is empty after
    /// the tree is gone. Waits for the host's credit; holds one chunk.
    pub(super) async fn carry(self) -> Carried {
        let Self { pipe, mut to, live, limit, over, mut gone } = self;
        let mut cap = Cap { limit, seen: 0 };
        // Only what is short and comes at once is worth no more than a look at its end.
        let over_soon = matches!(to, To::Inline { .. })
            && live.is_none()
            && timeout(TICK, gone.wait_for(|gone| *gone)).await.is_ok_and(|told| told.is_ok());
        let mut buffer = Vec::with_capacity(if over_soon { SHORT_BYTES } else { DATA_CHUNK_BYTES });
        let mut source = match over_soon {
            true => Source::ended(pipe),
            false => Source::running(pipe),
        };
        while let Ok(source) = &mut source {
            buffer.clear();
            let read = source.read(&mut buffer, &mut gone).await;
            if read == 0 {
                break;
            }
            let passing = buffer.get(..cap.admit(read)).unwrap_or_default();
            if let Some(live) = &live {
                live.data(passing);
            }
            to.pass(passing).await;
            if cap.over() {
                let _ = over.try_send(());
            }
        }
        Carried { bytes: cap.seen, rest: to.end().await }
    }
}

/// The end of a pipe that is read.
enum Source {
    /// Its writers may still live.
    Running(pipe::Receiver),
    /// They are gone: whatever there is, is in it.
    Ended(OwnedFd),
}

impl Source {
    fn running(pipe: OwnedFd) -> io::Result<Self> {
        pipe::Receiver::from_owned_fd(pipe).map(Self::Running)
    }

    fn ended(pipe: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self::Ended(pipe))
    }

    /// Reads into what room there is. 0: there is no more.
    async fn read(&mut self, buffer: &mut Vec<u8>, gone: &mut watch::Receiver<bool>) -> usize {
        match self {
            Self::Running(pipe) => tokio::select! {
                biased;
                read = pipe.read_buf(buffer) => read.unwrap_or(0),
                // Asked of the kernel itself: the runtime's idea of readiness may be older than the last write.
                _ = gone.wait_for(|gone| *gone) => read_now(pipe.as_fd(), buffer),
            },
            Self::Ended(pipe) => read_now(pipe.as_fd(), buffer),
        }
    }
}

fn read_now(pipe: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> usize {
    rustix::io::read(pipe, rustix::buffer::spare_capacity(buffer)).unwrap_or(0)
}

/// Feeds a command's stdin until the host ends it or nobody reads any more.
pub(super) async fn feed(from: Input, pipe: OwnedFd) {
    let Ok(mut pipe) = pipe::Sender::from_owned_fd(pipe) else { return };
    match from {
        Input::Bytes(bytes) => drop(pipe.write_all(&bytes).await),
        Input::Stream(mut from) => {
            while let Ok(Some(bytes)) = from.data().await {
                if pipe.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_limit_is_counted_and_does_not_pass() {
        let mut cap = Cap { limit: Some(10), seen: 0 };
        assert_eq!((cap.admit(7), cap.over()), (7, false));
        assert_eq!((cap.admit(3), cap.over()), (3, false), "the limit itself is allowed");
        assert_eq!((cap.admit(1), cap.over()), (0, true));
        assert_eq!((cap.admit(5), cap.seen), (0, 16));
        let mut open = Cap::default();
        assert_eq!((open.admit(1 << 20), open.over()), (1 << 20, false));
    }
}
