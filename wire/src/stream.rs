//! One stream of a connection.

use std::sync::Arc;

use bytes::Bytes;
use hearth_schemas::{
    guest::mux::Received,
    limits::{DATA_CHUNK_BYTES, FRAME_COST_UNITS, FRAME_MAX_BYTES, WINDOW_UNITS},
};
use prost::Message;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{connection::ConnectionError, driver::Command};

/// What one stream may have queued for sending; its sender waits beyond that.
pub(crate) const SEND_BUFFER_UNITS: usize = 4 * FRAME_MAX_BYTES;
/// Consumption is told to the driver in steps of this, to spare it a command for each frame.
const CONSUMED_STEP_UNITS: u32 = WINDOW_UNITS / 8;

/// What can go wrong on a stream.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StreamError {
    /// The whole connection has ended.
    #[error("connection ended")]
    Connection(#[from] ConnectionError),
    /// The peer has forgotten this stream.
    #[error("the peer reset the stream")]
    Reset,
    /// The peer ended the stream where more was due.
    #[error("the stream ended early")]
    Ended,
    /// A message that does not decode, or data where a message was due.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    /// A message of ours that does not fit a frame.
    #[error("a message of {0} bytes does not fit a frame")]
    TooLarge(usize),
}

/// A stream that is not yet tied to the command queue: the driver makes it, the handle's owner binds it.
#[derive(Debug)]
pub(crate) struct Unbound {
    pub(crate) id: u32,
    pub(crate) inbound: mpsc::Receiver<Received>,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) ended: watch::Receiver<Option<ConnectionError>>,
}

impl Unbound {
    pub(crate) fn bind(self, commands: mpsc::Sender<Command>) -> Stream {
        let ended = self.ended.clone();
        Stream {
            sender: Sender { id: self.id, room: self.room, commands: commands.clone(), ended: self.ended },
            receiver: StreamReceiver { id: self.id, inbound: self.inbound, commands, ended, consumed: 0 },
        }
    }
}

/// Both directions of a stream.
#[derive(Debug)]
pub struct Stream {
    /// Sends.
    pub sender: Sender,
    /// Receives. When dropped before the peer's end, the stream is reset.
    pub receiver: StreamReceiver,
}

impl Stream {
    /// Its number, as messages name it.
    pub fn id(&self) -> u32 {
        self.sender.id
    }
}

/// The sending direction of a stream.
#[derive(Debug)]
pub struct Sender {
    id: u32,
    room: Arc<Semaphore>,
    commands: mpsc::Sender<Command>,
    ended: watch::Receiver<Option<ConnectionError>>,
}

impl Sender {
    /// The stream's number, as messages name it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Sends a control message. Waits while the stream's buffer is full. Cancel safe: sent whole or not at all.
    pub async fn message(&self, message: &impl Message) -> Result<(), StreamError> {
        let bytes = encode(message)?;
        self.reserve(bytes.len()).await?;
        self.command(Command::Control { id: self.id, bytes }).await
    }

    /// Sends data of any length, in chunks. Waits while the stream's buffer is full. Not cancel safe: a prefix may have been sent.
    pub async fn data(&self, mut data: Bytes) -> Result<(), StreamError> {
        while !data.is_empty() {
            let bytes = data.split_to(data.len().min(DATA_CHUNK_BYTES));
            self.reserve(bytes.len()).await?;
            self.command(Command::Data { id: self.id, bytes }).await?;
        }
        Ok(())
    }

    /// Sends the end: nothing more will come. Dropping the sender does the same, as soon as it can.
    pub async fn end(self) -> Result<(), StreamError> {
        self.command(Command::End { id: self.id }).await
    }

    async fn reserve(&self, payload_bytes: usize) -> Result<(), StreamError> {
        let units = payload_bytes as u32 + FRAME_COST_UNITS;
        let permit = self.room.acquire_many(units).await.map_err(|_| self.why())?;
        permit.forget();
        Ok(())
    }

    async fn command(&self, command: Command) -> Result<(), StreamError> {
        self.commands.send(command).await.map_err(|_| self.why())
    }

    /// The driver closes the semaphore of a stream that the peer has reset, and of all when it ends.
    fn why(&self) -> StreamError {
        self.ended.borrow().clone().map_or(StreamError::Reset, StreamError::Connection)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // When the queue is full the driver finds out by itself, before it runs out of streams.
        let _ = self.commands.try_send(Command::End { id: self.id });
    }
}

/// The receiving direction of a stream.
#[derive(Debug)]
pub struct StreamReceiver {
    id: u32,
    inbound: mpsc::Receiver<Received>,
    commands: mpsc::Sender<Command>,
    ended: watch::Receiver<Option<ConnectionError>>,
    consumed: u32,
}

impl StreamReceiver {
    /// The next thing the peer sent, or `None` after its end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Received>, StreamError> {
        let Some(received) = self.inbound.recv().await else {
            return Err(self.ended.borrow().clone().map_or(StreamError::Ended, StreamError::Connection));
        };
        self.consumed += received.cost();
        if self.consumed >= CONSUMED_STEP_UNITS {
            let units = std::mem::take(&mut self.consumed);
            // The driver may be gone; what it left in the queue is still good.
            let _ = self.commands.send(Command::Consumed { id: self.id, units }).await;
        }
        match received {
            Received::End => Ok(None),
            Received::Reset => Err(StreamError::Reset),
            received => Ok(Some(received)),
        }
    }

    /// The next thing, which must be a message. Cancel safe.
    pub async fn message<M: Message + Default>(&mut self) -> Result<M, StreamError> {
        match self.next().await? {
            Some(Received::Control(bytes)) => decode(&bytes),
            Some(_) => Err(StreamError::Unexpected("data")),
            None => Err(StreamError::Ended),
        }
    }

    /// The next thing, which must be data, or `None` after the end. Cancel safe.
    pub async fn data(&mut self) -> Result<Option<Bytes>, StreamError> {
        match self.next().await? {
            Some(Received::Data(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(StreamError::Unexpected("message")),
            None => Ok(None),
        }
    }
}

impl Drop for StreamReceiver {
    fn drop(&mut self) {
        // As above.
        let _ = self.commands.try_send(Command::Abandon { id: self.id });
    }
}

/// Encodes a control message.
pub(crate) fn encode(message: &impl Message) -> Result<Bytes, StreamError> {
    let bytes = Bytes::from(message.encode_to_vec());
    match bytes.len() {
        length if length > FRAME_MAX_BYTES => Err(StreamError::TooLarge(length)),
        _ => Ok(bytes),
    }
}

/// Decodes a control message.
pub(crate) fn decode<M: Message + Default>(bytes: &Bytes) -> Result<M, StreamError> {
    M::decode(bytes.clone()).map_err(|_| StreamError::Unexpected("message that does not decode"))
}
