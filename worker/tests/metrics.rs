//! Every metric is moved by something that happens, and nothing is measured that the table does not have.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod amqp_rig;
mod broker;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use amqp_rig::{Setup, job};
use broker::{Client, Private, prefix, until};
use hearth_schemas::event::OutputStream;
use hearth_worker::{
    amqp::names::Names,
    ledger::JobKey,
    live,
    local::clear_up,
    meters::{self, Kind},
    run::{Order, Parts, RunError, Stopped, run},
    settings::Settings,
};
use lapin::{BasicProperties, options::BasicGetOptions};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Which scenario moves what.
const A_JOB_RUNS: &[&str] = &[
    "hearth_worker_ready",
    "hearth_jobs_inflight",
    "hearth_jobs_total",
    "hearth_job_step_seconds",
    "hearth_pool_slots",
    "hearth_pool_target",
    "hearth_pool_claims_total",
    "hearth_pool_claim_wait_seconds",
    "hearth_pool_target_wait_seconds",
    "hearth_pool_target_hit_ratio",
    "hearth_pool_refill_seconds",
    "hearth_restore_seconds",
    "hearth_vm_age_seconds",
    "hearth_vm_retired_total",
    "hearth_lease_events_total",
    "hearth_transfer_bytes_total",
    "hearth_result_publish_total",
];
const MORE_JOBS_THAN_VMS_COME: &[&str] = &["hearth_jobs_waiting"];
const A_MESSAGE_COMES_AGAIN: &[&str] = &["hearth_redelivered_total"];
const THE_BROKER_GIVES_UP_ON_A_MESSAGE: &[&str] = &["hearth_fallen_total"];
const THE_BROKER_DIES: &[&str] = &["hearth_results_spooled", "hearth_amqp_reconnects_total"];
const SOMEBODY_WATCHES_TOO_SLOWLY: &[&str] = &["hearth_live_events_total", "hearth_live_dropped_bytes_total"];
const A_WORKER_LEFT_SOMETHING: &[&str] = &["hearth_orphans_reclaimed_total"];

/// Notes which metrics have moved.
struct Eyes {
    handle: PrometheusHandle,
    before: BTreeMap<String, f64>,
    moved: BTreeSet<String>,
}

impl Eyes {
    /// Samples by series. Of a histogram its counts.
    fn read(&self) -> BTreeMap<String, f64> {
        let text = self.handle.render();
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = samples.map(|line| line.rsplit_once(' ').unwrap());
        samples.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
    }

    /// Starts anew.
    fn open(&mut self) {
        (self.before, self.moved) = (self.read(), BTreeSet::new());
    }

    fn look(&mut self) {
        for (series, value) in self.read() {
            if value != self.before.get(&series).copied().unwrap_or(0.0) {
                self.moved.insert(family(&series).to_owned());
            }
        }
    }

    /// Waits until all of these have moved.
    async fn see(&mut self, names: &[&str]) {
        until(&format!("{names:?} move"), async || {
            self.look();
            names.iter().all(|name| self.moved.contains(*name))
        })
        .await;
    }
}

/// The metric that a series belongs to.
fn family(series: &str) -> &str {
    let name = series.split('{').next().unwrap();
    let histogram = |metric: &&&meters::Metric| metric.kind == Kind::Histogram;
    let of = meters::ALL.iter().filter(histogram).map(|metric| metric.name);
    of.into_iter()
        .find(|metric| name.strip_prefix(metric).is_some_and(|rest| rest.starts_with('_')))
        .unwrap_or(name)
}

struct Worker {
    orders: mpsc::Sender<Order>,
    running: JoinHandle<Result<Stopped, RunError>>,
}

impl Worker {
    fn start(url: &str, prefix: &str, setup: &Setup, spool: &Path, metrics: PrometheusHandle) -> Self {
        let text = format!(
            "[broker]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = 2\n[worker]\nspool = \"{}\"\n\
             [jobs]\nwall_max_ms = 60000\n[pool]\nmode = \"auto\"\ntarget_wait_ms = 50\n",
            spool.display()
        );
        let settings = Settings::parse(&text, &|_| None).unwrap();
        let (orders, taken) = mpsc::channel(1);
        let parts = Parts {
            name: "w1".into(),
            pool: setup.pool("w1"),
            slots: 2,
            offers: Setup::offers(),
            ledger: setup.ledger.clone(),
            ledger_trouble: watch::channel(None).1,
            metrics,
            object_spool: spool.join("objects"),
        };
        Self { orders, running: tokio::spawn(run(settings, parts, taken)) }
    }

    async fn drain(self) {
        self.orders.send(Order::Drain).await.unwrap();
        assert_eq!(self.running.await.unwrap().unwrap(), Stopped::Drained);
    }
}

