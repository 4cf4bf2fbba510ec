//! What the source's task, its deliveries and its user have in common.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    limited::LimitedQueues,
    office::{Office, Slip},
    unsettled::Unsettled,
};
use crate::{
    amqp::{control::RunQueue, publisher::Health},
    ledger::JobKey,
};

/// See the module.
pub(super) struct Shared {
    pub office: Arc<dyn Office>,
    pub worker: String,
    /// Credit came, a delivery was settled, or the end was asked for.
    pub changed: Notify,
    pub health: watch::Sender<Health>,
    draining: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    credit: HashMap<String, usize>,
    in_hand: HashMap<String, usize>,
    holders: HashMap<JobKey, Holder>,
    unspent: usize,
    returned: Vec<Unsettled>,
    limited: LimitedQueues,
}

/// Who holds a job here: the message that brought it, and copies of that message that came after its channel broke.
struct Holder {
    identity: Identity,
    twins: Vec<Unsettled>,
}

/// What tells a copy of a message from another message with the same job.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    digest: String,
    reply_to: Option<String>,
    correlation_id: Option<String>,
}

impl Identity {
    fn of(slip: &Slip) -> Self {
        Self {
            digest: slip.digest.clone(),
            reply_to: slip.properties.reply_to.clone(),
            correlation_id: slip.properties.correlation_id.clone(),
        }
    }
}

/// What a receipt holds until it is spent.
pub(super) struct Held {
    pub message: Unsettled,
    /// The job, where the message is one; else it is about to be refused.
    pub slip: Option<Box<Slip>>,
    /// Whether it takes one of its runtime's places.
    pub placed: bool,
    /// Whether it is the one that holds its job here.
    pub holds: bool,
    /// Whether it waits for its tenant.
    pub aside: bool,
}

impl Shared {
    pub fn new(office: Arc<dyn Office>, worker: &str) -> Arc<Self> {
        Arc::new(Self {
            office,
            worker: worker.to_owned(),
            changed: Notify::new(),
            health: watch::Sender::new(Health::Idle),
            draining: watch::Sender::new(false),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_credit(&self, runtime: &str, jobs: usize) {
        let before = self.state().credit.insert(runtime.to_owned(), jobs);
        if before != Some(jobs) {
            self.changed.notify_one();
        }
    }

    /// How many more jobs of a runtime may be taken in hand.
    pub fn free(&self, runtime: &str) -> usize {
        let state = self.state();
        let of = |counts: &HashMap<String, usize>| counts.get(runtime).copied().unwrap_or(0);
        of(&state.credit).saturating_sub(of(&state.in_hand))
    }

    /// Keeps a copy of a message whose job is in hand here, until that is settled. Gives it back when it is none.
    pub fn adopt(&self, slip: &Slip, message: Unsettled) -> Option<Unsettled> {
        let mut state = self.state();
        match state.holders.get_mut(&slip.key) {
            Some(holder) if slip.message.redelivered && holder.identity == Identity::of(slip) => {
                holder.twins.push(message);
                None
            }
            _ => Some(message),
        }
    }

    /// Takes a message in hand.
    pub fn hold(&self, message: Unsettled, slip: Option<Box<Slip>>, placed: bool) -> Held {
        let mut state = self.state();
        state.unspent += 1;
        let mut holds = false;
        if let Some(slip) = &slip {
            if placed {
                *state.in_hand.entry(slip.queue.runtime.clone()).or_default() += 1;
            }
            holds = !state.holders.contains_key(&slip.key);
            if holds {
                let holder = Holder { identity: Identity::of(slip), twins: Vec::new() };
                state.holders.insert(slip.key.clone(), holder);
            }
        }
        Held { message, slip, placed, holds, aside: false }
    }

    /// Its place is free again, though it is not settled.
    pub fn leave_place(&self, held: &mut Held) {
        if std::mem::take(&mut held.placed)
            && let Some(slip) = &held.slip
            && let Some(count) = self.state().in_hand.get_mut(&slip.queue.runtime)
        {
            *count = count.saturating_sub(1);
        }
        self.changed.notify_one();
    }

    /// Its job does not begin until its tenant may. Whether it may wait for that here.
    pub fn set_aside(&self, held: &mut Held) -> bool {
        let Some(slip) = held.slip.clone().filter(|slip| slip.properties.parked) else { return false };
        self.leave_place(held);
        held.aside = self.state().limited.set_aside(&slip.queue, &slip.key.tenant, Instant::now());
        held.aside
    }

    /// Its tenant may begin it.
    pub fn resume(&self, held: &mut Held) {
        self.take_up(held);
        if let Some(slip) = held.slip.as_ref().filter(|_| !held.placed) {
            held.placed = true;
            *self.state().in_hand.entry(slip.queue.runtime.clone()).or_default() += 1;
        }
    }

    fn take_up(&self, held: &mut Held) {
        if std::mem::take(&mut held.aside)
            && let Some(slip) = &held.slip
        {
            self.state().limited.taken_up(&slip.queue);
            self.changed.notify_one();
        }
    }

    /// How many more messages of a queue may be fetched, for its tenants' limits. `None`: as many as are free.
    pub fn allowance(&self, queue: &RunQueue) -> Option<usize> {
        self.state().limited.allowance(queue, Instant::now())
    }

    /// Whether a tenant was lately found to be at its limit.
    pub fn is_limited(&self, tenant: &str) -> bool {
        self.state().limited.is_limited(tenant, Instant::now())
    }

    /// It is no longer in hand. Every message that must be settled with it, the usable ones first; the connection stays
    /// for that while what comes with them lives.
    pub fn let_go(self: &Arc<Self>, held: &mut Held) -> (Vec<Unsettled>, Spending) {
        self.leave_place(held);
        self.take_up(held);
        let mut state = self.state();
        let mut messages = vec![held.message.clone()];
        if let Some(slip) = held.slip.as_ref().filter(|_| held.holds) {
            messages.extend(state.holders.remove(&slip.key).into_iter().flat_map(|holder| holder.twins));
        }
        messages.sort_by_key(|message| !message.usable());
        (messages, Spending(self.clone()))
    }

    /// It was dropped unspent: its messages come again.
    pub fn give_back(self: &Arc<Self>, mut held: Held) {
        let (messages, _spending) = self.let_go(&mut held);
        self.state().returned.extend(messages);
    }

    pub fn take_returned(&self) -> Vec<Unsettled> {
        std::mem::take(&mut self.state().returned)
    }

    pub fn unspent(&self) -> usize {
        self.state().unspent
    }

    pub fn drain(&self) {
        self.draining.send_replace(true);
        self.changed.notify_one();
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Resolves when the end was asked for. Cancel safe.
    pub async fn drained(&self) {
        let mut draining = self.draining.subscribe();
        if draining.wait_for(|draining| *draining).await.is_err() {
            std::future::pending().await
        }
    }

    pub fn note(&self, health: Health) {
        self.health.send_if_modified(|now| {
            let changed = *now != health;
            *now = health;
            changed
        });
    }
}

/// A receipt that is being spent: when this is dropped, it is.
pub(super) struct Spending(Arc<Shared>);

impl Drop for Spending {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.unspent = state.unspent.saturating_sub(1);
        drop(state);
        self.0.changed.notify_one();
    }
}
