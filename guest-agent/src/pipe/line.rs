//! One session on a line that knows neither connecting nor hanging up.
//!
//! * Nothing is written before the peer has been heard: a port that nobody listens to drops bytes.
//! * A session can be cut, which a line cannot be.
//! * A host that starts anew in the middle of a session is recognised by its prelude, and what it said since is
//!   kept for the next session.

use std::{
    io::Result,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use hearth_schemas::{guest::PRELUDE, limits::FRAME_MAX_BYTES};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much of what was read last is kept: more than the driver reads ahead.
const RECENT_MAX_BYTES: usize = 4 * FRAME_MAX_BYTES;

/// What the owner of a session on a line may know and do. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct LineState(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    heard: bool,
    cut: bool,
    /// The last bytes of this session.
    recent: Vec<u8>,
    /// Bytes of this session that are in `recent` no more.
    dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl LineState {
    /// Ends the session: its reader sees the end.
    pub(crate) fn cut(&self) {
        let mut state = self.lock();
        state.cut = true;
        state.reader.take().into_iter().chain(state.writer.take()).for_each(Waker::wake);
    }

    /// What the next session should hear first.
    pub(crate) fn left_over(&self) -> Vec<u8> {
        let state = self.lock();
        left_over(&state.recent, state.dropped).to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From the newest prelude on, unless that is the one that opened this session.
fn left_over(recent: &[u8], dropped: bool) -> &[u8] {
    let mut preludes = recent.windows(PRELUDE.len()).enumerate().filter(|(_, window)| *window == PRELUDE);
    let first = if dropped { None } else { preludes.next() };
    let newest = preludes.next_back().map(|(at, _)| at).filter(|_| dropped || first.is_some());
    newest.and_then(|at| recent.get(at..)).unwrap_or_default()
}

/// A line, for one session.
#[derive(Debug)]
pub(crate) struct Line<T> {
    io: T,
    /// What a session before this one has read for it.
    before: Vec<u8>,
    state: LineState,
}

impl<T> Line<T> {
    /// A session that hears `before` first.
    pub(crate) fn new(io: T, before: Vec<u8>, state: LineState) -> Self {
        Self { io, before, state }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Line<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        {
            let mut state = this.state.lock();
            if state.cut {
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(cx.waker().clone());
        }
        let filled = buffer.filled().len();
        if this.before.is_empty() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        } else {
            let length = this.before.len().min(buffer.remaining());
            buffer.put_slice(this.before.drain(..length).as_slice());
        }
        this.state.lock().hear(buffer.filled().get(filled..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl State {
    fn hear(&mut self, bytes: &[u8]) {
        self.heard |= !bytes.is_empty();
        self.recent.extend_from_slice(bytes);
        let excess = self.recent.len().saturating_sub(RECENT_MAX_BYTES);
        if excess > 0 {
            self.recent.drain(..excess);
            self.dropped = true;
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Line<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        {
            let mut state = this.state.lock();
            if !state.heard {
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Pin::new(&mut this.io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn recent(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn only_a_prelude_after_the_sessions_own_is_left_over() {
        let own = recent(&[b"noise", &PRELUDE, b"hello"]);
        assert_eq!(left_over(&own, false), b"");
        let again = recent(&[&PRELUDE, b"hello", &PRELUDE, b"new"]);
        assert_eq!(left_over(&again, false), recent(&[&PRELUDE, b"new"]));
        assert_eq!(left_over(&recent(&[b"cut", &PRELUDE, b"new"]), true), recent(&[&PRELUDE, b"new"]));
        assert_eq!(left_over(b"", false), b"");
    }

    #[tokio::test]
    async fn nothing_is_written_before_the_peer_was_heard_and_a_cut_is_an_end() {
        let (mut host, port) = tokio::io::duplex(64);
        let state = LineState::default();
        let mut line = Line::new(port, b"ab".to_vec(), state.clone());
        assert!(futures_like_poll(&mut line).await.is_pending());
        let mut two = [0; 2];
        line.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ab");
        line.write_all(b"ok").await.unwrap();
        host.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ok");
        state.cut();
        host.write_all(b"more").await.unwrap();
        assert_eq!(line.read(&mut two).await.unwrap(), 0);
    }

    async fn futures_like_poll(line: &mut Line<tokio::io::DuplexStream>) -> Poll<Result<usize>> {
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *line).poll_write(cx, b"x"))).await
    }
}
