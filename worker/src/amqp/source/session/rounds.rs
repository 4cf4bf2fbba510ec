//! Tickets, looks and bells: where the next job comes from.

use hearth_schemas::job::Lane;

use super::{
    super::{receipt::requeue, ticket},
    Session, Work,
};
use crate::{
    amqp::{
        control::{Control, RunQueue},
        source::session::Ended,
    },
    ledger::JobKey,
};

impl Session<'_> {
    /// A message to all workers.
    pub(super) fn told(&mut self, bytes: &[u8]) {
        match Control::decode(bytes) {
            Some(Control::Cancel { tenant, id }) => {
                let office = self.shared.office.clone();
                self.push(async move {
                    office.cancel(JobKey { tenant, id }).await;
                    Work::Done
                });
            }
            Some(Control::Bell(queues)) => queues.iter().for_each(|queue| self.heard(queue)),
            None => tracing::debug!("a control message of another version"),
        }
    }

    pub(super) fn heard(&mut self, queue: &RunQueue) {
        if let Some(scheduler) = self.schedulers.get_mut(&queue.runtime) {
            scheduler.rang(queue.lane, queue.shard);
        }
    }

    pub(super) fn worked(&mut self, work: Work) -> Result<(), Ended> {
        match work {
            Work::Ticket(queue, found) => {
                if let Some(out) = self.tickets_out.get_mut(&queue) {
                    *out = out.saturating_sub(1);
                }
                self.tickets_out.retain(|_, out| *out > 0);
                match found.map_err(|error| self.link.error(error))? {
                    Some(delivery) => self.fetched(queue, *delivery),
                    None => {
                        if let Some(scheduler) = self.schedulers.get_mut(&queue.runtime) {
                            scheduler.empty(queue.lane, queue.shard);
                        }
                    }
                }
            }
            Work::Looked(queue, seen) => {
                let seen = seen.map_err(|error| self.link.error(error))?;
                if let Some(scheduler) = self.schedulers.get_mut(&queue.runtime) {
                    scheduler.looked(queue.lane, queue.shard, seen.messages);
                }
            }
            Work::Workers(seen) => {
                self.workers = seen.map_err(|error| self.link.error(error))?.consumers.max(1)
            }
            Work::Unavoidable(slip, unsettled) => self.hand_on(slip, unsettled, true),
            Work::Decided(slip, unsettled) => self.hand_on(slip, unsettled, false),
            Work::Cancelled(fetched) => {
                let messages = fetched.map_err(|error| self.link.error(error))?;
                self.push(async move {
                    requeue(&messages).await;
                    Work::Done
                });
            }
            Work::Done => {}
        }
        Ok(())
    }

    /// VMs of a runtime for which nothing is in hand or on its way.
    pub(super) fn free(&self, runtime: &str) -> usize {
        let out: usize =
            self.tickets_out.iter().filter(|(queue, _)| queue.runtime == runtime).map(|(_, out)| out).sum();
        self.shared.free(runtime).saturating_sub(out)
    }

    /// Whether nobody waits for a VM of a runtime, except for a tenant that may not begin another job.
    pub(super) fn is_idle(&self, runtime: &str) -> bool {
        let may = |lane, shard| {
            self.shared.allowance(&RunQueue { runtime: runtime.to_owned(), lane, shard }).is_none()
        };
        self.schedulers.get(runtime).is_none_or(|scheduler| scheduler.is_idle(may))
    }

    /// The queues that the free VMs of a runtime look at next.
    fn turns(&mut self, runtime: &str) -> Vec<RunQueue> {
        let mut turns = Vec::new();
        for _ in 0..self.free(runtime) {
            let Some(scheduler) = self.schedulers.get_mut(runtime) else { break };
            let queue = |lane, shard| RunQueue { runtime: runtime.to_owned(), lane, shard };
            let next = scheduler.next(|lane, shard| {
                let queue = queue(lane, shard);
                let out = self.tickets_out.get(&queue).copied().unwrap_or(0);
                self.shared.allowance(&queue).is_none_or(|allowance| out < allowance)
            });
            let Some((lane, shard)) = next else { break };
            *self.tickets_out.entry(queue(lane, shard)).or_default() += 1;
            turns.push(queue(lane, shard));
        }
        turns
    }

    /// Sends tickets for what is free, and looks where too little is known.
    pub(super) fn send_out(&mut self) {
        if self.shared.is_draining() {
            return;
        }
        let runtimes: Vec<_> = self.schedulers.keys().cloned().collect();
        for runtime in runtimes {
            let turns = self.turns(&runtime);
            let Some(scheduler) = self.schedulers.get_mut(&runtime) else { continue };
            let looks = scheduler.look_where_unknown();
            for queue in turns {
                let channel = self.tickets.clone();
                let name = self.config.names.run(&runtime, queue.lane, queue.shard);
                self.push(async move { Work::Ticket(queue, ticket::ticket(&channel, name).await) });
            }
            self.look_at(&runtime, looks);
        }
    }

    pub(super) fn look_again(&mut self) {
        let looks: Vec<_> = self
            .schedulers
            .iter_mut()
            .map(|(runtime, scheduler)| (runtime.clone(), scheduler.look_everywhere()))
            .collect();
        for (runtime, looks) in looks {
            self.look_at(&runtime, looks);
        }
    }

    pub(super) fn look_at(&self, runtime: &str, queues: Vec<(Lane, u16)>) {
        for (lane, shard) in queues {
            let channel = self.looking.clone();
            let name = self.config.names.run(runtime, lane, shard);
            let queue = RunQueue { runtime: runtime.to_owned(), lane, shard };
            self.push(async move { Work::Looked(queue, ticket::look(channel, name).await) });
        }
    }
}
