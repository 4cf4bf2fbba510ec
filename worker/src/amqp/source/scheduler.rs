//! Which queue the next free VM of a runtime looks at. Pure.

use hearth_schemas::job::Lane;

use crate::amqp::names::LANES;

/// How often each lane goes first when all have jobs, unless configured otherwise: interactive, normal, batch.
pub const WEIGHTS: [u32; 3] = [8, 4, 1];

/// What is known of a runtime's run queues, and whose turn it is.
#[derive(Clone, Debug)]
pub struct Scheduler {
    lanes: [LaneState; 3],
}

#[derive(Clone, Debug)]
struct LaneState {
    weight: i64,
    /// Smooth weighted round robin: grows by the weight while the lane has jobs, pays for a turn.
    due: i64,
    /// The shard whose turn is next.
    next: usize,
    shards: Vec<Shard>,
}

/// What is known of one queue.
#[derive(Clone, Copy, Debug, Default)]
struct Shard {
    /// Messages, about; unknown at first and once all that were known of are taken.
    count: Option<u32>,
    /// Somebody has been sent to look.
    looking: bool,
    /// A bell rang meanwhile.
    rang: bool,
    /// The last count that was known.
    last: u32,
}

impl Scheduler {
    /// Knows nothing yet. A weight of 0 counts as 1: no lane starves.
    pub fn new(shards: u16, weights: [u32; 3]) -> Self {
        let lane = |weight: u32| LaneState {
            weight: i64::from(weight.max(1)),
            due: 0,
            next: 0,
            shards: vec![Shard::default(); usize::from(shards.max(1))],
        };
        Self { lanes: weights.map(lane) }
    }

    /// The queue whose turn it is, of those that have jobs and that `may` be taken from; one of its jobs counts as taken.
    pub fn next(&mut self, may: impl Fn(Lane, u16) -> bool) -> Option<(Lane, u16)> {
        let mut eligible: Vec<_> = self
            .lanes
            .iter_mut()
            .zip(LANES)
            .filter_map(|(lane, name)| Some((lane.turn(|shard| may(name, shard))?, lane, name)))
            .collect();
        let total: i64 = eligible.iter().map(|(_, lane, _)| lane.weight).sum();
        for (_, lane, _) in &mut eligible {
            lane.due += lane.weight;
        }
        // The first of equals, so the more urgent one.
        let (place, lane, name) = eligible.into_iter().rev().max_by_key(|(_, lane, _)| lane.due)?;
        lane.due -= total;
        Some((name, lane.take(place)?))
    }

    /// Queues of which too little is known. They count as being looked at from now on.
    pub fn look_where_unknown(&mut self) -> Vec<(Lane, u16)> {
        self.look_at(|shard| shard.count.is_none())
    }

    /// All queues, in case a bell was not heard.
    pub fn look_everywhere(&mut self) -> Vec<(Lane, u16)> {
        self.look_at(|_| true)
    }

    /// Queues in which jobs are known to wait.
    pub fn look_where_waiting(&mut self) -> Vec<(Lane, u16)> {
        self.look_at(|shard| shard.last > 0)
    }

    /// How many jobs wait, as far as is known.
    pub fn waiting(&self) -> u32 {
        let shards = self.lanes.iter().flat_map(|lane| &lane.shards);
        shards.map(|shard| shard.count.unwrap_or(shard.last)).fold(0, u32::saturating_add)
    }

    fn look_at(&mut self, which: impl Fn(&Shard) -> bool) -> Vec<(Lane, u16)> {
        let mut found = Vec::new();
        for (lane, name) in self.lanes.iter_mut().zip(LANES) {
            for (shard, number) in lane.shards.iter_mut().zip(0..) {
                if !shard.looking && which(shard) {
                    shard.looking = true;
                    found.push((name, number));
                }
            }
        }
        found
    }

