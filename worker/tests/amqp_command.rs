//! The commands that speak to a broker, the real binary against a real RabbitMQ; and the worker as the command runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod amqp_rig;
mod broker;
mod hearth;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Output,
    sync::Arc,
    time::Duration,
};

use amqp_rig::{Setup, job};
use broker::{Private, Vhost, prefix, until, vhost};
use hearth::{assert_complaint, assert_data, stderr, stdout};
use hearth_schemas::result::JobResult;
use hearth_worker::{
    amqp::names::Names,
    meters,
    objects::ObjectSettings,
    reduce::ResultTerms,
    run::{Order, Parts, Stopped, run},
    settings::Settings,
};
use lapin::BasicProperties;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

struct Broker {
    vhost: Arc<Vhost>,
    prefix: String,
}

impl Broker {
    fn new() -> Option<Self> {
        Some(Self { vhost: vhost()?, prefix: prefix() })
    }

    fn setup(&self) -> Setup {
        Setup::new(&self.vhost.endpoint, &Names::new(&self.prefix).unwrap())
    }

    /// Runs the command without holding up this thread's other work.
    async fn hearth(&self, arguments: &[&str], input: &str) -> Output {
        let mut all: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        all.extend(["--broker".into(), self.vhost.url.clone(), "--prefix".into(), self.prefix.clone()]);
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            hearth::hearth_with(&all, input.as_bytes())
        })
        .await
        .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topology_is_checked_applied_and_printed() {
    let Some(broker) = Broker::new() else { return };
    let few = ["--runtime", "python", "--shards", "1"];
    let printed = broker.hearth(&[&["topology"], &few[..]].concat(), "").await;
    assert_data(&printed, 0);
    assert_eq!(stdout(&printed).lines().count(), 6 + 4 + 3 + 3);
    let absent = broker.hearth(&[&["topology", "--check"], &few[..]].concat(), "").await;
    assert_data(&absent, 1);
    assert_eq!(stdout(&absent).lines().filter(|line| line.starts_with("absent: ")).count(), 6 + 4 + 3);
    assert_eq!(
        broker.hearth(&[&["topology", "--apply"], &few[..]].concat(), "").await.status.code(),
        Some(0)
    );
    let all = broker.hearth(&[&["topology", "--check"], &few[..]].concat(), "").await;
    assert_eq!((all.status.code(), stdout(&all)), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_is_sent_and_waited_for() {
    let Some(broker) = Broker::new() else { return };
    let nobody = broker.hearth(&["submit", "-"], "{}").await;
    assert_complaint(&nobody, 69);
    assert!(stderr(&nobody).contains("no worker has been there"), "{}", stderr(&nobody));
    let setup = broker.setup();
    let worker = setup.worker("w1").await;
    let waited = broker.hearth(&["submit", "-", "--wait"], &job("one", "hello").to_string()).await;
    assert_data(&waited, 0);
    let result: Value = serde_json::from_str(stdout(&waited)).unwrap();
    assert_eq!((result["id"].as_str(), result["verdict"].as_str()), (Some("one"), Some("accepted")));
    let refused = broker.hearth(&["submit", "-", "--wait"], "nonsense").await;
    assert_data(&refused, 65);
    // Followed, its output is on stderr, or all of it as lines of JSON on stdout.
    let followed = broker.hearth(&["submit", "-", "--follow"], &job("seen", "hello\n").to_string()).await;
    assert_eq!((followed.status.code(), stdout(&followed).lines().count()), (Some(0), 1));
    for part in ["[hearth] stage run\nhello\n", "[hearth] stage run: accepted\n", "finished, accepted"] {
        assert!(stderr(&followed).contains(part), "{part}: {}", stderr(&followed));
    }
    let lines = broker.hearth(&["submit", "-", "--follow", "--json"], &job("json", "hi").to_string()).await;
    assert_data(&lines, 0);
    let lines: Vec<Value> = stdout(&lines).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert!(kinds.len() == lines.len() - 1 && kinds.contains(&"stdout"), "{lines:#?}");
    assert_eq!(lines.last().unwrap()["status"], "finished");
    // Its result was there before: nothing happens that could be followed.
    let again = broker.hearth(&["submit", "-", "--follow"], &job("seen", "hello\n").to_string()).await;
    assert_data(&again, 0);
    let sent = broker.hearth(&["submit", "-"], &job("two", "x").to_string()).await;
    assert_eq!((sent.status.code(), stdout(&sent)), (Some(0), "two\n"));
    let producer = setup.producer().await;
    let unclaimed = producer.client.get(&setup.names.unclaimed()).await;
    assert_eq!(unclaimed.properties.message_id().as_ref().unwrap().as_str(), "two");
    // A cancel reaches a job that runs.
    producer.send(&job("long", "60000ms")).await;
    until("it runs", async || setup.ran_times("60000ms") == 1).await;
    assert_eq!(broker.hearth(&["cancel", "long"], "").await.status.code(), Some(0));
    assert_eq!(producer.result().await.status.as_str(), "cancelled");
    worker.drain().await;
    let nobody = broker.hearth(&["cancel", "long"], "").await;
    assert_complaint(&nobody, 75);
    let elsewhere = hearth::hearth(&["cancel", "x", "--broker", "amqp://127.0.0.1:1"]);
    assert_complaint(&elsewhere, 75);
}

/// The broker is killed while a command waits for its one result: it is sent again and answered once.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_waited_for_survives_its_broker() {
    let Some(private) = Private::start() else { return };
    private.ready().await;
    let prefix = prefix();
    let setup = Setup::new(&private.endpoint(), &Names::new(&prefix).unwrap());
    let worker = setup.worker("w1").await;
    let url = private.url();
    let submit = |job: Value| {
        let (url, prefix) = (url.clone(), prefix.clone());
        tokio::task::spawn_blocking(move || {
            let all = ["submit", "-", "--wait", "--broker", &url, "--prefix", &prefix];
            hearth::hearth_with(&all, job.to_string().as_bytes())
        })
    };
    let waiting = submit(job("waits", "4000ms"));
    until("it runs", async || setup.ran_times("4000ms") == 1).await;
    private.kill();
    private.begin();
    private.ready().await;
    let output = waiting.await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("sent again"), "{}", stderr(&output));
    let result: JobResult = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!((result.id.as_str(), setup.ran_times("4000ms")), ("waits", 1));
    // A broker that was never there is told at once.
    private.kill();
    assert_complaint(&submit(job("never", "x")).await.unwrap(), 75);
    worker.kill().await;
}

