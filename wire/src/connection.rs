//! A handle on one connection.

use std::sync::Arc;

use bytes::Bytes;
use hearth_schemas::guest::{
    frame::FrameError,
    mux::{Direction, Side, Violation},
};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Mutex, mpsc, oneshot, watch},
};

use crate::{
    driver::{self, Command, Driver},
    stream::{Stream, StreamError, encode},
};

/// Commands that may wait for the driver. Senders wait beyond that.
const COMMANDS_MAX: usize = 256;

/// Why a connection is of no further use.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The pipe failed.
    #[error("the connection failed")]
    Io(#[source] Arc<std::io::Error>),
    /// The peer closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer sent bytes that are no frame.
    #[error("malformed frame")]
    Frame(#[from] FrameError),
    /// The peer broke a rule of the protocol.
    #[error("protocol violation")]
    Violation(#[from] Violation),
    /// The peer never sent the prelude.
    #[error("no prelude in the first {0} bytes")]
    NoPrelude(usize),
}

/// One end of a connection. Clones share it; when the last one and every stream are gone, the pipe is closed.
#[derive(Clone, Debug)]
pub struct Connection {
    commands: mpsc::Sender<Command>,
    opened: Arc<Mutex<mpsc::Receiver<Stream>>>,
    ended: watch::Receiver<Option<ConnectionError>>,
}

impl Connection {
    /// Starts the task that owns `io`. Returns the handle and stream 0.
    pub(crate) fn start<T>(io: T, side: Side) -> (Self, Stream)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (announce, opened) = mpsc::channel(driver::OPENED_MAX);
        let (end, ended) = watch::channel(None);
        let (driver, zero) = Driver::new(side, commands.downgrade(), announce, ended.clone());
        tokio::spawn(async move {
            let why = driver.run(io, command_queue).await;
            end.send_replace(Some(why));
        });
        let zero = zero.bind(commands.clone());
        (Self { commands, opened: Arc::new(Mutex::new(opened)), ended }, zero)
    }

    /// Opens a stream (host side). Cancel safe: a stream that nobody took is reset.
    pub async fn open(&self, direction: Direction) -> Result<Stream, ConnectionError> {
        self.open_with(direction, None).await
    }

    /// Opens a stream both ways with a message (host side). Cancel safe, too.
    pub async fn request(&self, message: &impl Message) -> Result<Stream, StreamError> {
        let first = encode(message)?;
        Ok(self.open_with(Direction::Both, Some(first)).await?)
    }

    async fn open_with(&self, direction: Direction, first: Option<Bytes>) -> Result<Stream, ConnectionError> {
        let (answer, stream) = oneshot::channel();
        let command = Command::Open { direction, first, answer };
        self.commands.send(command).await.map_err(|_| self.why())?;
        match stream.await {
            Ok(Some(stream)) => Ok(stream.bind(self.commands.clone())),
            Ok(None) => Err(Violation::TooManyStreams.into()),
            Err(_) => Err(self.why()),
        }
    }

    /// The next stream that the host opened for a request (agent side). `None` when the connection has ended.
    /// Cancel safe.
    pub async fn next_request(&self) -> Option<Stream> {
        self.opened.lock().await.recv().await
    }

    /// A stream that the host opened one way and then named in a request (agent side).
    pub async fn take(&self, id: u32) -> Option<Stream> {
        let (answer, stream) = oneshot::channel();
        self.commands.send(Command::Take { id, answer }).await.ok()?;
        Some(stream.await.ok()??.bind(self.commands.clone()))
    }

    /// Resolves when the connection has ended, with the reason. Cancel safe.
    pub async fn ended(&self) -> ConnectionError {
        let mut ended = self.ended.clone();
        let why = ended.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or(ConnectionError::Closed)
    }

    fn why(&self) -> ConnectionError {
        self.ended.borrow().clone().unwrap_or(ConnectionError::Closed)
    }
}
