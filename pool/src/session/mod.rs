//! The host's typed connection to one guest agent.
//!
//! Every byte from a guest is taken as hostile: bounded, parsed, checked against what was asked.

mod exec;
mod files;
mod inline;
mod traffic;

use std::{fmt, time::Duration};

use hearth_schemas::guest::messages::{
    Fault, FaultKind, HelloReply, Live, Ping, Pong, Quiesce, Reply, Request, Shutdown, Wake, Woken, reply,
    request,
};
use hearth_wire::{Connection, ConnectionError, HelloError, Stream, StreamError, StreamReceiver};

pub use self::{
    exec::{Channel, Command, Running},
    files::{Download, FileHead, GetLimits, Piece, Upload},
    traffic::Traffic,
};
use crate::hypervisor::GuestIo;

/// Why a request to an agent failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No hello.
    #[error("no session with the agent")]
    Hello(#[from] HelloError),
    /// The stream or the whole connection failed.
    #[error("the agent's connection failed")]
    Stream(#[from] StreamError),
    /// The agent said why not.
    #[error("the agent refused: {message} ({kind:?})")]
    Fault {
        /// What kind of failure.
        kind: FaultKind,
        /// The agent's words, cleaned of control characters.
        message: String,
    },
    /// It would have ignored what it was asked to do.
    #[error("the agent in this snapshot is too old for {0}; bake the runtime again")]
    Unable(&'static str),
    /// An answer that does not belong to the question.
    #[error("the agent broke the protocol: {0}")]
    Protocol(&'static str),
    /// No answer in time.
    #[error("no answer to {request} within {limit:?}")]
    Timeout {
        /// What was asked.
        request: &'static str,
        /// The bound.
        limit: Duration,
    },
    /// Writing a downloaded file failed on the host.
    #[error("keeping {path} that was downloaded")]
    Target {
        /// Its path in the guest.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Reading a file to upload failed on the host.
    #[error("reading {path} to upload it")]
    Source {
        /// Its path in the guest.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl From<ConnectionError> for SessionError {
    fn from(error: ConnectionError) -> Self {
        Self::Stream(error.into())
    }
}

/// A session with one agent. Dropping it closes the connection, and the agent ends what it was running for it.
pub struct Session {
    connection: Connection,
    /// Keeps the session open.
    _zero: Stream,
    hello: HelloReply,
    traffic: Traffic,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("hello", &self.hello).finish_non_exhaustive()
    }
}

impl Session {
    /// Says hello over `io`. Cancel safe: the connection is closed.
    pub async fn connect(io: impl GuestIo, limit: Duration) -> Result<Self, SessionError> {
        let hello = within("hello", limit, async { Ok(hearth_wire::connect(io).await?) });
        let (connection, zero, hello) = hello.await?;
        Ok(Self { connection, _zero: zero, hello, traffic: Traffic::default() })
    }

    /// What the agent said of itself.
    pub fn hello(&self) -> &HelloReply {
        &self.hello
    }

    /// What went over it so far.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Resolves when the connection has ended, with the reason. Cancel safe.
    pub async fn ended(&self) -> ConnectionError {
        self.connection.ended().await
    }

    /// Asks whether the agent lives. Cancel safe.
    pub async fn ping(&self, limit: Duration) -> Result<Pong, SessionError> {
        match self.ask("ping", limit, request::Body::Ping(Ping {})).await? {
            reply::Body::Pong(pong) => Ok(pong),
            _ => Err(SessionError::Protocol("ping was not answered by pong")),
        }
    }

    /// Makes a restored clone its own machine. The caller checks what the answer says was done.
    pub async fn wake(&self, wake: Wake, limit: Duration) -> Result<Woken, SessionError> {
        match self.ask("wake", limit, request::Body::Wake(wake)).await? {
            reply::Body::Woken(woken) => Ok(woken),
            _ => Err(SessionError::Protocol("wake was not answered by woken")),
        }
    }

    /// Brings the guest to a state that may be snapshotted.
    pub async fn quiesce(&self, limit: Duration) -> Result<(), SessionError> {
        match self.ask("quiesce", limit, request::Body::Quiesce(Quiesce {})).await? {
            reply::Body::Quiesced(_) => Ok(()),
            _ => Err(SessionError::Protocol("quiesce was not answered by quiesced")),
        }
    }

    /// Asks the VM to power off.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), SessionError> {
        match self.ask("shutdown", limit, request::Body::Shutdown(Shutdown {})).await? {
            reply::Body::ShuttingDown(_) => Ok(()),
            _ => Err(SessionError::Protocol("shutdown was not answered by shutting down")),
        }
    }

    /// Asks the agent to make its live connection.
    pub(crate) async fn open_live(&self, limit: Duration) -> Result<(), SessionError> {
        match self.ask("live", limit, request::Body::Live(Live {})).await? {
            reply::Body::LiveOpened(_) => Ok(()),
            _ => Err(SessionError::Protocol("live was not answered by live opened")),
        }
    }

    /// One request, one reply.
    async fn ask(
        &self,
        name: &'static str,
        limit: Duration,
        body: request::Body,
    ) -> Result<reply::Body, SessionError> {
        within(name, limit, async {
            let mut stream = self.request(body).await?;
            reply_on(&mut stream.receiver).await
        })
        .await
    }

    /// Opens a stream with a request.
    async fn request(&self, body: request::Body) -> Result<Stream, SessionError> {
        Ok(self.connection.request(&Request { body: Some(body) }).await?)
    }
}

/// The next reply on a stream; a fault is an error.
async fn reply_on(receiver: &mut StreamReceiver) -> Result<reply::Body, SessionError> {
    match receiver.message::<Reply>().await?.body {
        Some(reply::Body::Fault(fault)) => Err(refused(fault)),
        Some(body) => Ok(body),
        None => Err(SessionError::Protocol("a reply that this host does not know")),
    }
}

fn refused(fault: Fault) -> SessionError {
    const MESSAGE_MAX_CHARS: usize = 1024;
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let message = fault.message.chars().take(MESSAGE_MAX_CHARS).map(clean).collect();
    SessionError::Fault { kind: fault.kind(), message }
}

async fn within<T>(
    request: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, SessionError> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(SessionError::Timeout { request, limit }))
}
