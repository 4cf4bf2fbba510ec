//! Asks workers what they say of themselves.

use std::{fmt, str::FromStr, time::Duration};

use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::exposition::Samples;
use crate::status::Status;

/// How long a worker may take for both pages.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much it may say.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Where `worker.admin` listens in the examples.
const PORT: u16 = 9102;

/// Where a worker's pages are: its `worker.admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(String);

impl FromStr for Address {
    type Err = String;

    /// `HOST`, `HOST:PORT` or `http://HOST:PORT`; an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{what}; allowed is HOST, HOST:PORT or http://HOST:PORT");
        let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if rest.is_empty() || rest.contains(['/', '@', ' ']) {
            return Err(wrong("this is no address of a worker"));
        }
        match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            None => Ok(Self(format!("{rest}:{PORT}"))),
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self(rest.to_owned()))
            }
            Some((_, port)) => Err(wrong(&format!("{port:?} is no port"))),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// `/status`.
    pub status: Status,
    /// `/metrics`.
    pub samples: Samples,
}

/// Asks all at once. A worker that cannot be asked is an answer too: why.
pub async fn ask_all(addresses: &[Address]) -> Vec<Result<Answer, String>> {
    join_all(addresses.iter().map(ask)).await
}

/// Asks one worker. Cancel safe.
///
/// # Errors
/// It cannot be reached, takes more than 3 s, or says something else than a worker does.
pub async fn ask(address: &Address) -> Result<Answer, String> {
    let both = async { tokio::try_join!(page(address, "/status"), page(address, "/metrics")) };
    let both =
        timeout(PATIENCE, both).await.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?;
    let (status, metrics) = both?;
    let status =
        serde_json::from_slice(&status).map_err(|error| format!("/status is no worker's: {error}"))?;
    Ok(Answer { status, samples: Samples::parse(&String::from_utf8_lossy(&metrics)) })
}

async fn page(address: &Address, path: &str) -> Result<Bytes, String> {
    let said = |error: &dyn fmt::Display| error.to_string();
    let stream = TcpStream::connect(&address.0).await.map_err(|error| said(&error))?;
    let (mut send, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, &address.0).body(Empty::<Bytes>::new());
    let answer =
        send.send_request(request.map_err(|error| said(&error))?).await.map_err(|error| said(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(format!(
            "{path}: {}; is this the worker.admin of a worker of this release?",
            answer.status()
        ));
    }
    let body =
        Limited::new(answer.into_body(), PAGE_BYTES_MAX).collect().await.map_err(|error| said(&error))?;
    Ok(body.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_port_and_mistakes_are_said() {
        for (given, became) in [
            ("worker-1", "worker-1:9102"),
            ("http://worker-1:80/", "worker-1:80"),
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("[::1]", "[::1]:9102"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(given.parse::<Address>().unwrap().to_string(), became);
        }
        for wrong in ["", "http://", "a:port", ":80", "a/metrics", "https://a:1", "a:99999"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
