//! One message that the broker waits to hear of.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use futures_util::FutureExt;
use lapin::{
    Acker, Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicNackOptions},
};

/// See the module. Clones are the same message, which is settled once.
#[derive(Clone, Debug)]
pub(super) struct Unsettled {
    acker: Acker,
    tag: u64,
    /// Weak, so that a connection that is given up ends though jobs of its messages go on.
    channel: Weak<Channel>,
    settled: Arc<AtomicBool>,
}

impl Unsettled {
    /// A message that came on this channel.
    pub fn new(delivery: &Delivery, channel: &Arc<Channel>) -> Self {
        Self {
            acker: delivery.acker.clone(),
            tag: delivery.delivery_tag,
            channel: Arc::downgrade(channel),
            settled: Arc::default(),
        }
    }

    /// Whether the broker may still know it.
    pub fn usable(&self) -> bool {
        !self.settled.load(Ordering::Relaxed) && self.acker.usable()
    }

    /// Acknowledges it: `true` when that is on its way, in order with everything else on this connection. Nobody waits until
    /// it is written, since that says no more: what the broker has not read when the connection breaks comes again.
    ///
    /// lapin queues the frame before it first waits (4.12, `Channel::basic_ack`), so polling once does. Past its acker, which
    /// passes it through a task of its own, a task for each, and three wake-ups of its thread.
    pub fn ack(&self) -> bool {
        let Some(channel) = self.channel.upgrade().filter(|_| self.acker.usable()) else { return false };
        if self.settled.swap(true, Ordering::Relaxed) {
            return false;
        }
        let queued = channel.basic_ack(self.tag, BasicAckOptions::default()).now_or_never();
        !matches!(queued, Some(Err(_)))
    }

    /// Has the broker bring it again: `true` when that is written.
    pub async fn requeue(&self) -> bool {
        if self.settled.swap(true, Ordering::Relaxed) {
            return false;
        }
        let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        matches!(self.acker.nack(requeue).await, Ok(true))
    }
}
