//! Workers over a real RabbitMQ and a real Redis: Redis away, its first start, and who looks after jobs.

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
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use amqp_rig::{Setup, job, printed, shared_ledger::SharedLedger};
use broker::{names, redis::Redis, until, vhost};
use hearth_schemas::result::Status;
use hearth_worker::{
    amqp::{
        first_start::{FirstStart, first_start},
        spool::Spool,
    },
    ledger::trouble,
    meters,
    run::{Order, Parts, run},
    settings::Settings,
};
use tokio::{sync::mpsc, time::Instant};

/// A job that ends while Redis is away is not run again: its result waits on disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_job_goes_on_while_redis_is_away_and_its_result_waits_on_disk() {
    let (Some(vhost), Some(mut redis)) = (vhost(), Redis::start().await) else { return };
    let directory = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(directory.path(), 1 << 20).unwrap());
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let base = Setup::new(&vhost.endpoint, &names());
    let setup = Setup { ledger, spool: Some(spool.clone()), ..base };
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    for (id, input) in [("a", "1500ms"), ("b", "1501ms")] {
        producer.send(&job(id, input)).await;
    }
    until("both run", async || setup.ran().len() == 2).await;
    redis.kill();
    until("both results wait on disk", async || spool.entries().unwrap().len() == 2).await;
    redis.begin().await;
    let results = producer.results(2).await;
    for (id, input) in [("a", "1500ms"), ("b", "1501ms")] {
        assert_eq!((results[id].status, results[id].attempt), (Status::Finished, 1));
        assert_eq!(printed(&results[id]), input);
    }
    until("the disk is empty", async || spool.entries().unwrap().is_empty()).await;
    until("their messages are settled", async || producer.left().await == 0).await;
    worker.drain().await;
    assert_eq!(setup.ran().len(), 2, "each ran once");
}

/// The worker dies too: the next one there commits what it finds, under the token that it was run with.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_on_disk_outlives_its_worker() {
    let (Some(vhost), Some(mut redis)) = (vhost(), Redis::start().await) else { return };
    let directory = tempfile::tempdir().unwrap();
    let spool = || Some(Arc::new(Spool::open(directory.path(), 1 << 20).unwrap()));
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let mut setup = Setup { ledger, spool: spool(), ..Setup::new(&vhost.endpoint, &names()) };
    let first = setup.worker("w1").await;
    let producer = setup.producer().await;
    producer.send(&job("a", "700ms")).await;
    until("it runs", async || setup.ran().len() == 1).await;
    redis.kill();
    let entries = || Spool::open(directory.path(), 1 << 20).unwrap().entries().unwrap().len();
    until("its result waits on disk", async || entries() == 1).await;
    first.kill().await;
    setup.spool = spool();
    let (service, source, task) = setup.service("w2");
    redis.begin().await;
    // As `run` does, before anything can be delivered: the source has no credit.
    hearth_worker::decide::recover(&service).await;
    let result = producer.result().await;
    assert_eq!(
        (result.worker.as_deref(), result.attempt, printed(&result).as_str()),
        (Some("w1"), 1, "700ms")
    );
    assert_eq!(entries(), 0);
    drop(source);
    task.await.unwrap();
    assert_eq!(setup.ran().len(), 1);
}

/// New data is trusted where no worker can be, and not beside one.
#[tokio::test(flavor = "multi_thread")]
async fn new_data_is_trusted_at_a_first_start_and_not_beside_another_worker() {
    let (Some(vhost), Some(redis)) = (vhost(), Redis::start().await) else { return };
    let (settle, names) = (Duration::from_secs(65), names());
    let ask =
        async |redis: &Redis| first_start(&redis.server(), settle, &vhost.endpoint, &names).await.unwrap();
    assert_eq!(ask(&redis).await, FirstStart::Trusted, "there is no intake");
    assert_eq!(ask(&redis).await, FirstStart::Settled);
    let setup = Setup::new(&vhost.endpoint, &names);
    let worker = setup.worker("w1").await;
    let lost = Redis::start().await.unwrap();
    assert!(matches!(ask(&lost).await, FirstStart::Waits { settles_in } if settles_in <= settle));
    assert!(matches!(ask(&lost).await, FirstStart::Waits { .. }), "asking changes nothing");
    worker.drain().await;
    until("the broker knows that it is gone", async || ask(&lost).await == FirstStart::Trusted).await;
}

