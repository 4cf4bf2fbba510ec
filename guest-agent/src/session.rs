//! One session: every request on its own stream, all at once.

use std::{sync::Arc, time::Duration};

use hearth_schemas::guest::messages::{
    FaultKind, Pong, Quiesced, Reply, Request, ShuttingDown, reply::Body, request,
};
use hearth_wire::{Connection, Stream, StreamError, accept};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use crate::{
    agent::{Agent, Place},
    exec,
    fault::{self, Refusal},
    power, tree, wake,
};

/// How long the host may take to read that the machine is about to stop.
const FAREWELL: Duration = Duration::from_secs(1);

/// A request that makes no sense to this agent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Nonsense(&'static str);

impl Refusal for Nonsense {
    fn kind(&self) -> FaultKind {
        FaultKind::Unsupported
    }
}

/// Serves a session until the host ends it or breaks the protocol. `hello_limit` bounds the wait for its hello.
///
/// Requests that are being served when it ends end by themselves: their streams fail.
pub(crate) async fn serve<T>(agent: &Arc<Agent>, io: T, hello_limit: Option<Duration>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let hello = accept(io, agent.hello());
    let accepted = timeout(hello_limit.unwrap_or(Duration::MAX), hello).await;
    let Ok(Ok((connection, mut zero))) = accepted else { return };
    loop {
        tokio::select! {
            request = connection.next_request() => match request {
                Some(stream) => drop(tokio::spawn(answer(agent.clone(), connection.clone(), stream))),
                None => return,
            },
            // Nothing but the end may come here.
            _ = zero.receiver.next() => return,
        }
    }
}

async fn answer(agent: Arc<Agent>, connection: Connection, mut stream: Stream) {
    let request = match stream.receiver.message::<Request>().await {
        Ok(request) => request.body,
        Err(StreamError::Unexpected(_)) => None,
        Err(_) => return,
    };
    let reply = match request {
        Some(body) => reply_to(&agent, &connection, &mut stream, body).await,
        None => Some(fault::reply(&Nonsense("the request is unknown to this agent"))),
    };
    let Some(reply) = reply else { return };
    let stops = matches!(reply.body, Some(Body::ShuttingDown(_)));
    let _ = stream.sender.message(&reply).await;
    let Stream { sender, mut receiver } = stream;
    let _ = sender.end().await;
    if stops {
        let _ = timeout(FAREWELL, connection.ended()).await;
        stop(&agent);
    }
    // To forget the stream now would throw away what is still queued on it.
    while let Ok(Some(_)) = receiver.next().await {}
}

fn stop(agent: &Agent) {
    if matches!(agent.place(), Place::Guest { .. }) {
        power::off();
    }
    agent.stop().notify_one();
}

/// The last message of a request. `None` when the host is not there to hear it.
async fn reply_to(
    agent: &Agent,
    connection: &Connection,
    stream: &mut Stream,
    request: request::Body,
) -> Option<Reply> {
    let reply = match request {
        request::Body::Ping(_) => said(Body::Pong(Pong { monotonic_ns: monotonic_ns() })),
        request::Body::Wake(wake) => answered(wake::run(agent, wake).await, Body::Woken),
        request::Body::Put(_) => {
            // It changes the tree that they show.
            agent.cells().clear().await;
            answered(tree::upload(agent.tree(), stream).await?, Body::PutDone)
        }
        request::Body::Get(get) => answered(tree::download(agent.tree(), stream, get).await?, Body::GetDone),
        request::Body::Exec(exec) => answered(exec::run(agent, connection, stream, exec).await, Body::Exited),
        request::Body::Quiesce(_) => answered(power::quiesce(agent).await, |()| Body::Quiesced(Quiesced {})),
        request::Body::Live(_) => answered(agent.live().open().await, Body::LiveOpened),
        request::Body::Shutdown(_) => said(Body::ShuttingDown(ShuttingDown {})),
    };
    Some(reply)
}

fn answered<T, E: Refusal>(outcome: Result<T, E>, body: impl FnOnce(T) -> Body) -> Reply {
    outcome.map_or_else(|error| fault::reply(&error), |answer| said(body(answer)))
}

fn said(body: Body) -> Reply {
    Reply { body: Some(body) }
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
