//! Why a call of the API did not do what was asked.

use std::{io, path::PathBuf, time::Duration};

use super::{
    request::Gated,
    version::{Unsupported, VersionError},
};

/// A call that failed. `request` is its method and path.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody listens on the socket.
    #[error("connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// Firecracker refused. After a refused load its process ends.
    #[error("{request}: {message} (HTTP {status})")]
    Fault {
        /// The call.
        request: String,
        /// HTTP status.
        status: u16,
        /// Firecracker's `fault_message`.
        message: String,
    },
    /// The connection broke: the process is most likely gone.
    #[error("{request}")]
    Transport {
        /// The call.
        request: String,
        /// What HTTP said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is none that Firecracker gives.
    #[error("{request}: odd answer: {what}")]
    Answer {
        /// The call.
        request: String,
        /// What is odd.
        what: String,
    },
    /// No answer in time.
    #[error("{request}: no answer within {limit:?}")]
    Timeout {
        /// The call.
        request: String,
        /// Its bound.
        limit: Duration,
    },
    /// The call needs a later release. It was not sent.
    #[error(transparent)]
    Gated(#[from] Gated),
    /// The release is not used here.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// `GET /version` did not say one.
    #[error("GET /version")]
    Version(#[from] VersionError),
}
