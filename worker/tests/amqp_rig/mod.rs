//! Workers over fake VMs and a real broker, with one ledger for all of them.

#![allow(dead_code, reason = "each test file uses some of it")]

pub mod shared_ledger;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use hearth_pool::{
    fakes::{Asked, FakeHypervisor, Knobs, LeaseKnobs, MemoryLeases, Ran, Script},
    pool::{Config, Pool, RuntimeSlots},
};
use hearth_schemas::{manifest::Entry, result::JobResult};
use hearth_worker::{
    admit::{Offer, Terms},
    amqp::{
        events::AmqpEvents,
        link::Endpoint,
        names::Names,
        publisher::{Health, Publisher},
        reply::ReplyRule,
        sink::AmqpSink,
        source::{AmqpSource, SourceConfig, SourceHealth, WEIGHTS},
        spool::Spool,
    },
    handle::Service,
    intake::Intake,
    ledger::Quotas,
    objects::{ObjectSettings, Objects},
    reaper::reap,
    reduce::ResultTerms,
    service::serve,
};
use lapin::{BasicProperties, options::BasicPublishOptions};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use self::shared_ledger::SharedLedger;
use crate::broker::Client;

pub type TestService = Arc<Service<SharedLedger, AmqpSink>>;

pub struct Setup {
    pub endpoint: Endpoint,
    pub names: Names,
    pub ledger: SharedLedger,
    /// What ran, in order: worker and standard input.
    pub log: Arc<Mutex<Vec<(String, String)>>>,
    pub slots: u32,
    /// What tenants may do.
    pub quotas: Quotas,
    /// Run queues of a runtime and lane.
    pub shards: u16,
    /// Tenants by user.
    pub tenants: BTreeMap<String, String>,
    /// Who may name any tenant; everybody, unless said.
    pub trusted: Option<Vec<String>>,
    /// Where results wait while the ledger is away.
    pub spool: Option<Arc<Spool>>,
    /// Stores, and how large messages with results may be.
    pub objects: Option<(ObjectSettings, PathBuf)>,
    /// What the broker carries.
    pub results: Option<ResultTerms>,
    /// How the VMs of workers behave that are yet to be started.
    pub knobs: fn() -> Knobs,
}

/// VMs that are there soon.
pub fn quick() -> Knobs {
    let (restore_takes, dial_takes) = (Duration::from_millis(20), Duration::from_millis(5));
    Knobs { restore_takes, dial_takes, ..Knobs::default() }
}

impl Setup {
    pub fn new(endpoint: &Endpoint, names: &Names) -> Self {
        let (ledger, log) = (SharedLedger::default(), Arc::default());
        let quotas = Quotas::default();
        let tenants = BTreeMap::from([("guest".to_owned(), "guests".to_owned())]);
        let (endpoint, names) = (endpoint.clone(), names.clone());
        Self {
            endpoint,
            names,
            ledger,
            log,
            slots: 2,
            quotas,
            shards: 2,
            tenants,
            trusted: None,
            spool: None,
            objects: None,
            results: None,
            knobs: quick,
        }
    }

    /// A pool of fake VMs. Jobs whose input is `<n>ms` take so long.
    pub fn pool(&self, name: &str) -> Pool {
        let (log, worker) = (self.log.clone(), name.to_owned());
        let script: Script = Arc::new(move |asked: &Asked| {
            let input = String::from_utf8_lossy(&asked.stdin).into_owned();
            log.lock().unwrap().push((worker.clone(), input.clone()));
            let takes = input.strip_suffix("ms").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
            Ran { takes: takes.unwrap_or_default(), ..Ran::prints(input) }
        });
        let runtimes = vec![RuntimeSlots { name: "python".into(), slots: self.slots, warm_up: None }];
        let hypervisor = FakeHypervisor::new((self.knobs)(), script);
        let mut config = Config::new(runtimes);
        config.observer = Some(hearth_worker::meters::observer());
        Pool::spawn(config, hypervisor, MemoryLeases::new(LeaseKnobs::default()))
    }

    /// What they offer.
    pub fn offers() -> BTreeMap<String, Offer> {
        let offer = Offer {
            vm_memory_mib: 384,
            scratch_mib: 512,
            entry: Entry::new("main.py", ["python3", "main.py"]),
            languages: BTreeMap::new(),
        };
        BTreeMap::from([("python".to_owned(), offer)])
    }

    fn stores(&self) -> Objects {
        let Some((settings, spool)) = &self.objects else { return Objects::none() };
        Objects::open(settings, spool.clone()).unwrap()
    }

    /// A worker that does not serve yet.
    pub fn service(&self, name: &str) -> (TestService, AmqpSource, JoinHandle<()>) {
        let (pool, terms) = (self.pool(name), Terms::new(Self::offers()));
        let rule = ReplyRule::new(self.names.clone(), vec!["*".into()]);
        let intake = Intake {
            tenants: self.tenants.clone(),
            trusts_unnamed: self.trusted.is_none(),
            trusted: self.trusted.clone().unwrap_or_default(),
            quotas: self.quotas.clone(),
            reply: Some(rule.clone()),
            results: self.results,
            objects: self.stores(),
            ..Intake::embedded(terms, name)
        };
        let publisher = Publisher::new(self.endpoint.clone(), &format!("{name} results"));
        let sink = AmqpSink::new(publisher.clone(), self.names.clone(), rule);
        let events = AmqpEvents::new(self.endpoint.clone(), name, self.names.clone());
        let mut service = Service::new(self.ledger.clone(), sink, pool, intake).with_outlet(events.outlet());
        if let Some(spool) = &self.spool {
            service = service.with_spool(spool.clone());
        }
        let service = Arc::new(service);
        let config = SourceConfig {
            endpoint: self.endpoint.clone(),
            names: self.names.clone(),
            runtimes: vec!["python".into()],
            shards: self.shards,
            prefetch: 32,
            slots: u16::try_from(self.slots).unwrap(),
            weights: WEIGHTS,
            declare: true,
            consumer_timeout: Duration::from_secs(1800),
        };
        let (source, task) = AmqpSource::start(config, service.clone(), publisher);
        (service, source, task)
    }

