//! One queue of waiters per runtime: claims on one side, Ready slots on the other.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::claim::{Claim, ClaimError, Lane};
use crate::scale::lanes::{LaneRules, Lanes, Place};

/// What a waiter gets.
pub(crate) type Answer = Result<Claim, ClaimError>;

/// The waiters of one runtime.
#[derive(Debug)]
pub(crate) struct Waiters {
    runtime: String,
    epoch: Instant,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug)]
struct State {
    waiting: Lanes<oneshot::Sender<Answer>>,
    /// Ready slots that wait for a waiter.
    idle: usize,
    closed: bool,
    /// Why no VM of this runtime can be restored until somebody does something.
    broken: Option<String>,
    last_failure: Option<String>,
}

impl Waiters {
    /// Its clock counts from `epoch`.
    pub(crate) fn new(runtime: &str, rules: LaneRules, epoch: Instant) -> Arc<Self> {
        let waiting = Lanes::new(rules);
        let state = State { waiting, idle: 0, closed: false, broken: None, last_failure: None };
        Arc::new(Self { runtime: runtime.into(), epoch, state: Mutex::new(state), arrived: Notify::new() })
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
        if let Some(reason) = state.broken.as_ref().filter(|_| state.idle <= state.waiting.len()) {
            return Err(self.broken(reason));
        }
        let idle = state.idle;
        let (place, hit) = state.waiting.join(self.epoch.elapsed(), lane, sender, idle);
        drop(state);
        self.arrived.notify_one();
        Ok(Waiting { waiters: Arc::clone(self), place, answer, hit })
    }

    /// How many wait, and when the first is due.
    pub(crate) fn waiting(&self) -> (u32, Option<Duration>) {
        let state = self.state();
        (u32::try_from(state.waiting.len()).unwrap_or(u32::MAX), state.waiting.due())
    }

    /// Counts a slot as idle, from before anybody is told that it is Ready: a claim that comes then finds it.
    pub(crate) fn idle(self: &Arc<Self>) -> Idle {
        self.state().idle += 1;
        Idle { waiters: Arc::clone(self), counted: true }
    }

    /// The first waiter, when there is one. For a Ready slot. Cancel safe: whoever is woken in vain wakes the next.
    pub(crate) async fn next(&self, mut idle: Idle) -> Waiter {
        loop {
            let arrived = self.arrived.notified();
            let due = match idle.serve() {
                Ok(waiter) => return waiter,
                Err(due) => due,
            };
            let due = async {
                match due {
                    // A little later, so that the clock is past it.
                    Some(due) => sleep_until(self.epoch + due + Duration::from_millis(1)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = arrived => {}
                () = due => {}
            }
        }
    }

    /// No VM can be restored: whoever waits is told, and whoever comes, until one was restored after all.
    pub(crate) fn set_broken(&self, reason: &str) {
        let mut state = self.state();
        state.broken = Some(reason.into());
        for waiter in state.waiting.drain() {
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
        for waiter in state.waiting.drain() {
            let _ = waiter.send(Err(ClaimError::Closed));
        }
    }

    fn broken(&self, reason: &str) -> ClaimError {
        ClaimError::Broken { runtime: self.runtime.clone(), reason: reason.into() }
    }
}

/// A Ready slot in the queue, counted as idle.
#[derive(Debug)]
pub(crate) struct Idle {
    waiters: Arc<Waiters>,
    counted: bool,
}

impl Idle {
    /// Takes the first waiter and stops being idle in the same moment; else says when somebody will be due.
    fn serve(&mut self) -> Result<Waiter, Option<Duration>> {
        let mut state = self.waiters.state();
        let idle = state.idle;
        let Some(answer) = state.waiting.serve(self.waiters.epoch.elapsed(), idle) else {
            return Err(state.waiting.due());
        };
        state.idle -= 1;
        self.counted = false;
        Ok(Waiter(answer))
    }
}

impl Drop for Idle {
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
    place: Place,
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
        self.waiters.state().waiting.leave(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python() -> Arc<Waiters> {
        Waiters::new("python", LaneRules::default(), Instant::now())
    }

    #[tokio::test]
    async fn who_leaves_is_no_longer_in_the_queue_and_takes_a_late_answer_along() {
        let waiters = python();
        drop(waiters.join(Lane::Normal).unwrap());
        assert!(waiters.join(Lane::Normal).unwrap().leave().is_none());
        assert!(waiters.state().waiting.is_empty());
        let late = waiters.join(Lane::Normal).unwrap();
        waiters.set_broken("no snapshot");
        assert!(matches!(late.leave(), Some(Err(ClaimError::Broken { .. }))));
    }

    #[tokio::test]
    async fn a_slot_that_is_ready_and_does_not_look_yet_is_found_by_a_claim() {
        let waiters = python();
        let idle = waiters.idle();
        let claim = waiters.join(Lane::Normal).unwrap();
        assert!(claim.hit);
        waiters.next(idle).await;
        assert_eq!(waiters.state().idle, 0);
        drop(waiters.idle());
        assert_eq!(waiters.state().idle, 0, "one that ends before it looks is counted no more");
    }

    #[tokio::test]
    async fn a_hit_is_when_more_slots_are_idle_than_claims_wait() {
        let waiters = python();
        let slots = [waiters.next(waiters.idle()), waiters.next(waiters.idle())].map(Box::pin);
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
