//! One HTTP connection to one Firecracker.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::UnixStream, time::timeout};

use super::{error::ApiError, request::Request};

/// Longest answer taken, in bytes. Firecracker's own are a few hundred.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// How long calls may take. They are served one after the other by one thread of Firecracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Those that set something up.
    pub setup: Duration,
    /// Loading a snapshot: reads the state and maps the memory.
    pub load: Duration,
    /// Writing a snapshot: writes all of the memory.
    pub create: Duration,
}

impl Default for Limits {
    /// Generous: a host under load is slow, and what is over is a dead VM. A snapshot of 256 MiB took 1.6 s under
    /// emulation, a load 0.13 s.
    fn default() -> Self {
        Self {
            setup: Duration::from_secs(5),
            load: Duration::from_secs(20),
            create: Duration::from_secs(300),
        }
    }
}

impl Limits {
    fn of(&self, request: &Request) -> Duration {
        match request {
            Request::LoadSnapshot(_) => self.load,
            Request::CreateSnapshot(_) => self.create,
            _ => self.setup,
        }
    }
}

/// A connection, closed when dropped.
#[derive(Debug)]
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    limits: Limits,
}

#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

impl Client {
    /// Connects to a Firecracker that listens.
    pub async fn connect(path: &Path, limits: Limits) -> Result<Self, ApiError> {
        let failed = |source| ApiError::Connect { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(std::io::Error::other(error)))?;
        // Ends when the sender is dropped or Firecracker is gone; what it has to say reaches the sender too.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender, limits })
    }

    /// Sends a request and returns the answer's body. Not cancel safe: Firecracker may still do it.
    pub async fn call(&mut self, request: &Request) -> Result<Bytes, ApiError> {
        let limit = self.limits.of(request);
        let (method, path) = request.line();
        let name = format!("{method} {path}");
        let body = request
            .body()
            .map_err(|error| ApiError::Answer { request: name.clone(), what: error.to_string() })?
            .map_or_else(String::new, |body| body.to_string());
        let http = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .map_err(|source| ApiError::Transport { request: name.clone(), source: source.into() })?;
        match timeout(limit, self.exchange(http, &name)).await {
            Ok(answer) => answer,
            Err(_) => Err(ApiError::Timeout { request: name, limit }),
        }
    }

    async fn exchange(&mut self, http: hyper::Request<Full<Bytes>>, name: &str) -> Result<Bytes, ApiError> {
        let broken = |source| ApiError::Transport { request: name.to_owned(), source };
        self.sender.ready().await.map_err(|error| broken(error.into()))?;
        let answer = self.sender.send_request(http).await.map_err(|error| broken(error.into()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX_BYTES).collect().await.map_err(broken)?;
        let body = body.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        // The message of a fault is what people search for; an answer without one is shown as it is.
        let message = serde_json::from_slice(&body)
            .map_or_else(|_| String::from_utf8_lossy(&body).into_owned(), |fault: Fault| fault.fault_message);
        Err(ApiError::Fault { request: name.to_owned(), status: status.as_u16(), message })
    }
}
