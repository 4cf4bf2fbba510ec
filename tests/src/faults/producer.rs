//! A producer that survives the broker, as ours do: what has no result is sent again over a new connection.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::{Result, bail};
use bytes::Bytes;
use hearth_worker::amqp::{
    client::{ClientError, JobClient, JobSender, Replies},
    link::Endpoint,
    names::Names,
};
use tokio::time::{Instant, sleep, timeout};

use super::jobs::KnownJob;

/// The pause before a broken connection is made anew.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// What a producer has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Jobs by id.
    pub jobs: HashMap<String, KnownJob>,
    /// The first result of each.
    pub results: BTreeMap<String, Bytes>,
    /// Results that came again, byte for byte.
    pub repeats: u64,
    /// Results that came again and were others.
    pub others: Vec<(Bytes, Bytes)>,
    /// How often the connection broke.
    pub reconnects: u64,
    /// How often a job was sent again.
    pub resent: u64,
}

impl Seen {
    /// Notes a result, from wherever it came.
    pub fn result(&mut self, id: &str, body: Bytes) {
        match self.results.get(id) {
            None => {
                self.results.insert(id.to_owned(), body);
            }
            Some(first) if *first == body => self.repeats += 1,
            Some(first) => self.others.push((first.clone(), body)),
        }
    }

    fn pending(&self) -> usize {
        self.jobs.len() - self.results.len()
    }
}

/// Which jobs are sent.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Whose jobs.
    pub seed: u64,
    /// What runs them.
    pub runtime: String,
    /// What a command needs beyond the time that it sleeps, at most.
    pub slack: Duration,
    /// Jobs without a result, at most.
    pub window: usize,
    /// At least as many.
    pub jobs: u64,
    /// At least until then.
    pub until: Instant,
    /// How long results may take when nothing more is sent.
    pub patience: Duration,
}

/// Sends jobs and takes their results until each has one.
///
/// # Errors
/// A job has no result for too long.
pub async fn produce(endpoint: &Endpoint, names: &Names, feed: &Feed, seen: &mut Seen) -> Result<()> {
    let mut last = Instant::now();
    while !over(feed, seen) {
        let Ok(client) = JobClient::connect(endpoint, names).await else {
            if last.elapsed() > feed.patience {
                bail!("no connection for {:?}", feed.patience);
            }
            sleep(RECONNECT_PAUSE).await;
            continue;
        };
        let (sender, mut replies) = client.split();
        let before = seen.results.len();
        match converse(&sender, &mut replies, feed, seen).await {
            Ok(()) => {}
            Err(Break::Connection) => {
                seen.reconnects += 1;
                sleep(RECONNECT_PAUSE).await;
            }
            Err(Break::Silence) => {
                let missing: Vec<_> = seen.jobs.keys().filter(|id| !seen.results.contains_key(*id)).collect();
                bail!("no result for {:?}: {missing:?}", feed.patience);
            }
        }
        if seen.results.len() > before {
            last = Instant::now();
        }
    }
    Ok(())
}

fn over(feed: &Feed, seen: &Seen) -> bool {
    seen.pending() == 0 && !more(feed, seen)
}

fn more(feed: &Feed, seen: &Seen) -> bool {
    (seen.jobs.len() as u64) < feed.jobs || Instant::now() < feed.until
}

enum Break {
    Connection,
    Silence,
}

impl From<ClientError> for Break {
    fn from(_: ClientError) -> Self {
        Self::Connection
    }
}

async fn converse(
    sender: &JobSender,
    replies: &mut Replies,
    feed: &Feed,
    seen: &mut Seen,
) -> Result<(), Break> {
    let again: Vec<_> =
        seen.jobs.values().filter(|job| !seen.results.contains_key(&job.id)).cloned().collect();
    for job in again {
        seen.resent += 1;
        sender.send(&job.id, &job.request).await?;
    }
    while !over(feed, seen) {
        while more(feed, seen) && seen.pending() < feed.window {
            let job = KnownJob::new(feed.seed, seen.jobs.len() as u64, &feed.runtime, feed.slack);
            seen.jobs.insert(job.id.clone(), job.clone());
            sender.send(&job.id, &job.request).await?;
        }
        let reply = timeout(feed.patience, replies.next()).await.map_err(|_| Break::Silence)??;
        reply.seen().await;
        seen.result(&reply.id, reply.body);
    }
    Ok(())
}
