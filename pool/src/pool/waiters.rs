//! One queue of waiters per runtime: claims on one side, Ready slots on the other.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::sync::{Notify, oneshot};

use super::claim::{Claim, ClaimError, Lane};

/// What a waiter gets.
pub(crate) type Answer = Result<Claim, ClaimError>;

/// The order in which waiters are served: a better lane first, within a lane the one who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    lane: Lane,
    arrival: u64,
}

/// The waiters of one runtime.
#[derive(Debug)]
pub(crate) struct Waiters {
    runtime: String,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Rank, oneshot::Sender<Answer>>,
    arrivals: u64,
    /// Ready slots that wait for a waiter.
    idle: usize,
    closed: bool,
    /// Why no VM of this runtime can be restored until somebody does something.
    broken: Option<String>,
    last_failure: Option<String>,
}

impl Waiters {
    pub(crate) fn new(runtime: &str) -> Arc<Self> {
        Arc::new(Self { runtime: runtime.into(), state: Mutex::default(), arrived: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the queue.
    pub(crate) fn join(self: &Arc<Self>, lane: Lane) -> Result<Waiting, ClaimError> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.state();
        if state.closed {
            return Err(ClaimError::Closed);
        }
        let hit = state.idle > state.waiting.len();
        if let Some(reason) = state.broken.as_ref().filter(|_| !hit) {
            return Err(self.broken(reason));
        }
        let rank = Rank { lane, arrival: state.arrivals };
        state.arrivals += 1;
        state.waiting.insert(rank, sender);
        drop(state);
        self.arrived.notify_one();
        Ok(Waiting { waiters: Arc::clone(self), rank, answer, hit })
    }

    /// The first waiter, when there is one. For a Ready slot. Cancel safe: whoever is woken in vain wakes the next.
    pub(crate) async fn next(&self) -> Waiter {
        let mut idle = Idle::new(self);
        loop {
            let arrived = self.arrived.notified();
            if let Some(waiter) = idle.serve() {
                return waiter;
            }
            arrived.await;
        }
    }

    /// No VM can be restored: whoever waits is told, and whoever comes, until one was restored after all.
    pub(crate) fn set_broken(&self, reason: &str) {
        let mut state = self.state();
        state.broken = Some(reason.into());
        for (_, waiter) in std::mem::take(&mut state.waiting) {
            let _ = waiter.send(Err(self.broken(reason)));
        }
    }

    /// A restore failed and will be tried again.
    pub(crate) fn set_failed(&self, reason: &str) {
        self.state().last_failure = Some(reason.into());
    }

    /// A VM is Ready.
    pub(crate) fn set_sound(&self) {
        let mut state = self.state();
        (state.broken, state.last_failure) = (None, None);
    }

    /// The last failure since a VM was Ready.
    pub(crate) fn last_failure(&self) -> Option<String> {
        self.state().last_failure.clone()
    }

    /// Turns everybody away from now on.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for (_, waiter) in std::mem::take(&mut state.waiting) {
            let _ = waiter.send(Err(ClaimError::Closed));
        }
    }

    fn broken(&self, reason: &str) -> ClaimError {
        ClaimError::Broken { runtime: self.runtime.clone(), reason: reason.into() }
    }
}

/// A Ready slot in the queue, counted as idle.
struct Idle<'a> {
    waiters: &'a Waiters,
    counted: bool,
}

impl<'a> Idle<'a> {
    fn new(waiters: &'a Waiters) -> Self {
        waiters.state().idle += 1;
        Self { waiters, counted: true }
    }

    /// Takes the first waiter and stops being idle in the same moment.
    fn serve(&mut self) -> Option<Waiter> {
        let mut state = self.waiters.state();
        let (_, answer) = state.waiting.pop_first()?;
        state.idle -= 1;
        self.counted = false;
        Some(Waiter(answer))
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        if self.counted {
            self.waiters.state().idle -= 1;
        }
    }
}

/// Somebody who waits, in the hands of a slot.
#[derive(Debug)]
pub(crate) struct Waiter(oneshot::Sender<Answer>);

impl Waiter {
    /// Hands over the claim. When nobody waits any more it is dropped, and its VM with it.
    pub(crate) fn give(self, claim: Claim) {
        let _ = self.0.send(Ok(claim));
    }
}

/// A place in the queue; left when dropped. Resolves to the answer.
#[derive(Debug)]
pub(crate) struct Waiting {
    waiters: Arc<Waiters>,
    rank: Rank,
    answer: oneshot::Receiver<Answer>,
    /// Whether a Ready slot was there for it when it came.
    pub(crate) hit: bool,
}

impl Waiting {
    /// Leaves the queue, with the answer that came at the last moment.
    pub(crate) fn leave(mut self) -> Option<Answer> {
        self.answer.close();
        self.answer.try_recv().ok()
    }
}

impl Future for Waiting {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        // A slot that took the waiter and vanished can only have been on its way out.
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(ClaimError::Closed)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.state().waiting.remove(&self.rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_better_lane_goes_first_then_who_came_first() {
        let rank = |lane, arrival| Rank { lane, arrival };
        let mut ranks = [
            rank(Lane::Batch, 0),
            rank(Lane::Normal, 3),
            rank(Lane::Interactive, 4),
            rank(Lane::Normal, 1),
            rank(Lane::Interactive, 2),
        ];
        ranks.sort();
        assert_eq!(ranks.map(|rank| rank.arrival), [2, 4, 1, 3, 0]);
    }

    #[tokio::test]
    async fn who_leaves_is_no_longer_in_the_queue_and_takes_a_late_answer_along() {
        let waiters = Waiters::new("python");
        drop(waiters.join(Lane::Normal).unwrap());
        assert!(waiters.join(Lane::Normal).unwrap().leave().is_none());
        assert!(waiters.state().waiting.is_empty());
        let late = waiters.join(Lane::Normal).unwrap();
        waiters.set_broken("no snapshot");
        assert!(matches!(late.leave(), Some(Err(ClaimError::Broken { .. }))));
    }

    #[tokio::test]
    async fn a_hit_is_when_more_slots_are_idle_than_claims_wait() {
        let waiters = Waiters::new("python");
        let slots = [waiters.next(), waiters.next()].map(Box::pin);
        let [mut one, mut two] = slots;
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(one.as_mut().poll(&mut context).is_pending());
        assert!(two.as_mut().poll(&mut context).is_pending());
        let first = waiters.join(Lane::Normal).unwrap();
        let second = waiters.join(Lane::Normal).unwrap();
        let third = waiters.join(Lane::Normal).unwrap();
        assert_eq!([first.hit, second.hit, third.hit], [true, true, false]);
        drop((first, second, third));
        assert!(waiters.join(Lane::Normal).unwrap().hit, "they have gone");
        drop(one);
        let still = waiters.join(Lane::Normal).unwrap();
        assert!(still.hit);
        assert!(two.as_mut().poll(&mut context).is_ready(), "woken by the one that went, or by itself");
        assert!(!waiters.join(Lane::Normal).unwrap().hit);
        assert_eq!(waiters.state().idle, 0);
        drop(still);
    }
}
