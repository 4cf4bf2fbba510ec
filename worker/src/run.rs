//! A worker, put together: jobs from the broker, VMs from the pool, results to the broker, until it is told to stop.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hearth_pool::{phase::Phase, pool::Pool};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    admin::{self, Pages},
    admit::{Offer, Terms},
    amqp::{
        events::AmqpEvents,
        publisher::{Health, Publisher},
        reply::ReplyRule,
        sink::AmqpSink,
        source::{AmqpSource, SourceConfig},
        spool::{Spool, SpoolError},
    },
    attempt::chain,
    decide::recover,
    handle::Service,
    intake::Intake,
    ledger::{JobKey, Ledger},
    meters,
    objects::{Objects, OpenError},
    reaper::reap,
    reduce::ResultTerms,
    seams::Publication,
    service::serve,
    settings::{Changes, Settings},
    status::{Identity, Status},
};

/// Jobs that are waiting for a ledger or a broker, beside those in VMs.
const JOBS_BESIDE: usize = 256;
/// How long a worker that has drained waits until the last live events are out.
const LAST_EVENTS: Duration = Duration::from_secs(2);
/// How often what is not told by events is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// How long jobs that have lost their VMs may take to be given back.
const FAULT_GRACE: Duration = Duration::from_secs(5);

/// What a worker is told while it runs.
#[derive(Debug)]
pub enum Order {
    /// Take nothing more, finish what is under way, stop. The second time: stop at once.
    Drain,
    /// There will be no VMs any more, for this reason: say so, give back what runs, stop.
    Fault(String),
    /// From now on these settings, as far as they can be changed: tenants, trusted users, limits of jobs, stores of objects, reply rule.
    Reload(Box<Settings>),
}

/// What a worker is made of.
pub struct Parts<L> {
    /// Its name: unique among the live ones.
    pub name: String,
    /// Its VMs.
    pub pool: Pool,
    /// How many there are at most.
    pub slots: u16,
    /// What they offer, by runtime.
    pub offers: BTreeMap<String, Offer>,
    /// Where jobs live.
    pub ledger: L,
    /// Why the ledger's server cannot be trusted or reached, when that is so.
    pub ledger_trouble: watch::Receiver<Option<String>>,
    /// What is measured.
    pub metrics: PrometheusHandle,
    /// A directory for objects on their way, on a disk.
    pub object_spool: PathBuf,
}

