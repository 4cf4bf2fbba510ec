//! A worker over a fake hypervisor, the real ledger, the real embedded queue; and a sink and a ledger with knobs.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hearth_pool::{
    fakes::{Asked, FakeHypervisor, Knobs, LeaseKnobs, MemoryLeases, Ran, Script},
    pool::{Config, Pool, RuntimeSlots},
};
use hearth_schemas::{manifest::Entry, result::JobResult};
use hearth_worker::{
    admit::{Offer, Terms},
    embedded::{self, EmbeddedSink, EmbeddedSource, Submitter},
    handle::Service,
    intake::Intake,
    ledger::{
        Beat, Begun, Cancel, Commit, FailedAttempt, JobKey, Ledger, LedgerError, MemoryLedger, Registered,
        Registration, Seized, Token, Unpublished,
    },
    live::{Events, Outlet},
    seams::{Publication, PublishError, ResultSink},
    service::serve,
};
use tokio::{sync::watch, task::JoinHandle};

/// A ledger that loses answers when told to.
#[derive(Clone, Default)]
pub struct Knobbed {
    pub inner: Arc<MemoryLedger>,
    pub lose_commit_answers: Arc<AtomicU32>,
    pub begins: Arc<AtomicUsize>,
}

fn take_one(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Ledger for Knobbed {
    async fn begin(&self, key: &JobKey, digest: &str, owner: &str) -> Result<Begun, LedgerError> {
        let begun = self.inner.begin(key, digest, owner).await?;
        if matches!(begun, Begun::Begun { .. }) {
            self.begins.fetch_add(1, Ordering::SeqCst);
        }
        Ok(begun)
    }
    async fn begin_with(
        &self,
        key: &JobKey,
        digest: &str,
        owner: &str,
        registration: &Registration,
    ) -> Result<Begun, LedgerError> {
        self.inner.begin_with(key, digest, owner, registration).await
    }
    async fn register(
        &self,
        key: &JobKey,
        digest: &str,
        registration: &Registration,
    ) -> Result<Registered, LedgerError> {
        self.inner.register(key, digest, registration).await
    }
    async fn heartbeats(&self, tokens: &[Token]) -> Result<Vec<Beat>, LedgerError> {
        self.inner.heartbeats(tokens).await
    }
    async fn heartbeat(&self, token: &Token) -> Result<Beat, LedgerError> {
        self.inner.heartbeat(token).await
    }
    async fn give_back(&self, token: &Token, failed: FailedAttempt) -> Result<Beat, LedgerError> {
        self.inner.give_back(token, failed).await
    }
    async fn commit(&self, token: &Token, result: Bytes) -> Result<Commit, LedgerError> {
        let commit = self.inner.commit(token, result).await?;
        match take_one(&self.lose_commit_answers) {
            true => Err(LedgerError { what: "the answer was lost".into(), source: None }),
            false => Ok(commit),
        }
    }
    async fn published(&self, key: &JobKey, told: &str) -> Result<(), LedgerError> {
        self.inner.published(key, told).await
    }
    async fn cancel(&self, key: &JobKey) -> Result<Cancel, LedgerError> {
        self.inner.cancel(key).await
    }
    async fn overdue(&self, at_most: usize) -> Result<Vec<JobKey>, LedgerError> {
        self.inner.overdue(at_most).await
    }
    async fn seize(&self, key: &JobKey, owner: &str) -> Result<Seized, LedgerError> {
        self.inner.seize(key, owner).await
    }
    async fn unpublished(
        &self,
        older_than: Duration,
        at_most: usize,
    ) -> Result<Vec<Unpublished>, LedgerError> {
        self.inner.unpublished(older_than, at_most).await
    }
    async fn running(&self, tenant: &str) -> Result<u32, LedgerError> {
        self.inner.running(tenant).await
    }
}

type Callback = Box<dyn Fn() + Send>;

/// A sink that remembers what was published, and loses confirmations when told to.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<EmbeddedSink>,
    ledger: Arc<MemoryLedger>,
    pub published: Arc<Mutex<Vec<Bytes>>>,
    pub lose_confirms: Arc<AtomicU32>,
    confirmed: Arc<Mutex<Option<Callback>>>,
    /// Results that were published before the ledger had them. Refusals never begin.
    pub uncommitted: Arc<AtomicUsize>,
}

