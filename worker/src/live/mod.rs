//! Live events of jobs that ask for them: ordered, numbered, bounded. Whoever watches never holds a job up.

pub(crate) mod connection;
mod desk;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_schemas::{
    backlog::Lost,
    event::{EVENT_VERSION, Event, LiveBy, OutputStream, State},
    result::{JobResult, RunReport},
};
use tokio::sync::Notify;

use self::desk::{Desk, StageEnd};
use crate::{
    ledger::{JobKey, unix_ms},
    meters,
};

/// Is given the events of each attempt at a job that asks for them, as the attempt begins. Must not block.
pub type Outlet = Arc<dyn Fn(Events) + Send + Sync>;

/// Makes both ends of one attempt's events.
pub fn channel(key: &JobKey, attempt: u32) -> (Feed, Events) {
    let inner = Inner { desk: Desk::default(), over: false, watched: true };
    let [news, room, calm] = [(); 3].map(|()| Notify::new());
    let shared = Arc::new(Shared { inner: Mutex::new(inner), news, room, calm });
    let events = Events { shared: shared.clone(), key: key.clone(), attempt, seq: 0 };
    (Feed(Some(Arc::new(Producer(shared)))), events)
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Somebody may take something.
    news: Notify,
    /// Something was taken.
    room: Notify,
    /// Something may have come that was waited for.
    calm: Notify,
}

#[derive(Debug)]
struct Inner {
    desk: Desk,
    /// Nobody adds anything any more.
    over: bool,
    /// Somebody takes what there is.
    watched: bool,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Producer(Arc<Shared>);

impl Drop for Producer {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.desk.live_over();
        inner.over = true;
        drop(inner);
        self.0.news.notify_one();
    }
}

/// Where a job's events go in. Clones share it; with the last one the events end. Nothing here ever waits, but
/// [`Feed::room`].
#[derive(Clone, Debug)]
pub struct Feed(Option<Arc<Producer>>);

impl Feed {
    /// For jobs that nobody watches.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether the job asks for events.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    fn with(&self, act: impl FnOnce(&mut Desk)) {
        let Some(producer) = &self.0 else { return };
        let mut inner = producer.0.inner();
        if inner.watched {
            act(&mut inner.desk);
        }
        drop(inner);
        producer.0.news.notify_one();
        producer.0.calm.notify_one();
    }

    /// The job has come to a state.
    pub fn state(&self, state: State) {
        self.with(|desk| desk.state(state));
    }

    /// It has a VM.
    pub fn claimed(&self, live: LiveBy) {
        self.with(|desk| desk.claimed(live));
    }

    /// A stage begins. What it is called on the live connection; 0: its output does not come that way.
    pub fn stage_started(&self, stage: &str) -> u32 {
        let mut live = 0;
        self.with(|desk| live = desk.begin(stage, None));
        live
    }

    /// A case of a stage begins whose output is live; as [`Feed::stage_started`].
    pub fn case_started(&self, stage: &str, case: &str) -> u32 {
        let mut live = 0;
        self.with(|desk| live = desk.begin(stage, Some(case)));
        live
    }

    /// A piece of its output, from the copy that its result is made of.
    pub fn data(&self, stream: OutputStream, data: &[u8]) {
        self.with(|desk| desk.data(stream, data));
    }

    /// The stage has ended, or its case.
    pub fn stage_ended(&self, run: &RunReport) {
        let RunReport { verdict, cause, stdout, stderr, .. } = run;
        let (stdout_bytes, stderr_bytes) = (stdout.bytes, stderr.bytes);
        self.with(|desk| {
            desk.end(StageEnd { verdict: *verdict, cause: *cause, stdout_bytes, stderr_bytes });
        });
    }

    /// The job has its result.
    pub fn finished(&self, result: &JobResult) {
        self.state(State::Finished { status: result.status, verdict: result.verdict });
    }

    /// A piece of output, over the live connection.
    pub fn live_data(&self, live: u32, stream: OutputStream, data: &[u8]) {
        self.with(|desk| desk.live_data(live, stream, data));
    }

    /// The agent could not send this much.
    pub fn live_lost(&self, live: u32, stream: OutputStream, lost: Lost) {
        self.with(|desk| desk.live_lost(live, stream, lost));
    }

    /// A stream's output is all there.
    pub fn live_end(&self, live: u32, stream: OutputStream) {
        self.with(|desk| desk.live_end(live, stream));
    }

    /// Nothing of this command comes over the live connection any more.
    pub fn live_ends(&self, live: u32) {
        self.live_end(live, OutputStream::Stdout);
        self.live_end(live, OutputStream::Stderr);
    }

    /// Nothing more comes over the live connection.
    pub fn live_over(&self) {
        self.with(Desk::live_over);
    }

    /// Resolves when all output that is waited for is there, or nobody watches any more. Cancel safe. For one task at a
    /// time.
    pub async fn calm(&self) {
        let Some(producer) = &self.0 else { return };
        loop {
            {
                let inner = producer.0.inner();
                if !inner.watched || inner.desk.is_calm() {
                    return;
                }
            }
            producer.0.calm.notified().await;
        }
    }

    /// Resolves when the next piece would be kept, or nobody watches any more. Cancel safe. For one task at a time.
    pub async fn room(&self) {
        let Some(producer) = &self.0 else { return };
        loop {
            {
                let inner = producer.0.inner();
                if !inner.watched || inner.desk.has_room() {
                    return;
                }
            }
            producer.0.room.notified().await;
        }
    }
}