/// A worker that could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Where results wait.
    #[error("the spool")]
    Spool(#[from] SpoolError),
    /// Where objects are.
    #[error("the stores of objects")]
    Objects(#[from] OpenError),
    /// Where operators look.
    #[error("the address for operators, {address}")]
    Admin {
        /// Which.
        address: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Nothing was under way any more.
    Drained,
    /// There were no VMs any more.
    Fault,
    /// The grace was over, or a second order came: what was under way comes again elsewhere.
    AtOnce,
}

/// Runs until ordered to stop. The pool is the caller's to close.
///
/// # Errors
/// It could not start. What breaks later is survived.
pub async fn run<L: Ledger>(
    mut settings: Settings,
    parts: Parts<L>,
    mut orders: mpsc::Receiver<Order>,
) -> Result<Stopped, RunError> {
    meters::offered(parts.offers.keys().map(String::as_str));
    meters::promised(settings.pool.scaling.as_ref());
    let publisher =
        Publisher::new(settings.broker.endpoint.clone(), &format!("hearth {} results", parts.name));
    let rule = ReplyRule::new(settings.broker.names.clone(), settings.broker.reply_to.clone());
    let sink = AmqpSink::new(publisher.clone(), settings.broker.names.clone(), rule);
    let intake = intake_of(&settings, &parts.name, &parts.offers, &parts.object_spool)?;
    let events =
        AmqpEvents::new(settings.broker.endpoint.clone(), &parts.name, settings.broker.names.clone());
    let service = service_of(&settings, parts.ledger, sink, parts.pool, intake)?.with_outlet(events.outlet());
    let service = Arc::new(service);
    let config = source_config(&settings, &parts.offers, parts.slots);
    let (source, source_task) = AmqpSource::start(config, service.clone(), publisher.clone());
    let (draining, drained) = watch::channel(false);
    let (broken, fault) = watch::channel(None);
    let pages = Arc::new(WorkerPages {
        source: source.health().watch(),
        publisher: publisher.health(),
        ledger: parts.ledger_trouble,
        draining: drained.clone(),
        fault: fault.clone(),
        pool: service.pool.clone(),
        metrics: parts.metrics,
        identity: Identity::new(service.worker()),
    });
    let mut beside = JoinSet::new();
    if let Some(address) = settings.admin {
        let bound = admin::bind(address).await.map_err(|source| RunError::Admin { address, source })?;
        tracing::info!(address = %bound.1, "pages for operators");
        beside.spawn(admin::serve(bound.0, pages.clone()));
    }
    beside.spawn(watch_over(service.clone(), pages));
    let mut wait = drained.clone();
    let drain = async move {
        let _ = wait.wait_for(|draining| *draining).await;
    };
    let jobs_at_once = usize::from(parts.slots) + JOBS_BESIDE;
    // A task, since whoever waits here may do so on a thread of its own, which would be woken twice for every job.
    let mut serving = JoinSet::new();
    serving.spawn(serve(service.clone(), source, jobs_at_once, drain));
    let serving = async {
        while serving.join_next().await.is_some() {}
        let _ = source_task.await;
        let _ = timeout(LAST_EVENTS, events.told()).await;
    };
    let mut serving = std::pin::pin!(serving);
    let mut gave_up = std::pin::pin!(after(fault.clone(), Option::is_some, settings.grace.min(FAULT_GRACE)));
    let mut grace = std::pin::pin!(after(drained.clone(), |draining| *draining, settings.grace));
    let desk = Desk { draining, broken, offers: parts.offers, object_spool: parts.object_spool };
    loop {
        tokio::select! {
            () = &mut serving => {
                let broken = fault.borrow().is_some();
                return Ok(if broken { Stopped::Fault } else { Stopped::Drained });
            }
            () = &mut gave_up => return Ok(Stopped::Fault),
            () = &mut grace => {
                tracing::warn!(jobs = service.running.count(), "the grace is over; what runs comes again elsewhere");
                return Ok(Stopped::AtOnce);
            }
            Some(order) = orders.recv() => {
                if let Some(stopped) = desk.obey(order, &mut settings, &service) {
                    return Ok(stopped);
                }
            }
        }
    }
}

/// Resolves so long after something has become so.
async fn after<T>(mut state: watch::Receiver<T>, is_so: impl FnMut(&T) -> bool, pause: Duration) {
    let _ = state.wait_for(is_so).await;
    tokio::time::sleep(pause).await;
}

/// Where orders are carried out.
struct Desk {
    draining: watch::Sender<bool>,
    broken: watch::Sender<Option<String>>,
    offers: BTreeMap<String, Offer>,
    object_spool: PathBuf,
}

impl Desk {
    /// Does what an order says. How the worker ends, when that is now.
    fn obey<L: Ledger>(
        &self,
        order: Order,
        settings: &mut Settings,
        service: &Service<L, AmqpSink>,
    ) -> Option<Stopped> {
        match order {
            Order::Drain if *self.draining.borrow() => return Some(Stopped::AtOnce),
            Order::Drain => {
                tracing::info!(jobs = service.running.count(), "draining");
                self.draining.send_replace(true);
            }
            Order::Fault(why) => {
                tracing::error!(why, "giving back what runs, then stopping");
                self.broken.send_replace(Some(why));
                self.draining.send_replace(true);
            }
            Order::Reload(new) => match intake_of(&new, service.worker(), &self.offers, &self.object_spool) {
                Ok(intake) => {
                    service.set_intake(intake);
                    let Changes { applied, need_restart } = settings.changes(&new);
                    tracing::info!(?applied, ?need_restart, "read the settings again");
                    settings.reloaded(*new);
                }
                Err(error) => tracing::error!(error = chain(&error), "the settings stay as they were"),
            },
        }
        None
    }
}

/// The service, with its places on disk: for results that the broker has not taken, and that the ledger has not decided.
fn service_of<L: Ledger>(
    settings: &Settings,
    ledger: L,
    sink: AmqpSink,
    pool: Pool,
    intake: Intake,
) -> Result<Service<L, AmqpSink>, SpoolError> {
    let Some(directory) = &settings.spool else { return Ok(Service::new(ledger, sink, pool, intake)) };
    let sink = sink.with_spool(directory, settings.spool_max_bytes)?;
    let undecided = Spool::open(&directory.join("undecided"), settings.spool_max_bytes)?;
    Ok(Service::new(ledger, sink, pool, intake).with_spool(Arc::new(undecided)))
}

fn intake_of(
    settings: &Settings,
    name: &str,
    offers: &BTreeMap<String, Offer>,
    object_spool: &Path,
) -> Result<Intake, OpenError> {
    let terms = Terms {
        job_wall_max_ms: u64::try_from(settings.job_wall_max.as_millis()).unwrap_or(u64::MAX),
        deadline_ms: settings.deadline_ms,
        objects: settings.objects.terms(),
        network: settings.network.terms(),
        limits: settings.limits,
        ..Terms::new(offers.clone())
    };
    let rule = ReplyRule::new(settings.broker.names.clone(), settings.broker.reply_to.clone());
    Ok(Intake {
        terms,
        tenants: settings.tenants.clone(),
        trusted: settings.trusted.clone(),
        trusts_unnamed: settings.trusts_unnamed,
        quotas: settings.quotas.clone(),
        worker: name.to_owned(),
        reply: Some(rule),
        results: Some(ResultTerms { message_max_bytes: settings.broker.message_max_bytes }),
        objects: Objects::open(&settings.objects, object_spool.to_owned())?,
    })
}

fn source_config(settings: &Settings, offers: &BTreeMap<String, Offer>, slots: u16) -> SourceConfig {
    let broker = &settings.broker;
    SourceConfig {
        endpoint: broker.endpoint.clone(),
        names: broker.names.clone(),
        runtimes: offers.keys().cloned().collect(),
        shards: broker.shards,
        prefetch: broker.prefetch,
        slots,
        weights: broker.weights,
        declare: broker.declare,
        consumer_timeout: broker.consumer_timeout,
    }
}

/// What goes on beside the jobs: ends what is overdue, publishes what was spooled, measures.
async fn watch_over<L: Ledger>(service: Arc<Service<L, AmqpSink>>, pages: Arc<WorkerPages>) {
    let published = |publication: Publication| {
        let service = service.clone();
        async move {
            let Publication { tenant, id, properties, .. } = publication;
            let marked = service.ledger.published(&JobKey { tenant, id }, properties.told()).await;
            marked
                .inspect_err(|error| tracing::warn!(error = chain(error), "a published result is not marked"))
                .is_ok()
        }
    };
    let measure = async {
        let mut ticks = tokio::time::interval(MEASURE_EVERY);
        loop {
            ticks.tick().await;
            meters::READY.set(&[], f64::from(u8::from(pages.reasons().is_empty())));
            meters::JOBS_INFLIGHT.set(&[], service.running.count() as f64);
            let undecided = service.spool().and_then(|spool| spool.entries().ok()).map_or(0, |all| all.len());
            meters::RESULTS_SPOOLED.set(&[], (service.sink.spooled() + undecided) as f64);
        }
    };
    tokio::join!(recover(&service), reap(&service), service.sink.publish_spooled(published), async {
        measure.await;
    });
}

struct WorkerPages {
    source: watch::Receiver<Health>,
    publisher: watch::Receiver<Health>,
    ledger: watch::Receiver<Option<String>>,
    draining: watch::Receiver<bool>,
    fault: watch::Receiver<Option<String>>,
    pool: Pool,
    metrics: PrometheusHandle,
    identity: Identity,
}

impl Pages for WorkerPages {
    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::from_iter(self.fault.borrow().clone());
        if *self.draining.borrow() {
            reasons.push("draining".to_owned());
        }
        match &*self.source.borrow() {
            Health::Up => {}
            Health::Idle => reasons.push("broker: not connected yet".to_owned()),
            Health::Down(why) => reasons.push(format!("broker, jobs: {why}")),
        }
        if let Health::Down(why) = &*self.publisher.borrow() {
            reasons.push(format!("broker, results: {why}"));
        }
        if let Some(why) = &*self.ledger.borrow() {
            reasons.push(format!("redis: {why}"));
        }
        let phases = self.pool.phases();
        let phases = phases.borrow();
        let wanted = self.pool.targets().borrow().values().any(|target| *target > 0);
        if wanted && phases.total(Phase::Ready) + phases.total(Phase::Claimed) == 0 {
            reasons.push(format!("no VM is ready: {}", *phases));
        }
        reasons
    }

    fn status(&self) -> Status {
        self.identity.status(self.reasons())
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }
}
