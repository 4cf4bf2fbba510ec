//! Copies of output for the host, over a connection of their own that the agent makes.
//!
//! Whoever prints never waits for it: what the host does not take in time is dropped, counted, and marked.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hearth_schemas::{
    backlog::{Backlog, Item},
    guest::{
        HOST_CID,
        frame::{Frame, Kind, encode},
        live::{LiveLost, stream_of},
        messages::{FaultKind, LiveOpened},
    },
    limits::{LIVE_CHUNK_BYTES, LIVE_GUEST_BACKLOG_BYTES},
};
use prost::Message as _;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::Notify,
    time::timeout,
};
use tokio_vsock::{VsockAddr, VsockStream};

use crate::fault::Refusal;

/// How long the host may take to be reached, and to take the nonce.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// What is written at once.
const WRITE_BYTES: usize = 2 * LIVE_CHUNK_BYTES;

/// Why there is no live connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiveError {
    #[error("live: the wake has brought neither port nor nonce")]
    NotAllowed,
    #[error("live: the host cannot be dialled")]
    Dial(#[source] io::Error),
    #[error("live: the host did not answer within {DIAL_MAX:?}")]
    Late,
}

impl Refusal for LiveError {
    fn kind(&self) -> FaultKind {
        match self {
            Self::NotAllowed => FaultKind::NotAwake,
            Self::Dial(_) | Self::Late => FaultKind::Internal,
        }
    }
}

/// Where the host may be dialled, and what it wants to hear.
#[derive(Clone, Debug)]
struct Ticket {
    port: u32,
    nonce: Vec<u8>,
}

/// The live connection of this machine, if it has one.
#[derive(Debug, Default)]
pub(crate) struct Live {
    ticket: Mutex<Option<Ticket>>,
    copies: Mutex<Option<Arc<Copies>>>,
}

impl Live {
    /// Notes what a wake has brought.
    pub(crate) fn allow(&self, port: u32, nonce: Vec<u8>) {
        *lock(&self.ticket) = (!nonce.is_empty()).then_some(Ticket { port, nonce });
    }

    /// Dials the host. What was open before is over.
    pub(crate) async fn open(&self) -> Result<LiveOpened, LiveError> {
        let Ticket { port, nonce } = lock(&self.ticket).clone().ok_or(LiveError::NotAllowed)?;
        let dial = async {
            let mut io = VsockStream::connect(VsockAddr::new(HOST_CID, port)).await?;
            io.write_all(&nonce).await?;
            Ok(io)
        };
        let io = timeout(DIAL_MAX, dial).await.map_err(|_| LiveError::Late)?.map_err(LiveError::Dial)?;
        let copies = Arc::new(Copies::default());
        tokio::spawn(carry(copies.clone(), io));
        if let Some(before) = lock(&self.copies).replace(copies) {
            before.close();
        }
        Ok(LiveOpened {})
    }

    /// Where copies of both streams of a command go, if they go anywhere. `live` is what the host calls it.
    pub(crate) fn streams_of(&self, live: u32) -> [Option<Copier>; 2] {
        let copies = lock(&self.copies).clone().filter(|copies| live != 0 && !copies.is_closed());
        [false, true].map(|is_stderr| {
            let copies = copies.clone()?;
            Some(Copier { copies, stream: stream_of(live, is_stderr) })
        })
    }
}

/// One stream of a command. Dropped, it has ended.
#[derive(Debug)]
pub(crate) struct Copier {
    copies: Arc<Copies>,
    stream: u32,
}

impl Copier {
    /// Copies a piece, if there is room.
    pub(crate) fn data(&self, data: &[u8]) {
        self.copies.with(|backlog| backlog.data(&self.stream, data));
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.copies.with(|backlog| backlog.put(self.stream));
    }
}

/// What waits for the host. Entries are streams that have ended.
#[derive(Debug)]
struct Copies {
    backlog: Mutex<Backlog<u32, u32>>,
    news: Notify,
    closed: AtomicBool,
}