    /// Somebody looked, and saw this many messages.
    pub fn looked(&mut self, lane: Lane, shard: u16, count: u32) {
        if let Some(shard) = self.shard(lane, shard) {
            let count = count.max(u32::from(shard.rang));
            *shard = Shard { count: Some(count), last: count, ..Shard::default() };
        }
    }

    /// A job was put there by this worker.
    pub fn parked(&mut self, lane: Lane, shard: u16) {
        if let Some(shard) = self.shard(lane, shard) {
            shard.last = shard.last.saturating_add(1);
            shard.count = shard.count.map(|_| shard.last);
            shard.rang |= shard.looking;
        }
    }

    /// Jobs were put there, by whomever.
    pub fn rang(&mut self, lane: Lane, shard: u16) {
        if let Some(shard) = self.shard(lane, shard) {
            shard.count = shard.count.map(|count| count.max(1));
            shard.last = shard.last.max(1);
            shard.rang |= shard.looking;
        }
    }

    /// A ticket found nothing.
    pub fn empty(&mut self, lane: Lane, shard: u16) {
        if let Some(shard) = self.shard(lane, shard) {
            (shard.count, shard.last) = (Some(0), 0);
        }
    }

    /// Whether nobody waits, as far as is known, in the queues that `may` be taken from: a job may go before those that
    /// might.
    pub fn is_idle(&self, may: impl Fn(Lane, u16) -> bool) -> bool {
        self.lanes.iter().zip(LANES).all(|(lane, name)| {
            lane.shards.iter().zip(0..).all(|(shard, number)| shard.count == Some(0) || !may(name, number))
        })
    }

    fn shard(&mut self, lane: Lane, shard: u16) -> Option<&mut Shard> {
        let place = LANES.iter().position(|name| *name == lane)?;
        self.lanes.get_mut(place)?.shards.get_mut(usize::from(shard))
    }
}

impl Shard {
    fn has_jobs(&self) -> bool {
        self.count.is_some_and(|count| count > 0)
    }
}

impl LaneState {
    /// The next shard in turn that has jobs.
    fn turn(&self, may: impl Fn(u16) -> bool) -> Option<usize> {
        let shards = self.shards.len();
        (self.next..self.next + shards).map(|place| place % shards.max(1)).find(|place| {
            self.shards.get(*place).is_some_and(Shard::has_jobs) && u16::try_from(*place).is_ok_and(&may)
        })
    }