impl ResultSink for Recorder {
    async fn publish(&self, publication: &Publication) -> Result<(), PublishError> {
        let result: JobResult = serde_json::from_slice(&publication.body).unwrap();
        if result.refusal.is_none() {
            let key = JobKey { tenant: publication.tenant.clone(), id: publication.id.clone() };
            let known = self.ledger.begin(&key, "another digest than the job's", "recorder").await.unwrap();
            // A job whose result is decided answers a stranger's begin by its digest alone, one that is held too:
            // so look at what a cancel says, which depends on whether there is a result.
            let decided = self.ledger.cancel(&key).await.unwrap() == Cancel::TooLate;
            if known != Begun::Conflict || !decided {
                self.uncommitted.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.published.lock().unwrap().push(publication.body.clone());
        self.inner.publish(publication).await?;
        match take_one(&self.lose_confirms) {
            true => Err(PublishError { what: "the confirm was lost".into() }),
            false => {
                if let Some(confirmed) = self.confirmed.lock().unwrap().as_ref() {
                    confirmed();
                }
                Ok(())
            }
        }
    }
}

impl Recorder {
    /// Calls back for every publication that its publisher knows to be confirmed.
    pub fn on_confirm(&self, confirmed: impl Fn() + Send + 'static) {
        *self.confirmed.lock().unwrap() = Some(Box::new(confirmed));
    }
}

pub struct Rig {
    submitter: Option<Submitter>,
    source: Option<EmbeddedSource>,
    serving: Option<JoinHandle<()>>,
    pub service: Arc<Service<Knobbed, Recorder>>,
    pub hypervisor: FakeHypervisor,
    runs: watch::Sender<usize>,
    /// The events of each attempt that was begun.
    pub watched: Arc<Mutex<Vec<Events>>>,
}

pub fn offer(command: &str) -> Offer {
    Offer {
        vm_memory_mib: 384,
        scratch_mib: 512,
        entry: Entry::new("main.py", [command, "main.py"]),
        languages: BTreeMap::new(),
    }
}

impl Rig {
    /// A worker with this many slots, whose commands do what the script says.
    pub fn new(slots: u32, script: impl Fn(&Asked) -> Ran + Send + Sync + 'static) -> Self {
        Self::with(slots, script, |_| {})
    }

    /// The same, with a pool that is told more.
    pub fn with(
        slots: u32,
        script: impl Fn(&Asked) -> Ran + Send + Sync + 'static,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let runs = watch::Sender::new(0);
        let counter = runs.clone();
        let script: Script = Arc::new(move |asked| {
            counter.send_modify(|runs| *runs += 1);
            script(asked)
        });
        let hypervisor = FakeHypervisor::new(Knobs::default(), script);
        let runtimes = vec![RuntimeSlots { name: "python".into(), slots, warm_up: None }];
        let mut config = Config::new(runtimes);
        config.seed = Some(7);
        change(&mut config);
        let pool = Pool::spawn(config, hypervisor.clone(), MemoryLeases::new(LeaseKnobs::default()));
        let (submitter, source, sink) = embedded::queue(10_000);
        let terms = Terms::new(BTreeMap::from([("python".to_owned(), offer("python3"))]));
        let ledger = Knobbed::default();
        let sink = Recorder {
            inner: Arc::new(sink),
            ledger: ledger.inner.clone(),
            published: Arc::default(),
            lose_confirms: Arc::default(),
            confirmed: Arc::default(),
            uncommitted: Arc::default(),
        };
        let watched = Arc::<Mutex<Vec<Events>>>::default();
        let seen = watched.clone();
        let outlet: Outlet = Arc::new(move |events| seen.lock().unwrap().push(events));
        let service = Service::new(ledger, sink, pool, Intake::embedded(terms, "w1")).with_outlet(outlet);
        let service = Arc::new(service);
        Self {
            submitter: Some(submitter),
            source: Some(source),
            serving: None,
            service,
            hypervisor,
            runs,
            watched,
        }
    }

    /// Starts the worker.
    pub fn serve(&mut self) {
        let source = self.source.take().expect("once");
        self.serving = Some(tokio::spawn(serve(self.service.clone(), source, 64, std::future::pending())));
    }

    pub async fn submit(&self, job: serde_json::Value) -> JobResult {
        let body = serde_json::to_vec(&job).unwrap();
        let answer = self.submitter.as_ref().unwrap().submit(body.into(), None);
        let answer =
            tokio::time::timeout(Duration::from_secs(7200), answer).await.expect("every job has a result");
        serde_json::from_slice(&answer.unwrap()).unwrap()
    }

    pub fn published(&self) -> Vec<Bytes> {
        self.service.sink.published.lock().unwrap().clone()
    }

    pub fn runs(&self) -> usize {
        *self.runs.borrow()
    }

    /// Resolves when the first command runs.
    pub async fn running(&self) {
        self.runs.subscribe().wait_for(|runs| *runs > 0).await.unwrap();
    }

    /// What must hold at the end of every test.
    pub async fn check(&mut self) {
        self.submitter = None;
        if let Some(serving) = self.serving.take() {
            // The source ends when every receipt is spent.
            tokio::time::timeout(Duration::from_secs(600), serving)
                .await
                .expect("a receipt is unspent")
                .unwrap();
        }
        assert_eq!(
            self.service.sink.uncommitted.load(Ordering::SeqCst),
            0,
            "a result was published before its commit"
        );
        self.service.pool.close(Duration::from_secs(60)).await.expect("every slot closes");
        let seen = self.hypervisor.seen();
        assert_eq!(seen.wrong, Vec::<String>::new());
        assert!(seen.live.is_empty(), "VMs are left: {:?}", seen.live);
    }
}