/// A worker with a store, and a command that can reach it or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_no_message_carries_is_fetched_where_it_can_be() {
    let Some(broker) = Broker::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (store, spool) = (directory.path().join("store"), directory.path().join("spool"));
    std::fs::create_dir(&store).unwrap();
    let text = format!(
        "[objects.stores.\"file://out\"]\nfolder = \"{}\"\n[objects.outputs]\nto = \"file://out\"\n",
        store.display()
    );
    let file = directory.path().join("objects.toml");
    std::fs::write(&file, &text).unwrap();
    let file = file.to_str().unwrap();
    let objects = Some((ObjectSettings::parse(&text, &|_| None).unwrap(), spool));
    let results = Some(ResultTerms { message_max_bytes: 4 << 20 });
    let setup = Setup { objects, results, ..broker.setup() };
    let worker = setup.worker("w1").await;
    let long = "a line of some length\n".repeat(5000);
    let sent = job("large", &long).to_string();
    let short = broker.hearth(&["submit", "-", "--wait"], &sent).await;
    assert_eq!(short.status.code(), Some(0), "{}", stderr(&short));
    assert!(stderr(&short).contains("--objects"), "{}", stderr(&short));
    let result: JobResult = serde_json::from_str(stdout(&short)).unwrap();
    assert!(stdout(&short).len() < 64 << 10 && result.reduced.is_some());
    let whole = broker.hearth(&["submit", "-", "--wait", "--objects", file], &sent).await;
    assert_data(&whole, 0);
    let result: JobResult = serde_json::from_str(stdout(&whole)).unwrap();
    assert_eq!((amqp_rig::printed(&result), result.reduced), (long.clone(), None));
    // The same in a batch, where one job's whole is gone.
    let jobs = directory.path().join("jobs");
    std::fs::write(&jobs, format!("{sent}\n{}\n", job("gone", &long))).unwrap();
    let batch = ["submit", "--batch", jobs.to_str().unwrap(), "--ordered", "--objects", file];
    let first = broker.hearth(&batch, "").await;
    let results: Vec<JobResult> =
        stdout(&first).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(results.iter().all(|result| result.reduced.is_none()) && results.len() == 2);
    std::fs::remove_dir_all(store.join("guests/gone")).unwrap();
    let again = broker.hearth(&batch, "").await;
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(stderr(&again).contains("is not there"), "{}", stderr(&again));
    let results: Vec<JobResult> =
        stdout(&again).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.iter().map(|result| result.reduced.is_some()).collect::<Vec<_>>(), [false, true]);
    assert_eq!(setup.ran().len(), 2, "each ran once");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_resumed_where_it_stopped() {
    let Some(broker) = Broker::new() else { return };
    let setup = Setup { slots: 4, ..broker.setup() };
    let worker = setup.worker("w1").await;
    let directory = tempfile::tempdir().unwrap();
    let (jobs, out) = (directory.path().join("jobs"), directory.path().join("out"));
    let mut lines: Vec<String> =
        (0..200).map(|n| job(&format!("j{n}"), &format!("{n}")).to_string()).collect();
    // No id, no job, and one that is there twice.
    lines.push(json!({"runtime": "python", "code": "x"}).to_string());
    lines.push("nonsense".to_owned());
    lines.push(lines[7].clone());
    std::fs::write(&jobs, lines.join("\n")).unwrap();
    let (jobs, out) = (jobs.to_str().unwrap(), out.to_str().unwrap());
    let all =
        broker.hearth(&["submit", "--batch", jobs, "--out", out, "--ordered", "--window", "32"], "").await;
    assert_eq!(all.status.code(), Some(1), "one was refused: {}", stderr(&all));
    let results = std::fs::read_to_string(out).unwrap();
    let ids: Vec<String> = results
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 202);
    assert!((0..200).all(|n| ids[n] == format!("j{n}")), "{ids:?}");
    assert!(stderr(&all).contains("202 results"), "{}", stderr(&all));
    // It is not overwritten; what is missing, the last line torn, is fetched again and nothing else is run.
    let again = broker.hearth(&["submit", "--batch", jobs, "--out", out], "").await;
    assert_complaint(&again, 74);
    let torn: String = results.lines().take(150).map(|line| format!("{line}\n")).collect();
    std::fs::write(out, torn + &results.lines().nth(150).unwrap()[..40]).unwrap();
    let ran = setup.ran().len();
    let resumed = broker.hearth(&["submit", "--batch", jobs, "--out", out, "--resume"], "").await;
    assert_eq!(resumed.status.code(), Some(1));
    let mut whole: Vec<_> = std::fs::read_to_string(out).unwrap().lines().map(str::to_owned).collect();
    let mut before: Vec<_> = results.lines().map(str::to_owned).collect();
    whole.sort();
    before.sort();
    // All but the refusal, which names the moment's worker only, is byte for byte what it was.
    assert_eq!((whole, setup.ran().len()), (before, ran));
    let piped = broker.hearth(&["submit", "--batch", "-"], &lines[..3].join("\n")).await;
    assert_eq!((piped.status.code(), stdout(&piped).lines().count()), (Some(0), 3));
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_are_listed_retried_and_dropped() {
    let Some(broker) = Broker::new() else { return };
    let setup = broker.setup();
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    for body in ["nonsense one", "nonsense two"] {
        producer.send_bytes(body.as_bytes(), BasicProperties::default()).await;
    }
    let dead = setup.names.dead();
    // A job that is there by hand: what it was refused for is repaired.
    let properties = producer.properties().with_message_id("was-dead".into());
    let body = serde_json::to_vec(&job("was-dead", "alive")).unwrap();
    producer.client.publish("", &dead, properties, &body).await;
    until("three are dead", async || producer.client.count(&dead).await == 3).await;
    let listed = broker.hearth(&["dead", "list", "--json"], "").await;
    assert_data(&listed, 0);
    assert_eq!(stdout(&listed).lines().count(), 3);
    assert!(stdout(&listed).contains("nobody to tell") && stdout(&listed).contains("\"id\":\"was-dead\""));
    until("they are back", async || producer.client.count(&dead).await == 3).await;
    let retried = broker.hearth(&["dead", "retry", "was-dead"], "").await;
    assert_data(&retried, 0);
    let result = producer.result().await;
    assert_eq!((result.id.as_str(), amqp_rig::printed(&result).as_str()), (stdout(&retried).trim(), "alive"));
    let missing = broker.hearth(&["dead", "drop", "was-dead"], "").await;
    assert_complaint(&missing, 65);
    until("they are back", async || producer.client.count(&dead).await == 2).await;
    assert_eq!(broker.hearth(&["dead", "drop", "--all"], "").await.status.code(), Some(0));
    assert_eq!(producer.client.count(&dead).await, 0);
    worker.drain().await;
}