/// One of many looks after jobs, so that this costs the same however many there are; another follows when it dies.
#[tokio::test(flavor = "multi_thread")]
async fn one_worker_reaps_for_all_and_another_follows_its_death_in_time() {
    let (Some(vhost), Some(redis)) = (vhost(), Redis::start().await) else { return };
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let setup = Setup { ledger, slots: 1, ..Setup::new(&vhost.endpoint, &names()) };
    let leader = setup.worker("w1").await;
    let watch = async || {
        let (before, asked) = (redis.scripts_called().await, Instant::now());
        tokio::time::sleep(Duration::from_secs(4)).await;
        (redis.scripts_called().await - before) as f64 / asked.elapsed().as_secs_f64()
    };
    let alone = watch().await;
    let mut others = Vec::new();
    for n in 2..=5 {
        others.push(setup.worker(&format!("w{n}")).await);
    }
    let together = watch().await;
    println!("scripts a second: {alone:.1} of one idle worker, {together:.1} of five");
    assert!(together < 2.0 * alone, "{together:.1} of five, {alone:.1} of one");
    // All slots run something that has a long deadline; what waits has a short one.
    let producer = setup.producer().await;
    for n in 0..5 {
        producer.send(&job(&format!("long-{n}"), &format!("{}ms", 8000 + n))).await;
    }
    until("all run", async || setup.ran().len() == 5).await;
    let mut late = job("late", "x");
    late["deadline_ms"] = 1000.into();
    producer.send(&late).await;
    let due = Instant::now() + Duration::from_secs(1);
    until("it is parked", async || producer.left().await == 1).await;
    leader.kill().await;
    let result = loop {
        let result = producer.result().await;
        if result.id == "late" {
            break result;
        }
    };
    println!("expired {:?} after its deadline, with the one that looked after it killed", due.elapsed());
    assert_eq!(result.status, Status::Expired);
    assert!(due.elapsed() < Duration::from_secs(5), "{:?}", due.elapsed());
    for other in others {
        other.kill().await;
    }
}

/// From a worker's death to the next attempt of the job that it held, by what is there to be seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_workers_job_is_taken_over_within_5_s() {
    let (Some(vhost), Some(redis)) = (vhost(), Redis::start().await) else { return };
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let setup = Setup { ledger, slots: 1, ..Setup::new(&vhost.endpoint, &names()) };
    let first = setup.worker("w1").await;
    let producer = setup.producer().await;
    producer.send(&job("j", "2500ms")).await;
    until("it runs", async || setup.ran().len() == 1).await;
    let _second = setup.worker("w2").await;
    let died = Instant::now();
    first.kill().await;
    until("it runs again", async || setup.ran().len() == 2).await;
    let took = died.elapsed();
    println!("taken over {took:?} after its worker's death");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let result = producer.result().await;
    assert_eq!((result.status, result.attempt, result.worker.as_deref()), (Status::Finished, 2, Some("w2")));
}

/// A page of a worker.
fn page(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A worker as the command runs it says what is away, and counts results whose queue was gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_ready_while_redis_is_gone_and_says_so() {
    let (Some(vhost), Some(mut redis)) = (vhost(), Redis::start().await) else { return };
    let (prefix, directory) = (broker::prefix(), tempfile::tempdir().unwrap());
    let names = hearth_worker::amqp::names::Names::new(&prefix).unwrap();
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let setup = Setup { ledger, ..Setup::new(&vhost.endpoint, &names) };
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "[broker]\nurl = \"{}\"\nprefix = \"{prefix}\"\nshards = 2\n[worker]\nadmin = \"{address}\"\n",
        vhost.url
    );
    let settings = Settings::parse(&text, &|_| None).unwrap().with_data_dir(directory.path());
    let parts = Parts {
        name: "w1".into(),
        pool: setup.pool("w1"),
        slots: 2,
        offers: Setup::offers(),
        ledger: setup.ledger.clone(),
        ledger_trouble: trouble(Some(redis.server())),
        metrics: meters::start().unwrap(),
        object_spool: directory.path().join("objects"),
    };
    let (orders, taken) = mpsc::channel(1);
    let worker = tokio::spawn(run(settings, parts, taken));
    let ready = async || page(address, "/ready").is_some_and(|page| page.contains("200 OK"));
    until("it is ready", ready).await;
    assert!(
        directory.path().join("spool/undecided").is_dir(),
        "results have a place without being given one"
    );
    redis.kill();
    until("it says what is gone", async || {
        page(address, "/ready").is_some_and(|page| page.contains("503") && page.contains("redis: "))
    })
    .await;
    assert!(page(address, "/live").unwrap().contains("200 OK"), "it need not be started again");
    redis.begin().await;
    until("it is ready again", ready).await;
    let producer = setup.producer().await;
    let gone = lapin::BasicProperties::default().with_reply_to("no-such-queue".into());
    producer.send_bytes(&serde_json::to_vec(&job("gone", "x")).unwrap(), gone).await;
    producer.client.get(&names.unclaimed()).await;
    let count = "hearth_result_publish_total{outcome=\"reply_to_gone\"} 1";
    until("it is counted", async || page(address, "/metrics").is_some_and(|page| page.contains(count))).await;
    orders.send(Order::Drain).await.unwrap();
    worker.await.unwrap().unwrap();
}
