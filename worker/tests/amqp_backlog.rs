//! Jobs that wait on a real broker are known to the pool before they claim anything.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod amqp_rig;
mod broker;

use std::{process::Command, sync::Arc, time::Duration};

use amqp_rig::{Producer, Setup, job};
use broker::{Vhost, prefix, until, vhost};
use hearth_pool::{
    fakes::{Asked, FakeHypervisor, Knobs, LeaseKnobs, MemoryLeases, Ran},
    pool::{Config, Pool, RuntimeSlots},
    scale::scaler::Policy,
};
use hearth_worker::{
    amqp::names::Names,
    run::{Order, Parts, RunError, Stopped, run},
    settings::Settings,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

const SLOTS: u32 = 12;
const JOBS: usize = 20;
/// Longer than everything else here, so that whoever learns from claims has nothing to learn from yet.
const RESTORE: Duration = Duration::from_secs(2);

/// Follows its load, and keeps one VM when there is none.
fn pool() -> Pool {
    let knobs = Knobs { restore_takes: RESTORE, ..Knobs::default() };
    let script = Arc::new(|asked: &Asked| Ran::prints(String::from_utf8_lossy(&asked.stdin).into_owned()));
    let runtimes = vec![RuntimeSlots { name: "python".into(), slots: SLOTS, warm_up: None }];
    let mut config = Config::new(runtimes);
    config.scaling = Some(Policy { decay: Duration::from_secs(1), ..Policy::default() });
    config.restores_at_once = 4;
    Pool::spawn(config, FakeHypervisor::new(knobs, script), MemoryLeases::new(LeaseKnobs::default()))
}

struct Worker {
    pool: Pool,
    orders: mpsc::Sender<Order>,
    running: JoinHandle<Result<Stopped, RunError>>,
    _spool: TempDir,
}

impl Worker {
    fn start(name: &str, vhost: &Vhost, prefix: &str, setup: &Setup) -> Self {
        let (pool, spool) = (pool(), tempfile::tempdir().unwrap());
        let text = format!("[broker]\nurl = \"{}\"\nprefix = \"{prefix}\"\nshards = 2\n", vhost.url);
        let settings = Settings::parse(&text, &|_| None).unwrap();
        let (orders, taken) = mpsc::channel(1);
        let parts = Parts {
            name: name.into(),
            pool: pool.clone(),
            slots: u16::try_from(SLOTS).unwrap(),
            offers: Setup::offers(),
            ledger: setup.ledger.clone(),
            ledger_trouble: watch::channel(None).1,
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            object_spool: spool.path().join("objects"),
        };
        Self { pool, orders, running: tokio::spawn(run(settings, parts, taken)), _spool: spool }
    }

    fn claims(&self) -> u64 {
        self.pool.claim_counts().values().map(|counts| counts.hit + counts.wait + counts.timeout).sum()
    }

    /// Waits until the target is that, and says how many claims there had been by then.
    async fn reaches(&self, target: u32) -> u64 {
        let mut targets = self.pool.targets();
        let reached = targets.wait_for(|targets| targets["python"] == target);
        timeout(Duration::from_secs(60), reached).await.expect("the target is reached").unwrap();
        self.claims()
    }

    async fn drain(self) {
        self.orders.send(Order::Drain).await.unwrap();
        assert_eq!(self.running.await.unwrap().unwrap(), Stopped::Drained);
        self.pool.close(Duration::from_secs(10)).await.unwrap();
    }
}

/// Queues jobs while no worker is there.
async fn queue(vhost: &Vhost, prefix: &str, setup: &Setup, jobs: usize) -> Producer {
    let mut hearth = Command::new(env!("CARGO_BIN_EXE_hearth"));
    hearth.args(["topology", "--apply", "--runtime", "python", "--shards", "2"]);
    hearth.args(["--broker", &vhost.url, "--prefix", prefix]);
    assert!(hearth.status().unwrap().success());
    let producer = setup.producer().await;
    producer.send_many((0..jobs).map(|number| job(&format!("j{number}"), "x"))).await;
    producer
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_were_queued_before_the_start_raise_the_target_before_the_first_of_them_runs() {
    let Some(vhost) = vhost() else { return };
    let prefix = prefix();
    let setup = Setup::new(&vhost.endpoint, &Names::new(&prefix).unwrap());
    let producer = queue(&vhost, &prefix, &setup, JOBS).await;
    let worker = Worker::start("w1", &vhost, &prefix, &setup);
    assert_eq!(worker.reaches(SLOTS).await, 0, "claims from which it could have been learnt");
    assert_eq!(producer.results(JOBS).await.len(), JOBS);
    until("what is no longer needed goes", async || worker.pool.targets().borrow()["python"] < SLOTS).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_finds_what_waits_in_run_queues_at_once() {
    let Some(vhost) = vhost() else { return };
    let prefix = prefix();
    let setup = Setup::new(&vhost.endpoint, &Names::new(&prefix).unwrap());
    let producer = queue(&vhost, &prefix, &setup, JOBS).await;
    // It parks all of them, and is gone before any VM is there.
    let first = Worker::start("w1", &vhost, &prefix, &setup);
    until("all wait in run queues", async || {
        producer.client.count(&setup.names.intake()).await == 0 && producer.left().await as usize >= JOBS
    })
    .await;
    assert_eq!(first.claims(), 0);
    first.drain().await;
    let second = Worker::start("w2", &vhost, &prefix, &setup);
    assert_eq!(second.reaches(SLOTS).await, 0);
    assert_eq!(producer.results(JOBS).await.len(), JOBS);
    second.drain().await;
}
