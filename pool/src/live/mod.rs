//! The live connection, from the host's side: whom it lets in, and what comes over it.
//!
//! It carries copies of output and nothing that anybody relies on. Every byte is a guest's: bounded and parsed.

pub(crate) mod door;

use std::io;

use bytes::{Bytes, BytesMut};
use hearth_schemas::{
    backlog::Lost,
    guest::{
        frame::{Frame, FrameError, Kind, decode},
        live::{LiveLost, command_of},
    },
};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::session::{Channel, SessionError};

/// Why there is no live connection, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The agent in the snapshot is older than live connections, or is where it can make none.
    #[error("the agent makes no live connections")]
    Unsupported,
    /// The host's port cannot be listened on.
    #[error("listening on the leased port")]
    Listen(#[source] io::Error),
    /// The agent could not do it.
    #[error("asking the agent for it")]
    Session(#[from] SessionError),
    /// Nobody came in time who knew the nonce.
    #[error("nobody came who knew the nonce")]
    Nobody,
    /// The VM is gone.
    #[error("the claim is over")]
    Over,
    /// Reading failed.
    #[error("reading it")]
    Io(#[from] io::Error),
    /// The guest does not keep to the protocol.
    #[error("not the protocol of live connections")]
    Frame(#[from] FrameError),
    /// The same, in a frame that is sound.
    #[error("not the protocol of live connections: {0}")]
    Protocol(&'static str),
}

/// One thing that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePiece {
    /// What the host calls the command, from 1.
    pub live: u32,
    /// Which of its streams.
    pub channel: Channel,
    /// What.
    pub what: LiveWhat,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveWhat {
    /// Output.
    Data(Bytes),
    /// Output is missing here.
    Lost(Lost),
    /// The stream's output is all there.
    End,
}

/// A live connection that opened with the right nonce.
pub struct LiveReader {
    io: Box<dyn AsyncRead + Unpin + Send>,
    buffer: BytesMut,
}

impl std::fmt::Debug for LiveReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveReader").finish_non_exhaustive()
    }
}

impl LiveReader {
    pub(crate) fn new(io: Box<dyn AsyncRead + Unpin + Send>) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// The next piece, or `None` when the guest has closed. Holds no more than a frame and what was read with it.
    /// Cancel safe.
    ///
    /// # Errors
    /// The connection is of no further use.
    pub async fn next(&mut self) -> Result<Option<LivePiece>, LiveError> {
        loop {
            if let Some(frame) = decode(&mut self.buffer)? {
                return piece(frame).map(Some);
            }
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

fn piece(frame: Frame) -> Result<LivePiece, LiveError> {
    let Frame { stream, kind, payload } = frame;
    let (live, is_stderr) = command_of(stream).ok_or(LiveError::Protocol("a stream of no command"))?;
    let channel = if is_stderr { Channel::Stderr } else { Channel::Stdout };
    let what = match kind {
        Kind::Data => LiveWhat::Data(payload),
        Kind::Control => {
            let lost = LiveLost::decode(payload).map_err(|_| LiveError::Protocol("a mark"))?;
            LiveWhat::Lost(Lost { bytes: lost.bytes, chunks: lost.chunks })
        }
        Kind::End => LiveWhat::End,
        _ => return Err(LiveError::Protocol("a frame of another kind")),
    };
    Ok(LivePiece { live, channel, what })
}

#[cfg(test)]
mod tests {
    use hearth_schemas::guest::{frame::encode, live::stream_of};
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn read(frames: &[(u32, Kind, &'static [u8])]) -> Vec<Result<Option<LivePiece>, String>> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut bytes = BytesMut::new();
        for (stream, kind, payload) in frames {
            encode(&Frame { stream: *stream, kind: *kind, payload: Bytes::from_static(payload) }, &mut bytes);
        }
        theirs.write_all(&bytes).await.unwrap();
        drop(theirs);
        let mut reader = LiveReader::new(Box::new(ours));
        let mut all = Vec::new();
        loop {
            let next = reader.next().await.map_err(|error| error.to_string());
            let more = matches!(next, Ok(Some(_)));
            all.push(next);
            if !more {
                return all;
            }
        }
    }

    #[tokio::test]
    async fn output_marks_and_ends_are_told_apart() {
        let stream = stream_of(3, true);
        let all = read(&[
            (stream_of(1, false), Kind::Data, b"x"),
            (stream, Kind::Control, &[8, 5, 16, 2]),
            (stream, Kind::End, b""),
        ])
        .await;
        let expected = [
            (1, Channel::Stdout, LiveWhat::Data(Bytes::from_static(b"x"))),
            (3, Channel::Stderr, LiveWhat::Lost(Lost { bytes: 5, chunks: 2 })),
            (3, Channel::Stderr, LiveWhat::End),
        ];
        let expected = expected.map(|(live, channel, what)| Ok(Some(LivePiece { live, channel, what })));
        assert_eq!((&all[..3], &all[3]), (&expected[..], &Ok(None)));
    }

    #[tokio::test]
    async fn what_a_guest_may_not_send_ends_the_connection() {
        for (stream, kind, payload) in [
            (0, Kind::Data, &b"x"[..]),
            (1, Kind::End, b""),
            (4, Kind::Control, b"\xff"),
            (4, Kind::Open, b"\0"),
            (4, Kind::Credit, b"\0\0\0\0"),
        ] {
            assert!(read(&[(stream, kind, payload)]).await[0].is_err(), "{stream} {kind:?}");
        }
    }
}