impl Default for Copies {
    fn default() -> Self {
        let backlog = Mutex::new(Backlog::new(LIVE_GUEST_BACKLOG_BYTES, LIVE_CHUNK_BYTES));
        Self { backlog, news: Notify::new(), closed: AtomicBool::new(false) }
    }
}

impl Copies {
    fn with(&self, act: impl FnOnce(&mut Backlog<u32, u32>)) {
        if !self.is_closed() {
            act(&mut lock(&self.backlog));
            self.news.notify_one();
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// The next frames, as many as are written at once.
    fn frames(&self, out: &mut BytesMut) {
        let mut backlog = lock(&self.backlog);
        while out.len() < WRITE_BYTES
            && let Some(item) = backlog.take()
        {
            let (stream, kind, payload) = match item {
                Item::Data(stream, data) => (stream, Kind::Data, Bytes::from(data)),
                Item::Lost(stream, lost) => {
                    let lost = LiveLost { bytes: lost.bytes, chunks: lost.chunks };
                    (stream, Kind::Control, lost.encode_to_vec().into())
                }
                Item::Entry(stream) => (stream, Kind::End, Bytes::new()),
            };
            encode(&Frame { stream, kind, payload }, out);
        }
    }
}

/// Writes what there is until the host is gone or another connection takes this one's place.
async fn carry(copies: Arc<Copies>, mut io: impl AsyncWrite + Unpin) {
    let mut out = BytesMut::with_capacity(2 * WRITE_BYTES);
    while !copies.is_closed() {
        copies.frames(&mut out);
        if out.is_empty() {
            copies.news.notified().await;
        } else if io.write_all_buf(&mut out).await.is_err() {
            copies.close();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use hearth_schemas::guest::{frame::decode, live::command_of};
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_a_host_does_not_take_is_dropped_and_marked_and_ends_arrive() {
        let live = Live::default();
        assert!(matches!(live.open().await, Err(LiveError::NotAllowed)));
        assert!(live.streams_of(1).iter().all(Option::is_none));
        let copies = Arc::new(Copies::default());
        let (ours, mut theirs) = tokio::io::duplex(1000);
        tokio::spawn(carry(copies.clone(), ours));
        *lock(&live.copies) = Some(copies.clone());
        assert!(live.streams_of(0).iter().all(Option::is_none));
        let [stdout, stderr] = live.streams_of(7).map(Option::unwrap);
        let piece = vec![b'y'; 30_000];
        for _ in 0..100 {
            stdout.data(&piece);
        }
        stderr.data(b"!");
        drop((stdout, stderr));
        let (mut buffer, mut data, mut lost, mut ends) = (BytesMut::new(), [0, 0], [0, 0], [0, 0]);
        while ends != [1, 1] {
            assert_ne!(theirs.read_buf(&mut buffer).await.unwrap(), 0);
            while let Some(Frame { stream, kind, payload }) = decode(&mut buffer).unwrap() {
                let (command, is_stderr) = command_of(stream).unwrap();
                assert_eq!(command, 7);
                let which = usize::from(is_stderr);
                match kind {
                    Kind::Data => data[which] += payload.len() as u64,
                    Kind::Control => lost[which] += LiveLost::decode(payload).unwrap().bytes,
                    Kind::End => ends[which] += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!([data[0] + lost[0], data[1] + lost[1]], [3_000_000, 1]);
        assert!(lost[0] > 0 && data[0] <= 2 * LIVE_GUEST_BACKLOG_BYTES as u64, "{data:?} {lost:?}");
        // A host that goes away costs nothing more.
        drop(theirs);
        let [stdout, _] = live.streams_of(8).map(Option::unwrap);
        while !copies.is_closed() {
            stdout.data(&piece);
            tokio::task::yield_now().await;
        }
        assert!(live.streams_of(9).iter().all(Option::is_none));
    }
}