    fn take(&mut self, place: usize) -> Option<u16> {
        self.next = (place + 1) % self.shards.len();
        let shard = self.shards.get_mut(place)?;
        shard.last = shard.count.map_or(0, |count| count.saturating_sub(1));
        shard.count = (shard.last > 0).then_some(shard.last);
        u16::try_from(place).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn any(_: Lane, _: u16) -> bool {
        true
    }

    fn known(shards: u16, counts: impl Fn(Lane, u16) -> u32) -> Scheduler {
        let mut scheduler = Scheduler::new(shards, WEIGHTS);
        for (lane, shard) in scheduler.look_where_unknown() {
            scheduler.looked(lane, shard, counts(lane, shard));
        }
        scheduler
    }

    #[test]
    fn lanes_take_turns_by_weight_and_none_starves() {
        let mut scheduler = known(2, |_, _| 100_000);
        let mut turns = BTreeMap::new();
        let mut last_batch = 0;
        for turn in 1..=1300 {
            let (lane, _) = scheduler.next(any).unwrap();
            *turns.entry(lane).or_insert(0) += 1;
            if lane == Lane::Batch {
                assert!(turn - last_batch <= 13, "batch waits at most one round");
                last_batch = turn;
            }
        }
        assert_eq!(turns.into_values().collect::<Vec<_>>(), [800, 400, 100]);
    }

    #[test]
    fn a_lane_alone_gets_every_turn() {
        let mut scheduler = known(2, |lane, _| if lane == Lane::Batch { 50 } else { 0 });
        for _ in 0..100 {
            assert_eq!(scheduler.next(any).unwrap().0, Lane::Batch);
        }
        assert_eq!(scheduler.next(any), None, "all that was known of is taken");
        assert_eq!(scheduler.look_where_unknown().len(), 2);
        assert!(!scheduler.is_idle(any), "until somebody has looked");
    }

    #[test]
    fn ten_jobs_of_one_tenant_do_not_wait_for_a_hundred_thousand_of_another() {
        let mut scheduler = known(16, |lane, shard| match (lane, shard) {
            (Lane::Normal, 3) => 100_000,
            (Lane::Normal, 9) => 10,
            _ => 0,
        });
        let turns: Vec<_> = (0..20).map(|_| scheduler.next(any).unwrap().1).collect();
        assert_eq!(turns.iter().filter(|shard| **shard == 9).count(), 10, "{turns:?}");
    }

    #[test]
    fn a_queue_that_may_not_be_taken_from_is_in_nobodys_way() {
        let mut scheduler = known(4, |lane, shard| u32::from(lane == Lane::Normal && shard < 2) * 100);
        let may = |_, shard: u16| shard != 0;
        assert!((0..20).all(|_| scheduler.next(may) == Some((Lane::Normal, 1))));
        assert_eq!(scheduler.next(|_, shard| shard > 1), None);
        assert!(scheduler.is_idle(|_, shard| shard > 1) && !scheduler.is_idle(may));
        assert_eq!(scheduler.next(any), Some((Lane::Normal, 0)), "whose turn it was all along");
    }

    #[test]
    fn what_waits_is_known_while_somebody_looks_and_a_job_of_our_own_counts_once() {
        let mut scheduler = known(2, |lane, shard| u32::from(lane == Lane::Batch && shard == 1) * 40);
        assert_eq!(scheduler.waiting(), 40);
        assert_eq!(scheduler.look_where_waiting(), [(Lane::Batch, 1)]);
        assert_eq!((scheduler.waiting(), scheduler.look_where_waiting()), (40, Vec::new()));
        scheduler.looked(Lane::Batch, 1, 39);
        scheduler.next(any).unwrap();
        assert_eq!(scheduler.waiting(), 38);
        (0..3).for_each(|_| scheduler.parked(Lane::Normal, 0));
        // The bell comes back to whoever rang it.
        scheduler.rang(Lane::Normal, 0);
        assert_eq!(scheduler.waiting(), 41);
        assert_eq!(scheduler.look_where_waiting().len(), 2);
        scheduler.empty(Lane::Batch, 1);
        scheduler.looked(Lane::Normal, 0, 1);
        scheduler.next(any).unwrap();
        assert_eq!((scheduler.waiting(), scheduler.next(any)), (0, None));
    }

    #[test]
    fn a_bell_is_heard_also_while_somebody_looks() {
        let mut scheduler = known(1, |_, _| 0);
        assert!(scheduler.is_idle(any));
        assert_eq!(scheduler.next(any), None);
        scheduler.rang(Lane::Normal, 0);
        assert!(!scheduler.is_idle(any));
        assert_eq!(scheduler.next(any), Some((Lane::Normal, 0)));
        assert_eq!(scheduler.look_where_unknown(), [(Lane::Normal, 0)]);
        assert_eq!(scheduler.look_where_unknown(), [], "one is on the way");
        scheduler.rang(Lane::Normal, 0);
        scheduler.looked(Lane::Normal, 0, 0);
        assert_eq!(scheduler.next(any), Some((Lane::Normal, 0)), "the look may have been before the bell");
        scheduler.look_where_unknown();
        scheduler.looked(Lane::Normal, 0, 0);
        assert!(scheduler.is_idle(any));
        assert_eq!(scheduler.look_everywhere().len(), 3);
        scheduler.rang(Lane::Normal, 99);
    }
}
