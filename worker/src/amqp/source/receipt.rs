//! The duty to settle one message.

use std::{sync::Arc, time::Duration};

use super::{
    office::Parked,
    shared::{Held, Shared},
    unsettled::Unsettled,
};
use crate::{
    attempt::chain,
    ledger::unix_ms,
    seams::{Receipt, Settled, Settlement},
};

/// How long a worker that failed at a job leaves it to others, beyond the pause.
const AVOID_FOR: Duration = Duration::from_secs(5);

/// How long before parking is tried again, while ledger or broker do not take the job.
pub(super) const PARK_PAUSE: Duration = Duration::from_secs(1);

/// See the module. Dropped unspent, its message comes again.
pub struct AmqpReceipt {
    shared: Arc<Shared>,
    held: Option<Held>,
}

impl AmqpReceipt {
    pub(super) fn new(shared: &Arc<Shared>, held: Held) -> Self {
        Self { shared: shared.clone(), held: Some(held) }
    }
}

impl Drop for AmqpReceipt {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.shared.give_back(held);
        }
    }
}

impl Receipt for AmqpReceipt {
    fn set_aside(&mut self) -> bool {
        self.held.as_mut().is_some_and(|held| self.shared.set_aside(held))
    }

    fn resume(&mut self) {
        if let Some(held) = &mut self.held {
            self.shared.resume(held);
        }
    }

    fn executed(&mut self) {
        if let Some(held) = &mut self.held {
            self.shared.leave_place(held);
        }
    }

    async fn withdrawn(&self) {
        self.shared.drained().await;
    }

    async fn settle(mut self, settlement: Settlement) -> Settled {
        match settlement {
            Settlement::Ack => {
                let Some(mut held) = self.held.take() else { return Settled::Stale };
                let (messages, _spending) = self.shared.let_go(&mut held);
                ack(&messages)
            }
            Settlement::Retry { after, elsewhere } => {
                let Some(held) = &mut self.held else { return Settled::Stale };
                self.shared.leave_place(held);
                tokio::time::sleep(after).await;
                self.again(elsewhere).await
            }
        }
    }
}

impl AmqpReceipt {
    /// Publishes the job to its run queue, then acknowledges the message; or has the broker bring it again.
    async fn again(&mut self, elsewhere: bool) -> Settled {
        while let Some(Held { message, slip: Some(slip), .. }) = &self.held {
            let mut avoid = slip.avoid.clone();
            if elsewhere {
                avoid.workers.push(self.shared.worker.clone());
                avoid.until_unix_ms = unix_ms() + u64::try_from(AVOID_FOR.as_millis()).unwrap_or(0);
            }
            match self.shared.office.park(slip, &avoid).await {
                Ok(Parked::Parked) => {
                    let Some(mut held) = self.held.take() else { return Settled::Stale };
                    let (messages, _spending) = self.shared.let_go(&mut held);
                    return ack(&messages);
                }
                // Whoever gets it next finds its result.
                Ok(Parked::Decided) => break,
                Err(error) if message.usable() && !self.shared.is_draining() => {
                    tracing::warn!(job = %slip.key, error = chain(&error), "not parked yet");
                    tokio::time::sleep(PARK_PAUSE).await;
                }
                Err(_) => break,
            }
        }
        let Some(mut held) = self.held.take() else { return Settled::Stale };
        let (messages, _spending) = self.shared.let_go(&mut held);
        requeue(&messages).await
    }
}

/// Acknowledges all; taken when the broker still knows one of them.
pub(super) fn ack(messages: &[Unsettled]) -> Settled {
    let mut settled = Settled::Stale;
    for message in messages {
        if message.ack() {
            settled = Settled::Taken;
        }
    }
    settled
}

/// Gives all back to the broker.
pub(super) async fn requeue(messages: &[Unsettled]) -> Settled {
    let mut settled = Settled::Stale;
    for message in messages {
        if message.requeue().await {
            settled = Settled::Taken;
        }
    }
    settled
}