/// Where a job's events come out, numbered.
#[derive(Debug)]
pub struct Events {
    shared: Arc<Shared>,
    key: JobKey,
    attempt: u32,
    seq: u64,
}

impl Events {
    /// Whose they are.
    pub fn job(&self) -> &JobKey {
        &self.key
    }

    /// The next one, or `None` when the attempt is over and there will be no more. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            {
                let mut inner = self.shared.inner();
                if let Some(what) = inner.desk.take() {
                    drop(inner);
                    self.shared.room.notify_one();
                    return Some(self.number(what));
                }
                if inner.over {
                    return None;
                }
            }
            self.shared.news.notified().await;
        }
    }

    fn number(&mut self, what: hearth_schemas::event::What) -> Event {
        if let hearth_schemas::event::What::Dropped(mark) = &what {
            meters::LIVE_DROPPED.add(&[], mark.bytes);
        }
        meters::LIVE_EVENTS.count(&[what.kind()]);
        self.seq += 1;
        let JobKey { tenant, id } = self.key.clone();
        Event {
            version: EVENT_VERSION,
            id,
            tenant,
            attempt: self.attempt,
            seq: self.seq,
            unix_ms: unix_ms(),
            what,
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.shared.inner().watched = false;
        self.shared.room.notify_one();
        self.shared.calm.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::event::What;

    use super::*;

    fn both() -> (Feed, Events) {
        channel(&JobKey { tenant: "t".into(), id: "j".into() }, 2)
    }

    #[tokio::test]
    async fn events_are_numbered_from_one_and_end_with_their_last_feed() {
        let (feed, mut events) = both();
        let other = feed.clone();
        feed.state(State::Uploading);
        assert_eq!(other.stage_started("run"), 0);
        drop(feed);
        let first = events.next().await.unwrap();
        assert_eq!((first.id.as_str(), first.attempt, first.seq), ("j", 2, 1));
        assert_eq!(events.next().await.unwrap().seq, 2);
        assert!(futures_util::FutureExt::now_or_never(events.next()).is_none(), "there may be more");
        other.data(OutputStream::Stdout, b"x");
        drop(other);
        assert!(matches!(events.next().await.unwrap().what, What::Stdout(_)));
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn room_comes_when_something_is_taken_or_nobody_watches() {
        let (feed, mut events) = both();
        feed.claimed(LiveBy::Connection);
        assert_eq!(feed.stage_started("run"), 1);
        let piece = vec![0; 32 * 1024];
        let full = || futures_util::FutureExt::now_or_never(feed.room()).is_none();
        while !full() {
            feed.live_data(1, OutputStream::Stdout, &piece);
        }
        for _ in 0..3 {
            events.next().await;
        }
        feed.room().await;
        feed.live_data(1, OutputStream::Stdout, &piece);
        assert!(full());
        let (waited, ()) = tokio::join!(feed.room(), async { drop(events) });
        let () = waited;
        feed.live_data(1, OutputStream::Stdout, &piece);
        assert!(Feed::none().0.is_none());
    }
}
