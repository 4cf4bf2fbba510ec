//! One life of the source's connection.

mod backlog;
mod desk;
mod rounds;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::FuturesUnordered,
};
use lapin::{Channel, Consumer, options::BasicQosOptions};
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use super::{
    SourceConfig,
    office::Slip,
    receipt::{AmqpReceipt, requeue},
    scheduler::Scheduler,
    shared::Shared,
    ticket::{self, Seen, consume, control},
    unsettled::Unsettled,
};
use crate::{
    amqp::{
        control::RunQueue,
        declare::{DeclareError, apply},
        link::{Link, LinkError},
        publisher::Health,
        topology::Topology,
    },
    seams::Delivery,
};

/// How often all queues are looked at though no bell rang.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often queues are counted in which jobs are known to wait.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// For how long bells are collected before they are rung together.
const BELLS_EVERY: Duration = Duration::from_millis(10);
/// Fallen messages that are dealt with at once.
const FALLEN_AT_ONCE: u16 = 4;

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("drained")]
    Drained,
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("declaring")]
    Declare(#[from] DeclareError),
    #[error("the queue {0} was deleted, or its node is down")]
    QueueGone(String),
}

/// What the session's own futures come back with.
enum Work {
    Ticket(RunQueue, Result<Option<Box<lapin::message::Delivery>>, lapin::Error>),
    Looked(RunQueue, Result<Seen, lapin::Error>),
    /// The intake, for how many consume it.
    Workers(Result<Seen, lapin::Error>),
    /// There is nobody else to run it.
    Unavoidable(Box<Slip>, Unsettled),
    /// The message needs no VM: hand it on.
    Decided(Box<Slip>, Unsettled),
    /// A consumer is gone; what it had fetched.
    Cancelled(Result<Vec<Unsettled>, lapin::Error>),
    Done,
}

pub(super) struct Session<'a> {
    config: &'a SourceConfig,
    shared: &'a Arc<Shared>,
    link: Link,
    consuming: Arc<Channel>,
    tickets: Arc<Channel>,
    looking: Channel,
    intake: Option<Consumer>,
    fallen: Option<Consumer>,
    control: Consumer,
    schedulers: BTreeMap<String, Scheduler>,
    tickets_out: BTreeMap<RunQueue, usize>,
    work: FuturesUnordered<BoxFuture<'static, Work>>,
    ready: VecDeque<Delivery<AmqpReceipt>>,
    bells: BTreeSet<RunQueue>,
    ring: Interval,
    look: Interval,
    count: Interval,
    /// Workers, this one included, as far as is known.
    workers: u32,
    /// What was last said of jobs that wait, by runtime: how many, and our share.
    told: BTreeMap<String, (u32, u32)>,
}

