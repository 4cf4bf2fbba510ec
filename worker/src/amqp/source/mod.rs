//! Jobs come in: from the intake, or from the run queue whose turn it is.
//!
//! One task has the connection. It looks at every message of the intake: what cannot be admitted is handed on to be
//! refused; a job whose runtime has a free VM, while nobody waits for one, is handed on at once; every other job is
//! noted in the ledger, published to its run queue, and acknowledged. When a VM is free and jobs are known to wait, a
//! **ticket** is put on the queue whose turn it is: a consumer with prefetch 1 that is cancelled after one message or a
//! short while, since a live consumer's prefetch cannot be changed and a shared one is refused on quorum queues.
//! Whoever parks a job rings a **bell** that all workers hear; all queues are looked at now and then all the same.
//!
//! When anything breaks (connection, channel, queue, consumer timeout), the connection is dropped and all of it begins
//! anew. Jobs in hand go on; copies of their messages that the broker brings again are kept and settled with them.

mod limited;
mod office;
mod receipt;
mod scheduler;
mod session;
mod shared;
mod ticket;
mod unsettled;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use self::{
    office::ServiceOffice,
    scheduler::Scheduler,
    session::{Ended, Session},
    shared::Shared,
};
pub use self::{receipt::AmqpReceipt, scheduler::WEIGHTS};
use super::{
    link::Endpoint,
    names::Names,
    publisher::{Health, Publisher},
};
use crate::{
    attempt::chain,
    handle::Service,
    ledger::Ledger,
    meters,
    seams::{Delivery, JobSource, ResultSink},
};

/// Messages of the intake that may wait for a decision, unless configured otherwise. Each may have 16 MiB.
pub const PREFETCH: u16 = 32;
/// Bells that may wait to be rung; beyond that they are not rung.
const BELLS_MAX: usize = 1024;
/// The first pause before a new connection.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How a worker takes jobs.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Where the broker is.
    pub endpoint: Endpoint,
    /// What things are called there.
    pub names: Names,
    /// The runtimes that are offered.
    pub runtimes: Vec<String>,
    /// Run queues of a runtime and lane; the same for all workers.
    pub shards: u16,
    /// Messages of the intake that may wait for a decision.
    pub prefetch: u16,
    /// Slots of all runtimes: so many more messages may be in hand.
    pub slots: u16,
    /// How often each lane goes first.
    pub weights: [u32; 3],
    /// Whether to declare what is absent; else an operator has done so.
    pub declare: bool,
    /// The broker's consumer timeout, as far as we were told. Jobs may not run longer.
    pub consumer_timeout: Duration,
}

/// Jobs from RabbitMQ. When dropped, nothing more is taken, and what was not handed out goes back to the broker.
pub struct AmqpSource {
    deliveries: mpsc::Receiver<Delivery<AmqpReceipt>>,
    shared: Arc<Shared>,
}

/// How the source is doing, for others than its user.
#[derive(Clone)]
pub struct SourceHealth(watch::Receiver<Health>);

impl SourceHealth {
    /// Now, and whenever it changes.
    pub fn watch(&self) -> watch::Receiver<Health> {
        self.0.clone()
    }
}

impl AmqpSource {
    /// Starts to take jobs once there is credit. The task ends after the source is dropped, when all that it handed out
    /// is settled. Needs a tokio runtime.
    pub fn start<L: Ledger, S: ResultSink>(
        config: SourceConfig,
        service: Arc<Service<L, S>>,
        publisher: Publisher,
    ) -> (Self, JoinHandle<()>) {
        let (bells, rung) = mpsc::channel(BELLS_MAX);
        let worker = service.worker().to_owned();
        let office =
            ServiceOffice { service, publisher, names: config.names.clone(), shards: config.shards, bells };
        let shared = Shared::new(Arc::new(office), &worker);
        // One at a time, so that as little as possible is fetched and not started.
        let (hand_out, deliveries) = mpsc::channel(1);
        let task = tokio::spawn(run(config, shared.clone(), hand_out, rung));
        (Self { deliveries, shared }, task)
    }

    /// Whether jobs can come.
    pub fn health(&self) -> SourceHealth {
        SourceHealth(self.shared.health.subscribe())
    }
}

impl JobSource for AmqpSource {
    type Receipt = AmqpReceipt;

    async fn next(&mut self) -> Option<Delivery<AmqpReceipt>> {
        self.deliveries.recv().await
    }

    fn set_credit(&mut self, runtime: &str, jobs: usize) {
        self.shared.set_credit(runtime, jobs);
    }
}

impl Drop for AmqpSource {
    fn drop(&mut self) {
        self.deliveries.close();
        self.shared.drain();
    }
}

/// One connection after the other, until drained.
async fn run(
    config: SourceConfig,
    shared: Arc<Shared>,
    hand_out: mpsc::Sender<Delivery<AmqpReceipt>>,
    mut rung: mpsc::Receiver<super::control::RunQueue>,
) {
    let mut pause = PAUSE_FIRST;
    while !(shared.is_draining() && shared.unspent() == 0) {
        let schedulers: BTreeMap<_, _> = config
            .runtimes
            .iter()
            .map(|runtime| (runtime.clone(), Scheduler::new(config.shards, config.weights)))
            .collect();
        let began = tokio::time::Instant::now();
        // What an earlier connection had to give back, its end has given back.
        drop(shared.take_returned());
        let ended = match Session::open(&config, &shared, schedulers).await {
            Ok(session) => session.run(&hand_out, &mut rung).await,
            Err(ended) => ended,
        };
        if matches!(ended, Ended::Drained) {
            break;
        }
        let why = explain(&ended, &config);
        tracing::warn!(why, "the broker's connection is made anew");
        meters::RECONNECTS.count(&[]);
        shared.note(Health::Down(why));
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_FIRST;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = drained(&shared) => break,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
    shared.note(Health::Down("stopped".to_owned()));
}

/// Resolves when the end was asked for and nothing is in hand.
async fn drained(shared: &Shared) {
    while !(shared.is_draining() && shared.unspent() == 0) {
        shared.changed.notified().await;
    }
}

/// What happened, and what to do where that is known.
fn explain(ended: &Ended, config: &SourceConfig) -> String {
    let what = chain(ended);
    if what.contains("PRECONDITION_FAILED") && what.contains("timed out") {
        return format!(
            "{what}. The broker's consumer_timeout is shorter than a job took; here it is taken to be {:?}. Raise it in \
             rabbitmq.conf, or lower the jobs' longest wall time",
            config.consumer_timeout
        );
    }
    what
}