    /// Starts a worker, and waits until the broker knows it.
    pub async fn worker(&self, name: &str) -> Worker {
        let (service, source, task) = self.service(name);
        let health = source.health();
        let (drain, drained) = oneshot::channel();
        let drained = async move {
            let _ = drained.await;
        };
        let serving = tokio::spawn(serve(service.clone(), source, 256, drained));
        let reaper = tokio::spawn({
            let service = service.clone();
            async move { reap(&service).await }
        });
        let worker = Worker { service, health, drain: Some(drain), serving, source: task, reaper };
        worker.up().await;
        worker
    }

    /// A producer. Start a worker first, so that there is something to publish to.
    pub async fn producer(&self) -> Producer {
        Producer::new(&self.endpoint, self).await
    }

    pub fn ran(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(|(_, input)| input.clone()).collect()
    }

    pub fn ran_times(&self, input: &str) -> usize {
        self.ran().iter().filter(|ran| *ran == input).count()
    }
}

pub struct Worker {
    pub service: TestService,
    pub health: SourceHealth,
    drain: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    source: JoinHandle<()>,
    reaper: JoinHandle<()>,
}

impl Worker {
    /// Resolves when the broker knows it.
    pub async fn up(&self) {
        let mut health = self.health.watch();
        let up = health.wait_for(|health| *health == Health::Up);
        tokio::time::timeout(Duration::from_secs(60), up).await.expect("the source comes up").unwrap();
    }

    /// Resolves when it has noticed that its connection is gone.
    pub async fn down(&self) -> String {
        let mut health = self.health.watch();
        let down = health.wait_for(|health| matches!(health, Health::Down(_)));
        let down = tokio::time::timeout(Duration::from_secs(60), down).await.expect("it goes down").unwrap();
        match down.clone() {
            Health::Down(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// Ends it as SIGTERM does.
    pub async fn drain(mut self) {
        self.drain.take().unwrap().send(()).unwrap();
        let ended = async {
            self.serving.await.unwrap();
            self.source.await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it drains");
        self.reaper.abort();
        self.service.pool.close(Duration::from_secs(10)).await.unwrap();
    }

    /// Ends it as SIGKILL does: nothing is settled, nothing is said.
    pub async fn kill(self) {
        for task in [&self.source, &self.serving, &self.reaper] {
            task.abort();
        }
        let _ = self.source.await;
        let _ = self.serving.await;
        self.service.pool.close(Duration::ZERO).await.unwrap();
    }
}

pub struct Producer {
    pub client: Client,
    pub replies: String,
    names: Names,
    shards: u16,
}

/// A job that prints its input.
pub fn job(id: &str, input: &str) -> Value {
    json!({"id": id, "runtime": "python", "stages": [{"name": "run", "argv": ["cat"], "stdin": input}]})
}

impl Producer {
    /// One that comes as whoever the endpoint says.
    pub async fn new(endpoint: &Endpoint, setup: &Setup) -> Self {
        let client = Client::new(endpoint).await;
        let replies = client.own_queue().await;
        Self { client, replies, names: setup.names.clone(), shards: setup.shards }
    }

    pub fn properties(&self) -> BasicProperties {
        BasicProperties::default().with_reply_to(self.replies.as_str().into())
    }

    pub async fn send(&self, job: &Value) {
        self.send_bytes(&serde_json::to_vec(job).unwrap(), self.properties()).await;
    }

    pub async fn send_bytes(&self, body: &[u8], properties: BasicProperties) {
        self.client.publish(&self.names.jobs(), "any key", properties, body).await;
    }

    /// Sends many, and then waits for all of their confirms.
    pub async fn send_many(&self, jobs: impl Iterator<Item = Value>) {
        let mut sent = Vec::new();
        for job in jobs {
            let (exchange, options) = (self.names.jobs(), BasicPublishOptions::default());
            let body = serde_json::to_vec(&job).unwrap();
            let publishing = self.client.channel.basic_publish(
                exchange.as_str().into(),
                "".into(),
                options,
                &body,
                self.properties(),
            );
            sent.push(publishing.await.unwrap());
        }
        for confirm in sent {
            assert!(confirm.await.unwrap().is_ack());
        }
    }

    /// The next result.
    pub async fn result(&self) -> JobResult {
        serde_json::from_slice(&self.client.get(&self.replies).await.data).unwrap()
    }

    /// As many results, by id; repeats are the same bytes.
    pub async fn results(&self, count: usize) -> BTreeMap<String, JobResult> {
        let mut results = BTreeMap::new();
        while results.len() < count {
            let result = self.result().await;
            let before = results.insert(result.id.clone(), result.clone());
            assert!(before.is_none_or(|before| before == result), "two results for {}", result.id);
        }
        results
    }

    /// How many messages are ready in all queues that hold jobs.
    pub async fn left(&self) -> u32 {
        let mut left = 0;
        let mut queues = vec![self.names.intake(), self.names.fallen()];
        for lane in hearth_worker::amqp::names::LANES {
            queues.extend((0..self.shards).map(|shard| self.names.run("python", lane, shard)));
        }
        for queue in queues {
            left += self.client.count(&queue).await;
        }
        left
    }
}

/// What a result's only stage printed.
pub fn printed(result: &JobResult) -> String {
    String::from_utf8(result.stages[0].run.stdout.content.decode().unwrap()).unwrap()
}
