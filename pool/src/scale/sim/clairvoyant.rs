//! A pool that knows every claim beforehand: the least that could be held.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::load::Job;

/// When each restore begins at the latest for its VM to be Ready at its claim, with so many at once and each taking
/// `lead`. In order. Those that would begin before the beginning begin there.
pub(super) fn orders(jobs: &[Job], lead: Duration, turns: u32) -> Vec<Duration> {
    // Time runs backwards: a claim is an arrival, a turn is free again where its restore begins. Instants are counted
    // from far behind the end, so that none is negative.
    let end = jobs.last().map_or(Duration::ZERO, |job| job.at);
    let mut free: BinaryHeap<Reverse<Duration>> =
        (0..turns.max(1)).map(|_| Reverse(Duration::ZERO)).collect();
    let mut begins = Vec::with_capacity(jobs.len());
    for job in jobs.iter().rev() {
        let back = end.saturating_sub(job.at);
        let Reverse(turn) = free.pop().unwrap_or_default();
        let begin = turn.max(back) + lead;
        free.push(Reverse(begin));
        begins.push(end.saturating_sub(begin));
    }
    begins.sort_unstable();
    begins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Lane;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn restores_begin_as_late_as_turns_allow() {
        let job = |ms: u32| Job { at: ms * MS, runtime: 0, takes: MS, lane: Lane::Normal };
        let jobs = [job(1000), job(2000), job(2000), job(2100)];
        let begin =
            |turns| orders(&jobs, 500 * MS, turns).iter().map(Duration::as_millis).collect::<Vec<_>>();
        assert_eq!(begin(4), [500, 1500, 1500, 1600]);
        assert_eq!(begin(1), [100, 600, 1100, 1600]);
    }
}