impl<'a> Session<'a> {
    /// Connects, declares, consumes.
    pub async fn open(
        config: &'a SourceConfig,
        shared: &'a Arc<Shared>,
        schedulers: BTreeMap<String, Scheduler>,
    ) -> Result<Self, Ended> {
        let link = Link::open(&config.endpoint, &format!("hearth {} jobs", shared.worker)).await?;
        if config.declare {
            let runtimes = config.runtimes.iter().map(String::as_str);
            let topology = Topology::new(&config.names, runtimes, config.shards);
            apply(&link.channel().await?, &topology).await?;
        }
        let (consuming, tickets, looking) =
            (link.channel().await?, link.channel().await?, link.channel().await?);
        let broke = |error| link.error(error);
        let control = control(&consuming, &config.names.control()).await.map_err(broke)?;
        let prefetch = config.prefetch.saturating_add(config.slots);
        let intake = consume(&consuming, &config.names.intake(), prefetch).await.map_err(broke)?;
        let fallen = consume(&consuming, &config.names.fallen(), FALLEN_AT_ONCE).await.map_err(broke)?;
        tickets.basic_qos(1, BasicQosOptions::default()).await.map_err(broke)?;
        shared.note(Health::Up);
        let every = |period, first| {
            let mut ticks = interval_at(first, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        Ok(Self {
            config,
            shared,
            link,
            consuming: Arc::new(consuming),
            tickets: Arc::new(tickets),
            looking,
            intake: Some(intake),
            fallen: Some(fallen),
            control,
            schedulers,
            tickets_out: BTreeMap::new(),
            work: FuturesUnordered::new(),
            ready: VecDeque::new(),
            bells: BTreeSet::new(),
            ring: every(BELLS_EVERY, Instant::now()),
            look: every(LOOK_EVERY, Instant::now()),
            count: every(COUNT_EVERY, Instant::now()),
            workers: 1,
            told: BTreeMap::new(),
        })
    }

    /// Until something breaks or the source is drained.
    pub async fn run(
        mut self,
        hand_out: &mpsc::Sender<Delivery<AmqpReceipt>>,
        rung: &mut mpsc::Receiver<RunQueue>,
    ) -> Ended {
        loop {
            match self.turn(hand_out, rung).await {
                Ok(()) => {}
                Err(ended) => {
                    // What is ready goes back by being dropped, now that its channel is.
                    self.ready.clear();
                    return ended;
                }
            }
            self.give_back();
            if self.shared.is_draining() {
                self.drain();
                self.give_back();
                if self.shared.unspent() == 0 && self.work.is_empty() {
                    self.link.close().await;
                    return Ended::Drained;
                }
            }
            self.send_out();
            self.tell_backlog();
        }
    }

    /// Waits for one thing, and deals with it.
    async fn turn(
        &mut self,
        hand_out: &mpsc::Sender<Delivery<AmqpReceipt>>,
        rung: &mut mpsc::Receiver<RunQueue>,
    ) -> Result<(), Ended> {
        tokio::select! {
            delivery = next(&mut self.intake) => {
                let delivery = self.delivered(delivery, &self.config.names.intake())?;
                self.came_in(delivery);
            }
            delivery = next(&mut self.fallen) => {
                let delivery = self.delivered(delivery, &self.config.names.fallen())?;
                self.fell(delivery);
            }
            delivery = self.control.next() => {
                let delivery = self.delivered(delivery, "of control messages")?;
                self.told(&delivery.data);
            }
            Some(work) = self.work.next() => self.worked(work)?,
            Ok(permit) = hand_out.reserve(), if !self.ready.is_empty() => {
                if let Some(delivery) = self.ready.pop_front() {
                    permit.send(delivery);
                }
            }
            () = self.shared.changed.notified() => {}
            Some(queue) = rung.recv() => {
                if let Some(scheduler) = self.schedulers.get_mut(&queue.runtime) {
                    scheduler.parked(queue.lane, queue.shard);
                }
                self.bells.insert(queue);
            }
            _ = self.ring.tick(), if !self.bells.is_empty() => {
                let queues = std::mem::take(&mut self.bells).into_iter().collect();
                let office = self.shared.office.clone();
                self.push(async move { office.ring(queues).await; Work::Done });
            }
            _ = self.look.tick() => self.look_again(),
            _ = self.count.tick() => self.recount(),
        }
        Ok(())
    }

    fn push(&self, work: impl Future<Output = Work> + Send + 'static) {
        self.work.push(work.boxed());
    }

    /// An error on a consumer is the last that is heard of it, whatever the documentation promises; and the end of
    /// its stream means that the queue is gone.
    fn delivered(
        &self,
        delivery: Option<Result<lapin::message::Delivery, lapin::Error>>,
        queue: &str,
    ) -> Result<lapin::message::Delivery, Ended> {
        match delivery {
            Some(Ok(delivery)) => Ok(delivery),
            Some(Err(error)) => Err(self.link.error(error).into()),
            None => Err(Ended::QueueGone(queue.to_owned())),
        }
    }

    /// What was handed out and dropped unspent goes back.
    fn give_back(&self) {
        let returned = self.shared.take_returned();
        if !returned.is_empty() {
            self.push(async move {
                requeue(&returned).await;
                Work::Done
            });
        }
    }

    /// Takes nothing more; what was not handed out goes back.
    fn drain(&mut self) {
        self.ready.clear();
        for consumer in [self.intake.take(), self.fallen.take()].into_iter().flatten() {
            let channel = self.consuming.clone();
            self.push(async move {
                let fetched = ticket::cancel(&channel, consumer).await;
                let unsettled = |delivery| Unsettled::new(&delivery, &channel);
                Work::Cancelled(fetched.map(|fetched| fetched.into_iter().map(unsettled).collect()))
            });
        }
    }
}

/// The next message of a consumer; never, when it was cancelled.
async fn next(consumer: &mut Option<Consumer>) -> Option<Result<lapin::message::Delivery, lapin::Error>> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => std::future::pending().await,
    }
}
