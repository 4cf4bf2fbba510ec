//! The queue of a single process: the source and the sink when no broker is configured.
//!
//! Its semantics are the broker's: a delivery whose receipt is dropped unspent comes again, marked as redelivered.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use ulid::Ulid;

use crate::seams::{
    Delivery, JobSource, Properties, Publication, PublishError, Receipt, ResultSink, Settled, Settlement,
};

/// Makes a queue that holds at most `capacity` unsettled jobs; submitters wait beyond that.
pub fn queue(capacity: usize) -> (Submitter, EmbeddedSource, EmbeddedSink) {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        changed: Notify::new(),
        room: Arc::new(Semaphore::new(capacity)),
    });
    (Submitter(shared.clone()), EmbeddedSource(shared.clone()), EmbeddedSink(shared))
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Message>,
    unsettled: usize,
    closed: bool,
    submissions: u64,
    answers: HashMap<String, oneshot::Sender<Bytes>>,
}

#[derive(Debug)]
struct Message {
    body: Bytes,
    properties: Properties,
    _room: OwnedSemaphorePermit,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bring_again(&self, mut message: Message) {
        message.properties.redelivered = true;
        let mut state = self.state();
        state.unsettled -= 1;
        state.waiting.push_front(message);
        drop(state);
        self.changed.notify_waiters();
    }
}

/// Puts jobs into the queue. When the last one is dropped, the source ends once everything is settled.
#[derive(Debug)]
pub struct Submitter(Arc<Shared>);

/// The queue takes no more jobs, or ended before the result came.
#[derive(Debug, thiserror::Error)]
#[error("the embedded queue is closed")]
pub struct QueueClosed;

impl Submitter {
    /// Submits one job and waits for its result. A job without any id gets one here, which it keeps when it is tried again.
    /// Dropping it does not cancel the job.
    pub async fn submit(&self, body: Bytes, message_id: Option<String>) -> Result<Bytes, QueueClosed> {
        let room = self.0.room.clone().acquire_owned().await.map_err(|_| QueueClosed)?;
        let (answer, result) = oneshot::channel();
        {
            let mut state = self.0.state();
            state.submissions += 1;
            let reply_to = state.submissions.to_string();
            state.answers.insert(reply_to.clone(), answer);
            let message_id = Some(message_id.unwrap_or_else(|| Ulid::generate().to_string()));
            let properties = Properties { message_id, reply_to: Some(reply_to), ..Properties::default() };
            state.waiting.push_back(Message { body, properties, _room: room });
        }
        self.0.changed.notify_waiters();
        result.await.map_err(|_| QueueClosed)
    }
}

impl Drop for Submitter {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_waiters();
    }
}

/// The source end.
#[derive(Debug)]
pub struct EmbeddedSource(Arc<Shared>);

impl JobSource for EmbeddedSource {
    type Receipt = EmbeddedReceipt;

    async fn next(&mut self) -> Option<Delivery<EmbeddedReceipt>> {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.0.state();
                if let Some(message) = state.waiting.pop_front() {
                    state.unsettled += 1;
                    let (body, properties) = (message.body.clone(), message.properties.clone());
                    let receipt = EmbeddedReceipt { shared: self.0.clone(), message: Some(message) };
                    return Some(Delivery { body, properties, receipt });
                }
                if state.closed && state.unsettled == 0 {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Nothing to do: the queue holds no more than its capacity, and jobs wait for a VM in the pool's own order.
    fn set_credit(&mut self, _runtime: &str, _jobs: usize) {}
}

/// The duty to settle one delivery of the queue.
#[derive(Debug)]
pub struct EmbeddedReceipt {
    shared: Arc<Shared>,
    message: Option<Message>,
}

impl Receipt for EmbeddedReceipt {
    async fn settle(mut self, settlement: Settlement) -> Settled {
        if let Settlement::Retry { after, .. } = settlement {
            tokio::time::sleep(after).await;
            return Settled::Taken; // dropping the receipt brings the delivery again
        }
        self.message = None;
        self.shared.state().unsettled -= 1;
        self.shared.changed.notify_waiters();
        Settled::Taken
    }
}

impl Drop for EmbeddedReceipt {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            self.shared.bring_again(message);
        }
    }
}

/// The sink end: gives each result to whoever submitted the job.
#[derive(Debug)]
pub struct EmbeddedSink(Arc<Shared>);

impl ResultSink for EmbeddedSink {
    async fn publish(&self, publication: &Publication) -> Result<(), PublishError> {
        let Some(reply_to) = &publication.properties.reply_to else {
            return Err(PublishError { what: "the delivery does not come from this queue".into() });
        };
        // A repeat finds nobody waiting any more, which is what a repeat should find.
        if let Some(answer) = self.0.state().answers.remove(reply_to) {
            let _ = answer.send(publication.body.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_unspent_receipt_brings_the_delivery_again() {
        let (submitter, mut source, sink) = queue(4);
        let client = tokio::spawn(async move { submitter.submit("job".into(), None).await });
        let first = source.next().await.unwrap();
        assert!(!first.properties.redelivered);
        drop(first);
        let second = source.next().await.unwrap();
        assert!(second.properties.redelivered);
        second.receipt.settle(Settlement::Retry { after: Duration::from_secs(5), elsewhere: false }).await;
        let third = source.next().await.unwrap();
        let publication = Publication {
            body: "result".into(),
            tenant: "t".into(),
            id: "1".into(),
            properties: third.properties.clone(),
        };
        sink.publish(&publication).await.unwrap();
        sink.publish(&publication).await.unwrap();
        assert_eq!(third.receipt.settle(Settlement::Ack).await, Settled::Taken);
        assert_eq!(client.await.unwrap().unwrap(), Bytes::from("result"));
        assert!(source.next().await.is_none(), "the submitter is gone and everything is settled");
    }

    #[tokio::test]
    async fn a_full_queue_makes_submitters_wait() {
        let (submitter, mut source, _sink) = queue(1);
        let submitter = Arc::new(submitter);
        let one = submitter.clone();
        tokio::spawn(async move { one.submit("1".into(), None).await });
        let first = source.next().await.unwrap();
        let two = submitter.clone();
        tokio::spawn(async move { two.submit("2".into(), None).await });
        tokio::task::yield_now().await;
        assert!(source.0.state().waiting.is_empty());
        first.receipt.settle(Settlement::Ack).await;
        assert_eq!(source.next().await.unwrap().body, Bytes::from("2"));
    }
}
