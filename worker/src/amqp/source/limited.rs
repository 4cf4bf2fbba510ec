//! Queues whose next job's tenant may not begin another one: how many of their messages are kept here meanwhile. Pure.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::amqp::control::RunQueue;

/// Messages of one queue that are fetched although their tenant may not begin them yet: enough that one is here when
/// another one ends.
const FETCHED_MAX: usize = 8;
/// Messages that are kept here for their tenants, of one queue and of all.
const ASIDE_MAX: usize = 32;
const ASIDE_OF_ALL_MAX: usize = 128;
/// For how long a queue or a tenant counts as limited after it was found to be.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LimitedQueues {
    queues: HashMap<RunQueue, Limited>,
    tenants: HashMap<String, Instant>,
}

#[derive(Debug)]
struct Limited {
    aside: usize,
    seen: Instant,
}

impl Limited {
    fn is_over(&self, now: Instant) -> bool {
        self.aside == 0 && now >= self.seen + REMEMBERED_FOR
    }
}

impl LimitedQueues {
    /// A job of this queue has to wait for its tenant. Whether it may do so here; if not, back to its queue with it.
    pub fn set_aside(&mut self, queue: &RunQueue, tenant: &str, now: Instant) -> bool {
        self.queues.retain(|_, limited| !limited.is_over(now));
        self.tenants.retain(|_, seen| now < *seen + REMEMBERED_FOR);
        self.tenants.insert(tenant.to_owned(), now);
        let all: usize = self.queues.values().map(|limited| limited.aside).sum();
        let limited = self.queues.entry(queue.clone()).or_insert(Limited { aside: 0, seen: now });
        limited.seen = now;
        let room = limited.aside < ASIDE_MAX && all < ASIDE_OF_ALL_MAX;
        limited.aside += usize::from(room);
        room
    }

    /// One that was set aside is so no longer.
    pub fn taken_up(&mut self, queue: &RunQueue) {
        if let Some(limited) = self.queues.get_mut(queue) {
            limited.aside = limited.aside.saturating_sub(1);
        }
    }

    /// How many more may be fetched of a queue, beside those that are on their way. `None`: as many as are free.
    pub fn allowance(&self, queue: &RunQueue, now: Instant) -> Option<usize> {
        let limited = self.queues.get(queue).filter(|limited| !limited.is_over(now))?;
        Some(FETCHED_MAX.saturating_sub(limited.aside))
    }

    /// Whether a tenant was lately found to be at its limit.
    pub fn is_limited(&self, tenant: &str, now: Instant) -> bool {
        self.tenants.get(tenant).is_some_and(|seen| now < *seen + REMEMBERED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::job::Lane;

    use super::*;

    fn queue(shard: u16) -> RunQueue {
        RunQueue { runtime: "python".into(), lane: Lane::Normal, shard }
    }

    #[tokio::test(start_paused = true)]
    async fn a_limited_queue_is_fetched_from_a_little_and_remembered_for_a_while() {
        let (mut queues, now) = (LimitedQueues::default(), Instant::now());
        assert_eq!(queues.allowance(&queue(1), now), None);
        for n in 1..=ASIDE_MAX {
            assert!(queues.set_aside(&queue(1), "a", now));
            assert_eq!(queues.allowance(&queue(1), now), Some(FETCHED_MAX.saturating_sub(n)));
        }
        assert!(!queues.set_aside(&queue(1), "a", now), "no more of one queue");
        assert_eq!(queues.allowance(&queue(2), now), None, "others are not limited");
        assert!(queues.is_limited("a", now) && !queues.is_limited("b", now));
        for shard in 2..5 {
            assert!((0..ASIDE_MAX).all(|_| queues.set_aside(&queue(shard), "b", now)));
        }
        assert!(!queues.set_aside(&queue(5), "b", now), "no more at all");
        let later = now + REMEMBERED_FOR;
        assert_eq!(queues.allowance(&queue(1), later), Some(0), "as long as one is here");
        (0..ASIDE_MAX).for_each(|_| queues.taken_up(&queue(1)));
        assert_eq!(queues.allowance(&queue(1), later), None);
        assert!(!queues.is_limited("a", later));
        assert!(queues.set_aside(&queue(5), "b", later));
        queues.taken_up(&queue(99));
    }
}
