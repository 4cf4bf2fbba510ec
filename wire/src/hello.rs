//! The handshake on stream 0.

use hearth_schemas::guest::{
    VERSION_MAX, VERSION_MIN,
    messages::{Hello, HelloReply},
    mux::Side,
    negotiate,
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    connection::Connection,
    stream::{Stream, StreamError},
};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection failed before the hello was through.
    #[error("no hello")]
    Stream(#[from] StreamError),
    /// No protocol version in common.
    #[error("no protocol version in common: ours {VERSION_MIN} to {VERSION_MAX}, the peer's {min} to {max}")]
    Version {
        /// The peer's lowest.
        min: u32,
        /// The peer's highest.
        max: u32,
    },
}

/// Opens a session from the host. The returned stream 0 keeps the session open. Has no timeout of its own.
/// Cancel safe: the pipe is closed.
pub async fn connect<T>(io: T) -> Result<(Connection, Stream, HelloReply), HelloError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, mut zero) = Connection::start(io, Side::Host);
    zero.sender.message(&Hello { version_min: VERSION_MIN, version_max: VERSION_MAX }).await?;
    let reply: HelloReply = zero.receiver.message().await?;
    if !(VERSION_MIN..=VERSION_MAX).contains(&reply.version) {
        return Err(HelloError::Version { min: reply.version_min, max: reply.version_max });
    }
    Ok((connection, zero, reply))
}

/// Answers a session in the agent. `reply` is sent with the versions filled in.
pub async fn accept<T>(io: T, reply: HelloReply) -> Result<(Connection, Stream), HelloError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, mut zero) = Connection::start(io, Side::Agent);
    let hello: Hello = zero.receiver.message().await?;
    let version = negotiate(hello.version_min, hello.version_max);
    let reply = HelloReply {
        version: version.unwrap_or(0),
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        ..reply
    };
    zero.sender.message(&reply).await?;
    match version {
        Some(_) => Ok((connection, zero)),
        None => Err(HelloError::Version { min: hello.version_min, max: hello.version_max }),
    }
}
