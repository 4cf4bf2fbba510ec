//! The serial port of a guest that is booting.
//!
//! What the host writes before the guest has opened its port is partly lost: the port has room for one byte, and the
//! kernel's driver empties it. And the agent says nothing before it has heard the host. So the host knocks, with bytes that
//! mean nothing, until it hears the agent's prelude; only then it begins its session.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use hearth_schemas::guest::PRELUDE;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{MissedTickBehavior, interval, timeout},
};

/// What is skipped by whoever looks for a prelude.
const KNOCK: &[u8] = b"\n";
/// How long a port may take for a knock.
const KNOCK_LIMIT: Duration = Duration::from_millis(50);
/// Bytes that are kept while the prelude is looked for.
const KEPT_BYTES: usize = 64 * 1024;

/// A pipe of which something was read already, which is read again first.
#[derive(Debug)]
pub struct Replay<T> {
    heard: BytesMut,
    pipe: T,
}

/// Knocks every so often until the agent's prelude has come. The pipe that is returned begins with it. Has no bound in time.
pub async fn wait_for_agent<T>(mut pipe: T, knock_every: Duration) -> io::Result<Replay<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut heard = BytesMut::new();
    let mut knock = interval(knock_every);
    knock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if let Some(at) = heard.windows(PRELUDE.len()).position(|window| window == PRELUDE) {
            heard.advance(at);
            return Ok(Replay { heard, pipe });
        }
        let keep = if heard.len() > KEPT_BYTES { PRELUDE.len() } else { heard.len() };
        heard.advance(heard.len() - keep);
        tokio::select! {
            read = pipe.read_buf(&mut heard) => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            // A port that is not read yet fills up; then there has been knocking enough.
            _ = knock.tick() => {
                let _ = timeout(KNOCK_LIMIT, pipe.write_all(KNOCK)).await;
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Replay<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.heard.is_empty() {
            return Pin::new(&mut self.pipe).poll_read(context, into);
        }
        let count = self.heard.len().min(into.remaining());
        into.put_slice(&self.heard.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Replay<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_waits_for_a_knock_is_heard_behind_any_noise() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let agent = async {
            theirs.write_all(&vec![b'\n'; 3 * KEPT_BYTES]).await.unwrap();
            let mut knock = [0];
            theirs.read_exact(&mut knock).await.unwrap();
            assert_eq!(knock, KNOCK);
            theirs.write_all(b"SeaBIOS\0HEAR").await.unwrap();
            theirs.write_all(&PRELUDE).await.unwrap();
            theirs.write_all(b"frames").await.unwrap();
            theirs.shutdown().await.unwrap();
            theirs
        };
        let host = async {
            let mut pipe = wait_for_agent(ours, KNOCK_LIMIT).await.unwrap();
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).await.unwrap();
            bytes
        };
        let (_, bytes) = tokio::join!(agent, host);
        assert_eq!(bytes, [&PRELUDE[..], b"frames"].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_closes_without_an_agent_is_an_error_and_a_full_one_is_not() {
        let (ours, theirs) = tokio::io::duplex(2);
        let closed = async {
            tokio::time::sleep(10 * KNOCK_LIMIT).await;
            drop(theirs);
        };
        let (error, ()) = tokio::join!(wait_for_agent(ours, KNOCK_LIMIT), closed);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
