//! Where jobs come from and results go: RabbitMQ or, in one process, memory.

use std::time::Duration;

use bytes::Bytes;

use crate::trace::TraceContext;

/// What a broker says of a message beside its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// The producer's id of the message; the job's id when the body has none.
    pub message_id: Option<String>,
    /// Goes back with the result.
    pub correlation_id: Option<String>,
    /// Where the producer wants the result.
    pub reply_to: Option<String>,
    /// Who published it, as the broker vouches.
    pub user_id: Option<String>,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// When it was sent, in milliseconds since 1970: its deadline counts from there. Absent: from its arrival.
    pub sent_unix_ms: Option<u64>,
    /// Whether it had to wait for a VM.
    pub parked: bool,
    /// What the producer was doing.
    pub trace: Option<TraceContext>,
}

impl Properties {
    /// Where the producer wants the result, as the ledger keeps it: empty for the exchange of results.
    pub fn told(&self) -> &str {
        self.reply_to.as_deref().unwrap_or_default()
    }
}

/// A message from the broker.
#[derive(Debug)]
pub struct Delivery<R> {
    /// The job request as the producer sent it.
    pub body: Bytes,
    /// What the broker says of it.
    pub properties: Properties,
    /// The duty to settle it.
    pub receipt: R,
}

/// How a delivery is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Its job has a result, or somebody else answers for it.
    Ack,
    /// Bring it again after a while, to another worker if there is one.
    Retry {
        /// At least this long from now.
        after: Duration,
        /// Whether this worker failed at it, so that another one should try.
        elsewhere: bool,
    },
}

/// What the broker made of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It took it.
    Taken,
    /// The delivery was no longer ours; a copy comes again and is settled then. Counts as settled.
    Stale,
}

/// The duty to settle one delivery, spent exactly once. Dropped unspent, the delivery comes again.
pub trait Receipt: Send + Sync + 'static {
    /// Settles the delivery.
    fn settle(self, settlement: Settlement) -> impl Future<Output = Settled> + Send;

    /// Its job does not begin yet, since its tenant may not: others may have its place meanwhile. `false`: it cannot
    /// wait here and should be settled as [`Settlement::Retry`].
    fn set_aside(&mut self) -> bool {
        true
    }

    /// Its job begins after all.
    fn resume(&mut self) {}

    /// Its job has no VM any more, only its result on the way: another may have its place.
    fn executed(&mut self) {}

    /// Resolves when what has not begun should go back, since its source is to end. Cancel safe.
    fn withdrawn(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Where jobs come from.
pub trait JobSource: Send + 'static {
    /// The duty that comes with each delivery.
    type Receipt: Receipt;

    /// The next delivery, or `None` when there will be no more. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Option<Delivery<Self::Receipt>>> + Send;

    /// How many jobs of a runtime may be under way at once.
    fn set_credit(&mut self, runtime: &str, jobs: usize);
}

/// A result on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The result as JSON: the committed bytes.
    pub body: Bytes,
    /// Whose job.
    pub tenant: String,
    /// The job's id; also the message id, so that repeats can be told.
    pub id: String,
    /// What the request's message said, for the way back.
    pub properties: Properties,
}

/// A result that is not known to have arrived. Publish the same bytes again.
#[derive(Debug, thiserror::Error)]
#[error("publishing a result: {what}")]
pub struct PublishError {
    /// What failed.
    pub what: String,
}

/// Where results go.
pub trait ResultSink: Send + Sync + 'static {
    /// Publishes a result. `Ok` means confirmed by the broker and routed. Not cancel safe: the outcome is unknown.
    fn publish(&self, publication: &Publication) -> impl Future<Output = Result<(), PublishError>> + Send;
}
