//! Carries a command's output to the host, and its input from there.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use bytes::Bytes;
use hearth_schemas::limits::DATA_CHUNK_BYTES;
use hearth_wire::{Sender, StreamReceiver};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::{mpsc, watch},
};

use crate::live::Copier;

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

/// Where one stream of output goes.
pub(super) struct Output {
    /// The end that is read here.
    pub(super) pipe: OwnedFd,
    /// The stream to the host.
    pub(super) to: Sender,
    /// Where a copy goes, without waiting.
    pub(super) live: Option<Copier>,
    /// What may pass.
    pub(super) limit: Option<u64>,
    /// Told once when there was more.
    pub(super) over: mpsc::Sender<()>,
    /// Becomes true when every process that could write is gone.
    pub(super) gone: watch::Receiver<bool>,
}

impl Output {
    /// Carries everything until the pipe is closed or, should a stranger hold it open, until it is empty after
    /// the tree is gone. Waits for the host's credit; holds one chunk. Returns how much was written to it.
    pub(super) async fn carry(self) -> io::Result<u64> {
        let Self { pipe, to, live, limit, over, mut gone } = self;
        let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let mut buffer = vec![0u8; DATA_CHUNK_BYTES];
        let mut cap = Cap { limit, seen: 0 };
        let mut to = Some(to);
        loop {
            let read = tokio::select! {
                biased;
                read = pipe.read(&mut buffer) => read?,
                // Asked of the kernel itself: the runtime's idea of readiness may be older than the last write.
                _ = gone.wait_for(|gone| *gone) => rustix::io::read(pipe.as_fd(), &mut buffer).unwrap_or(0),
            };
            if read == 0 {
                break;
            }
            let passing = buffer.get(..cap.admit(read)).unwrap_or_default();
            if let Some(live) = &live {
                live.data(passing);
            }
            if let Some(sender) = to.take() {
                // A copy of its true size: one byte must not hold a chunk's memory while it waits for credit.
                to = sender.data(Bytes::copy_from_slice(passing)).await.is_ok().then_some(sender);
            }
            if cap.over() {
                let _ = over.try_send(());
            }
        }
        if let Some(sender) = to {
            let _ = sender.end().await;
        }
        Ok(cap.seen)
    }
}

/// Feeds a command's stdin until the host ends it or nobody reads any more.
pub(super) async fn feed(mut from: StreamReceiver, pipe: OwnedFd) {
    let Ok(mut pipe) = pipe::Sender::from_owned_fd(pipe) else { return };
    while let Ok(Some(bytes)) = from.data().await {
        if pipe.write_all(&bytes).await.is_err() {
            return;
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