/// A page of a worker.
fn page(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_how_it_is_takes_orders_and_drains() {
    let Some(broker) = Broker::new() else { return };
    let setup = broker.setup();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let spool = tempfile::tempdir().unwrap();
    let settings = |tenant: &str| {
        let text = format!(
            "[broker]\nurl = \"{}\"\nprefix = \"{}\"\nshards = 2\n[tenants]\nusers = {{ guest = \"{tenant}\" }}\n\
             [worker]\nadmin = \"{address}\"\nspool = \"{}\"\ngrace_s = 30\n",
            broker.vhost.url,
            broker.prefix,
            spool.path().display()
        );
        Settings::parse(&text, &|_| None).unwrap()
    };
    let (orders, taken) = mpsc::channel(1);
    let (trouble, ledger_trouble) = watch::channel(None);
    let parts = Parts {
        name: "w1".into(),
        pool: setup.pool("w1"),
        slots: 2,
        offers: Setup::offers(),
        ledger: setup.ledger.clone(),
        ledger_trouble,
        metrics: meters::start().unwrap(),
        object_spool: spool.path().join("objects"),
    };
    let worker = tokio::spawn(run(settings("one"), parts, taken));
    until("it is ready", async || page(address, "/ready").is_some_and(|page| page.contains("200 OK"))).await;
    let producer = setup.producer().await;
    let user = || producer.properties().with_user_id("guest".into());
    producer.send_bytes(&serde_json::to_vec(&job("a", "x")).unwrap(), user()).await;
    assert_eq!(producer.result().await.tenant, "one");
    let metrics = page(address, "/metrics").unwrap();
    for line in [
        "hearth_jobs_total{runtime=\"python\",status=\"finished\",verdict=\"accepted\"}",
        "hearth_result_publish_total{outcome=\"routed\"}",
        "# HELP hearth_pool_slots",
        "hearth_job_step_seconds_bucket{step=\"run\"",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    trouble.send_replace(Some("away".into()));
    let unready = page(address, "/ready").unwrap();
    assert!(unready.contains("503") && unready.contains("redis: away"), "{unready}");
    assert!(page(address, "/live").unwrap().contains("200 OK"));
    orders.send(Order::Reload(Box::new(settings("two")))).await.unwrap();
    until("it knows the other tenant", async || {
        let id = format!("b{}", setup.ran().len());
        producer.send_bytes(&serde_json::to_vec(&job(&id, "x")).unwrap(), user()).await;
        producer.result().await.tenant == "two"
    })
    .await;
    producer.send(&job("last", "1500ms")).await;
    until("it runs", async || setup.ran_times("1500ms") == 1).await;
    orders.send(Order::Drain).await.unwrap();
    until("it says so", async || page(address, "/ready").is_some_and(|page| page.contains("draining"))).await;
    assert_eq!(producer.result().await.id, "last");
    let stopped = tokio::time::timeout(Duration::from_secs(30), worker).await.unwrap().unwrap();
    assert_eq!(stopped.unwrap(), Stopped::Drained);
    assert_eq!(producer.left().await, 0);
}

#[test]
fn wrong_settings_are_all_said_before_anything_is_done() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[broker]\nshards = 0\n[worker]\ngrace_s = -1\n").unwrap();
    let wrong = hearth::hearth(&["worker", "--config", file.path().to_str().unwrap()]);
    assert_complaint(&wrong, 78);
    for place in ["broker.url", "broker.shards", "worker.grace_s"] {
        assert!(stderr(&wrong).contains(place), "{}", stderr(&wrong));
    }
    std::fs::write(file.path(), "[broker]\nurl = \"amqp://localhost\"\n").unwrap();
    assert_data(&hearth::hearth(&["worker", "--config", file.path().to_str().unwrap(), "--check"]), 0);
}