/// Makes what producers need before the first worker is there.
fn topology(url: &str, prefix: &str) {
    let mut hearth = std::process::Command::new(env!("CARGO_BIN_EXE_hearth"));
    let hearth = hearth.args(["topology", "--apply", "--runtime", "python", "--shards", "2"]);
    assert!(hearth.args(["--broker", url, "--prefix", prefix]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_moved_by_something_that_happens() {
    let Some(private) = Private::start() else { return };
    private.ready().await;
    let handle = meters::start().unwrap();
    let mut eyes = Eyes { handle: handle.clone(), before: BTreeMap::new(), moved: BTreeSet::new() };
    let spool = tempfile::tempdir().unwrap();
    let prefix = prefix();
    let setup = Setup::new(&private.endpoint(), &Names::new(&prefix).unwrap());

    topology(&private.url(), &prefix);
    eyes.open();
    let worker = Worker::start(&private.url(), &prefix, &setup, spool.path(), handle.clone());
    let client = setup.producer().await;
    client.send(&job("runs", "1500ms")).await;
    eyes.see(&["hearth_jobs_inflight"]).await;
    assert_eq!(client.result().await.id, "runs");
    eyes.see(A_JOB_RUNS).await;

    eyes.open();
    for number in 0..6 {
        client.send(&job(&format!("many-{number}"), "500ms")).await;
    }
    eyes.see(MORE_JOBS_THAN_VMS_COME).await;
    for _ in 0..6 {
        client.result().await;
    }

    eyes.open();
    worker.drain().await;
    client.send(&job("again", "x")).await;
    let stranger = Client::new(&private.endpoint()).await;
    let get = async || {
        let got =
            stranger.channel.basic_get(setup.names.intake().as_str().into(), BasicGetOptions::default());
        got.await.unwrap()
    };
    until("the message is there", async || get().await.is_some()).await;
    stranger.link.close().await;
    let worker = Worker::start(&private.url(), &prefix, &setup, spool.path(), handle.clone());
    assert_eq!(client.result().await.id, "again");
    eyes.see(A_MESSAGE_COMES_AGAIN).await;

    eyes.open();
    let body = serde_json::to_vec(&job("fell", "x")).unwrap();
    let properties = BasicProperties::default().with_message_id("fell".into());
    client.client.publish("", &setup.names.fallen(), properties, &body).await;
    eyes.see(THE_BROKER_GIVES_UP_ON_A_MESSAGE).await;

    eyes.open();
    client.send(&job("spooled", "2000ms")).await;
    until("it runs", async || setup.ran_times("2000ms") == 1).await;
    private.kill();
    eyes.see(&["hearth_results_spooled"]).await;
    private.begin();
    private.ready().await;
    eyes.see(THE_BROKER_DIES).await;
    let client = setup.producer().await;
    // A result may come again.
    until("both results that nobody waits for are there", async || {
        client.client.count(&setup.names.unclaimed()).await >= 2
    })
    .await;
    worker.drain().await;

    eyes.open();
    leave_something(spool.path());
    eyes.see(A_WORKER_LEFT_SOMETHING).await;

    eyes.open();
    watch_too_slowly().await;
    eyes.see(SOMEBODY_WATCHES_TOO_SLOWLY).await;

    the_table_says_what_there_is(&handle.render());
}

/// What a worker leaves that was killed with its guard: a VM's directory, its record, a process.
fn leave_something(run_dir: &Path) {
    let directory = run_dir.join("vms/python-0-3-7");
    std::fs::create_dir_all(&directory).unwrap();
    let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let start: u64 =
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap();
    let process_id = serde_json::json!({"pid": process.id(), "start_ticks": start});
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let owner = serde_json::json!({
        "worker": "w0", "guard": process_id, "boot_id": boot_id.trim(), "cid": 3, "also": [], "processes": [process_id],
    });
    std::fs::write(directory.join("owner.json"), owner.to_string()).unwrap();
    let reclaimed = clear_up(run_dir).unwrap();
    assert_eq!((reclaimed.directories, reclaimed.processes), (1, 1));
    assert!(!process.wait().unwrap().success());
}

/// Takes what there is of a job's live events once they are over.
async fn watch_too_slowly() {
    let (feed, mut events) = live::channel(&JobKey { tenant: "t".into(), id: "j".into() }, 1);
    assert_eq!(feed.stage_started("run"), 0);
    (0..64).for_each(|_| feed.data(OutputStream::Stdout, &[b'x'; 64 * 1024]));
    drop(feed);
    while events.next().await.is_some() {}
}

fn the_table_says_what_there_is(text: &str) {
    let scenarios = [
        A_JOB_RUNS,
        MORE_JOBS_THAN_VMS_COME,
        A_MESSAGE_COMES_AGAIN,
        THE_BROKER_GIVES_UP_ON_A_MESSAGE,
        THE_BROKER_DIES,
        A_WORKER_LEFT_SOMETHING,
        SOMEBODY_WATCHES_TOO_SLOWLY,
    ];
    let moved: BTreeSet<&str> = scenarios.concat().into_iter().collect();
    let table: BTreeMap<&str, _> = meters::ALL.iter().map(|metric| (metric.name, metric)).collect();
    assert_eq!(
        moved,
        table.keys().copied().collect(),
        "each metric has a scenario, and each scenario its metrics"
    );
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => assert_eq!(table[name].help, help),
            ["#", "TYPE", name, kind] => assert_eq!(table[name].kind.name(), kind, "{name}"),
            [""] => {}
            _ => {
                let series = line.rsplit_once(' ').unwrap().0;
                let metric =
                    table.get(family(series)).unwrap_or_else(|| panic!("{series} is not in the table"));
                let labels = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
                let labels = labels.split(',').filter_map(|label| label.split('=').next());
                let labels: BTreeSet<_> = labels.filter(|label| !["", "le"].contains(label)).collect();
                assert_eq!(labels, metric.labels.iter().map(|(name, _)| *name).collect(), "{series}");
            }
        }
    }
    assert!(text.contains("le=\"0.001\"") && text.contains("le=\"300\""), "from milliseconds to minutes");
}

#[test]
fn the_table_for_people_is_not_stale() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/metrics.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    if std::env::var("UPDATE_METRICS").is_ok() {
        std::fs::write(&path, meters::markdown()).unwrap();
    } else {
        assert!(
            written == meters::markdown(),
            "deploy/metrics.md is stale. Run `UPDATE_METRICS=1 cargo test -p hearth-worker --test metrics table_for` and commit it."
        );
    }
}
