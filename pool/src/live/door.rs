//! Lets one connection in: the one that opens with the right nonce.

use std::{hint::black_box, io, time::Duration};

use hearth_schemas::limits::WAKE_NONCE_BYTES;
use tokio::{
    io::AsyncReadExt,
    sync::oneshot,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::LiveReader;
use crate::hypervisor::Accept;

/// How long the guest may take to come and say the nonce.
pub(crate) const LIVE_LIMIT: Duration = Duration::from_secs(2);
/// Connections whose nonce is awaited at once; others wait to be accepted.
const PENDING_MAX: usize = 8;

/// What opens the connection.
pub(crate) type Nonce = [u8; WAKE_NONCE_BYTES];

/// Listens for a while. Who comes without the nonce is dropped, as is who comes after the one that has it. When the
/// receiver is dropped nobody listens any more.
pub(crate) fn open<A: Accept>(accept: A, nonce: Nonce) -> oneshot::Receiver<LiveReader> {
    let (mut give, take) = oneshot::channel();
    tokio::spawn(async move {
        let admitted = tokio::select! {
            admitted = admit(accept, nonce) => admitted,
            () = give.closed() => return,
        };
        match admitted {
            Ok(Some(reader)) => drop(give.send(reader)),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "nobody can be let in for a live connection"),
        }
    });
    take
}

async fn admit<A: Accept>(mut accept: A, nonce: Nonce) -> io::Result<Option<LiveReader>> {
    let deadline = Instant::now() + LIVE_LIMIT;
    let mut pending = JoinSet::new();
    let mut first = async || {
        loop {
            tokio::select! {
                Some(said) = pending.join_next(), if !pending.is_empty() => {
                    if let Ok(Some(io)) = said {
                        return Ok(LiveReader::new(Box::new(io)));
                    }
                    tracing::warn!("a live connection opened without its nonce, and was dropped");
                }
                io = accept.accept(), if pending.len() < PENDING_MAX => {
                    pending.spawn(says(io?, nonce, deadline));
                }
            }
        }
    };
    timeout_at(deadline, first()).await.map_or(Ok(None), |admitted| admitted.map(Some))
}

/// The connection, when it opens with the nonce.
async fn says<Io: tokio::io::AsyncRead + Unpin>(mut io: Io, nonce: Nonce, deadline: Instant) -> Option<Io> {
    let mut said = [0; WAKE_NONCE_BYTES];
    timeout_at(deadline, io.read_exact(&mut said)).await.ok()?.ok()?;
    same(&said, &nonce).then_some(io)
}

/// Whether they are the same, in a time that does not depend on where they differ.
fn same(one: &Nonce, other: &Nonce) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (one, other)| black_box(differ | (one ^ other)));
    differ == 0
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncWriteExt, DuplexStream, duplex},
        sync::mpsc,
    };

    use super::*;

    struct Queue(mpsc::Receiver<DuplexStream>);

    impl Accept for Queue {
        type Io = DuplexStream;

        async fn accept(&mut self) -> io::Result<DuplexStream> {
            match self.0.recv().await {
                Some(io) => Ok(io),
                None => std::future::pending().await,
            }
        }
    }

    const NONCE: Nonce = [7; WAKE_NONCE_BYTES];

    fn door() -> (mpsc::Sender<DuplexStream>, oneshot::Receiver<LiveReader>) {
        let (come, queue) = mpsc::channel(16);
        (come, open(Queue(queue), NONCE))
    }

    /// Comes and says this; its end.
    async fn comes(come: &mpsc::Sender<DuplexStream>, says: &[u8]) -> DuplexStream {
        let (ours, mut theirs) = duplex(1024);
        come.send(ours).await.unwrap();
        theirs.write_all(says).await.unwrap();
        theirs
    }

    async fn is_dropped(mut io: DuplexStream) -> bool {
        io.read(&mut [0]).await.is_ok_and(|read| read == 0)
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_with_the_right_nonce_is_let_in_whoever_else_is_there() {
        let (come, admitted) = door();
        let mut wrong = NONCE;
        wrong[31] ^= 1;
        let silent = comes(&come, b"").await;
        let short = comes(&come, &NONCE[..31]).await;
        let liar = comes(&come, &wrong).await;
        assert!(is_dropped(liar).await);
        let mut right = comes(&come, &NONCE).await;
        let mut reader = admitted.await.unwrap();
        assert!(is_dropped(silent).await && is_dropped(short).await);
        let second = duplex(1024).0;
        assert!(come.send(second).await.is_err(), "nobody listens any more");
        right.write_all(&[2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().live, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_door_closes_after_a_while_or_with_its_receiver() {
        let (come, admitted) = door();
        let silent = comes(&come, b"").await;
        let began = Instant::now();
        assert!(admitted.await.is_err());
        assert_eq!(began.elapsed(), LIVE_LIMIT);
        assert!(is_dropped(silent).await);
        let (come, admitted) = door();
        let silent = comes(&come, b"").await;
        drop(admitted);
        assert!(is_dropped(silent).await);
        come.closed().await;
    }
}
