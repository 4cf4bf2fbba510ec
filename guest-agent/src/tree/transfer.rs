//! Between a stream and the thread that works on files: a disk that stalls must not stall the agent.

use std::sync::Arc;

use hearth_schemas::guest::messages::{Get, GetDone, PutDone, PutItem, Reply, reply::Body};
use hearth_schemas::guest::mux::Received;
use hearth_wire::{Stream, StreamError};
use prost::Message as _;
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    GetError, PutError, Tree,
    get::{Download, Outgoing, Sink},
    put::{Arrived, Upload},
};

/// Chunks between the two.
const QUEUE: usize = 4;

/// Serves an upload. `None` when the host gave up on it.
pub(crate) async fn upload(tree: Arc<Tree>, stream: &mut Stream) -> Option<Result<PutDone, PutError>> {
    let (queue, mut arriving) = mpsc::channel(QUEUE);
    let mut working = spawn_blocking(move || {
        let mut upload = Upload::new(&tree);
        while let Some(arrived) = arriving.blocking_recv() {
            match upload.take(arrived) {
                Ok(None) => {}
                Ok(Some(done)) => return Some(Ok(done)),
                Err(error) => return Some(Err(error)),
            }
        }
        None
    });
    loop {
        let next = tokio::select! {
            next = stream.receiver.next() => next,
            // It failed: the host hears of it before it has sent the rest.
            done = &mut working => return done.ok()?,
        };
        let arrived = match next {
            Ok(Some(Received::Control(bytes))) => {
                // What does not decode is an item that this agent does not know.
                Arrived::Item(PutItem::decode(bytes).ok().and_then(|item| item.body))
            }
            Ok(Some(Received::Data(bytes))) => Arrived::Data(bytes),
            Ok(_) => Arrived::End,
            Err(_) => break,
        };
        let end = matches!(arrived, Arrived::End);
        if queue.send(arrived).await.is_err() || end {
            break;
        }
    }
    drop(queue);
    working.await.ok()?
}

/// Serves a download but for its last message. `None` when the host gave up on it.
pub(crate) async fn download(
    tree: Arc<Tree>,
    stream: &Stream,
    get: Get,
) -> Option<Result<GetDone, GetError>> {
    let download = match Download::new(get) {
        Ok(download) => download,
        Err(error) => return Some(Err(error)),
    };
    let (queue, mut leaving) = mpsc::channel(QUEUE);
    let working = spawn_blocking(move || download.send(&tree, &mut Queue(queue)));
    let mut answer = None;
    while let Some(out) = leaving.recv().await {
        let sent = match out {
            Outgoing::Entry(entry) => send(stream, Body::GetEntry(entry)).await,
            Outgoing::Data(bytes) => stream.sender.data(bytes).await,
            Outgoing::End(end) => send(stream, Body::GetEntryEnd(end)).await,
            Outgoing::Done(done) => {
                answer = Some(Ok(done));
                Ok(())
            }
        };
        if sent.is_err() {
            return None;
        }
    }
    let _ = working.await;
    answer
}

async fn send(stream: &Stream, body: Body) -> Result<(), StreamError> {
    stream.sender.message(&Reply { body: Some(body) }).await
}

struct Queue(mpsc::Sender<Outgoing>);

impl Sink for Queue {
    fn send(&mut self, out: Outgoing) -> bool {
        self.0.blocking_send(out).is_ok()
    }

    fn wanted(&self) -> bool {
        !self.0.is_closed()
    }
}
