//! Four pages for operators over HTTP: `/live`, `/ready`, `/status`, `/metrics`. One request per connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::status::Status;

/// Most bytes of a request's first line and headers that are looked at.
const REQUEST_MAX_BYTES: usize = 4096;
/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Requests that are answered at once.
const AT_ONCE: usize = 16;

/// What the pages say, when they are asked for.
pub trait Pages: Send + Sync + 'static {
    /// Why no jobs can be taken now; nothing when they can.
    fn reasons(&self) -> Vec<String>;
    /// What this worker says of itself.
    fn status(&self) -> Status;
    /// In Prometheus's text format.
    fn metrics(&self) -> String;
}

/// What `/ready` says.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    reasons: Vec<String>,
}

/// Binds the address. Port 0 takes any; the address that it became comes back too.
///
/// # Errors
/// It is taken, or not ours.
pub async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Answers for ever.
pub async fn serve(listener: TcpListener, pages: Arc<impl Pages>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            // Whoever asks too slowly or goes away gets no answer.
            let _ = timeout(REQUEST_LIMIT, answer(stream, &*pages)).await;
            drop(permit);
        });
    }
}

async fn answer(mut stream: TcpStream, pages: &impl Pages) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_MAX_BYTES {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let (status, kind, body) = page(&String::from_utf8_lossy(line), pages);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The answer to a request line.
fn page(line: &str, pages: &impl Pages) -> (&'static str, &'static str, String) {
    let text = "text/plain; charset=utf-8";
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method != "GET" {
        return ("405 Method Not Allowed", text, "only GET\n".to_owned());
    }
    match path.split('?').next().unwrap_or_default() {
        "/live" => ("200 OK", text, "live\n".to_owned()),
        "/ready" => {
            let reasons = pages.reasons();
            let status = if reasons.is_empty() { "200 OK" } else { "503 Service Unavailable" };
            let ready = Ready { ready: reasons.is_empty(), reasons };
            (status, "application/json", serde_json::to_string(&ready).unwrap_or_default() + "\n")
        }
        "/status" => {
            let status = serde_json::to_string(&pages.status()).unwrap_or_default();
            ("200 OK", "application/json", status + "\n")
        }
        "/metrics" => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", pages.metrics()),
        _ => ("404 Not Found", text, "there are /live, /ready, /status and /metrics\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Identity;

    struct Broken;

    impl Pages for Broken {
        fn reasons(&self) -> Vec<String> {
            vec!["broker: away".to_owned()]
        }
        fn status(&self) -> Status {
            Identity::new("w1").status(self.reasons())
        }
        fn metrics(&self) -> String {
            "hearth_jobs_total 1\n".to_owned()
        }
    }

    #[test]
    fn pages_say_what_is_the_matter() {
        assert_eq!(page("GET /live HTTP/1.1", &Broken).0, "200 OK");
        let (status, _, body) = page("GET /ready?x HTTP/1.1", &Broken);
        assert_eq!(
            (status, body.as_str()),
            ("503 Service Unavailable", "{\"ready\":false,\"reasons\":[\"broker: away\"]}\n")
        );
        let (status, _, body) = page("GET /status HTTP/1.1", &Broken);
        let said: Status = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, said.worker.as_str(), said.ready),
            ("200 OK", "w1", false),
            "not ready is an answer here"
        );
        assert!(page("GET /metrics HTTP/1.1", &Broken).2.contains("hearth_jobs_total"));
        assert_eq!(page("GET / HTTP/1.1", &Broken).0, "404 Not Found");
        assert_eq!(page("POST /live HTTP/1.1", &Broken).0, "405 Method Not Allowed");
        assert_eq!(page("", &Broken).0, "405 Method Not Allowed");
    }
}
