//! How many jobs wait on the broker: told to the pool, which keeps VMs for them, and measured.

use super::{super::ticket, Session, Work};

impl Session<'_> {
    /// Counts again where jobs are known to wait, and how many workers share them: each consumes the intake once.
    pub(super) fn recount(&mut self) {
        let looks: Vec<_> = self
            .schedulers
            .iter_mut()
            .map(|(runtime, scheduler)| (runtime.clone(), scheduler.look_where_waiting()))
            .filter(|(_, looks)| !looks.is_empty())
            .collect();
        if looks.is_empty() {
            return;
        }
        for (runtime, looks) in looks {
            self.look_at(&runtime, looks);
        }
        let (channel, intake) = (self.looking.clone(), self.config.names.intake());
        self.push(async move { Work::Workers(ticket::look(channel, intake).await) });
    }

    /// Says how many wait for each runtime, where that has changed.
    pub(super) fn tell_backlog(&mut self) {
        let drains = self.shared.is_draining();
        for (runtime, scheduler) in &self.schedulers {
            let waiting = if drains { 0 } else { scheduler.waiting() };
            let now = (waiting, share(waiting, self.workers));
            if self.told.insert(runtime.clone(), now) != Some(now) {
                self.shared.office.waiting(runtime, now.0, now.1);
            }
        }
    }
}

/// Of jobs that wait, those that one of so many workers will run.
fn share(waiting: u32, workers: u32) -> u32 {
    waiting.div_ceil(workers.max(1))
}

#[test]
fn workers_share_what_waits_and_none_is_left_over() {
    assert_eq!([share(0, 3), share(1, 3), share(7, 3), share(9, 3), share(9, 0)], [0, 1, 3, 3, 9]);
}
