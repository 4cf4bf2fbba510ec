//! Live events over a real RabbitMQ.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod amqp_rig;
mod broker;

use std::time::Duration;

use amqp_rig::{Producer, Setup, job};
use broker::{Private, names, until, vhost};
use hearth_schemas::{
    event::{Event, State, What},
    result::{Status, Verdict},
};
use hearth_worker::{
    amqp::{client::JobClient, control::Control},
    ledger::Ledger,
};
use lapin::{
    BasicProperties,
    options::{QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::{Value, json};

fn watched(id: &str, input: &str) -> Value {
    let mut job = job(id, input);
    job["stream"] = true.into();
    job
}

/// A queue that gets what this key selects.
async fn bound(producer: &Producer, setup: &Setup, key: &str) -> String {
    let queue = producer.client.own_queue().await;
    bind(producer, setup, &queue, key).await;
    queue
}

async fn bind(producer: &Producer, setup: &Setup, queue: &str, key: &str) {
    let (exchange, options) = (setup.names.events(), QueueBindOptions::default());
    let channel = &producer.client.channel;
    let key = key.into();
    channel.queue_bind(queue.into(), exchange.into(), key, options, FieldTable::default()).await.unwrap();
}

async fn next(producer: &Producer, queue: &str) -> (String, Event) {
    let message = producer.client.get(queue).await;
    (message.routing_key.to_string(), serde_json::from_slice(&message.data).unwrap())
}

fn word(event: &Event) -> String {
    match &event.what {
        What::State(state) => {
            let state = serde_json::to_value(state).unwrap();
            state["state"].as_str().unwrap().to_owned()
        }
        other => other.kind().to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_asks_is_told_of_while_it_waits_and_while_it_runs() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup { slots: 1, ..Setup::new(&vhost.endpoint, &names()) };
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    let (mine, output) =
        (bound(&producer, &setup, "mine.*").await, bound(&producer, &setup, "*.stdout").await);
    producer.send(&job("first", "1500ms")).await;
    until("the only VM is taken", async || setup.ran_times("1500ms") == 1).await;
    producer.send(&watched("mine", "3000ms")).await;
    let (key, queued) = next(&producer, &mine).await;
    assert_eq!((key.as_str(), &queued.what), ("mine.state", &What::State(State::Queued)));
    assert_eq!((queued.attempt, queued.seq, queued.tenant.as_str()), (0, 1, "default"));
    let mut all = Vec::new();
    while all.last() != Some(&"finished".to_owned()) {
        let (key, event) = next(&producer, &mine).await;
        assert_eq!(key, format!("mine.{}", event.what.kind()));
        assert_eq!((event.attempt, event.seq), (1, all.len() as u64 + 1));
        if let What::Stdout(chunk) = &event.what {
            assert_eq!(chunk.content.decode().unwrap(), b"3000ms");
            // It runs for three seconds more: only the first one has its result.
            assert!(producer.client.count(&producer.replies).await <= 1);
        }
        all.push(word(&event));
    }
    let expected = ["started", "claimed", "uploading", "stage_started", "stdout", "stage_ended", "finished"];
    assert_eq!(all, expected);
    assert_eq!(producer.results(2).await.len(), 2);
    assert_eq!(next(&producer, &output).await.0, "mine.stdout");
    assert_eq!(producer.client.count(&output).await, 0, "nobody is told of a job that did not ask");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_bound_before_its_job_and_sees_all_of_it() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup::new(&vhost.endpoint, &names());
    let client = JobClient::connect(&vhost.endpoint, &setup.names).await.unwrap();
    let nowhere = client.follow("x").await.err().expect("no exchange yet");
    assert!(nowhere.to_string().contains(&setup.names.events()), "{nowhere}");
    let worker = setup.worker("w1").await;
    let client = JobClient::connect(&vhost.endpoint, &setup.names).await.unwrap();
    let mut events = client.follow("x").await.unwrap();
    let (sender, _replies) = client.split();
    sender.send("x", &serde_json::to_vec(&watched("x", "seen")).unwrap()).await.unwrap();
    let mut last = 0;
    loop {
        let event = tokio::time::timeout(Duration::from_secs(60), events.next()).await.unwrap().unwrap();
        if event.attempt == 0 {
            continue;
        }
        last += 1;
        assert_eq!((event.seq, event.id.as_str()), (last, "x"));
        if word(&event) == "finished" {
            break;
        }
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_told_in_order_with_what_the_broker_did_not_take_marked() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup::new(&vhost.endpoint, &names());
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    let mine = bound(&producer, &setup, "flood.*").await;
    let input = "y\n".repeat(4 << 20);
    let mut flood = watched("flood", &input);
    flood["limits"] = json!({"output_kib": 65_536});
    producer.send(&flood).await;
    let result = producer.result().await;
    let (mut seq, mut shown, mut dropped) = (0, 0, 0);
    loop {
        let (_, event) = next(&producer, &mine).await;
        if event.attempt == 0 {
            continue;
        }
        seq += 1;
        assert_eq!(event.seq, seq);
        match &event.what {
            What::Stdout(chunk) => shown += chunk.content.decode().unwrap().len() as u64,
            What::Dropped(mark) => dropped += mark.bytes,
            What::State(State::Finished { .. }) => break,
            _ => {}
        }
    }
    assert_eq!(shown + dropped, result.stages[0].run.stdout.bytes);
    assert_eq!(shown + dropped, 8 << 20);
    worker.drain().await;
}

/// Whoever follows a job that waits, and is ended there, is told of its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_ended_while_it_waits_has_its_last_event() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup { slots: 1, ..Setup::new(&vhost.endpoint, &names()) };
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    producer.send(&job("runs", "60000ms")).await;
    until("the only VM is taken", async || setup.ran().len() == 1).await;
    let mut late = watched("late", "x");
    late["deadline_ms"] = 2000.into();
    let unwatched = job("unwatched", "x");
    for (job, status) in [(watched("gone", "x"), Status::Cancelled), (late, Status::Expired)] {
        let id = job["id"].as_str().unwrap();
        let queue = bound(&producer, &setup, &format!("{id}.*")).await;
        producer.send(&job).await;
        assert_eq!(next(&producer, &queue).await.1.what, What::State(State::Queued));
        if status == Status::Cancelled {
            cancel(&producer, &setup, id).await;
        }
        let (key, event) = next(&producer, &queue).await;
        assert_eq!((key, event.attempt, event.seq), (format!("{id}.state"), 1, 1));
        assert_eq!(event.what, What::State(State::Finished { status, verdict: None }));
        assert_eq!(producer.result().await.status, status);
    }
    let nothing = bound(&producer, &setup, "unwatched.*").await;
    producer.send(&unwatched).await;
    until("it waits", async || producer.left().await > 0).await;
    cancel(&producer, &setup, "unwatched").await;
    assert_eq!(producer.result().await.status, Status::Cancelled);
    cancel(&producer, &setup, "runs").await;
    assert_eq!(producer.result().await.status, Status::Cancelled);
    worker.drain().await;
    assert_eq!(producer.client.count(&nothing).await, 0, "it did not ask");
}

/// So is whoever follows a job whose worker died, when its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_worker_died_has_its_last_event() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup::new(&vhost.endpoint, &names());
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    let mine = bound(&producer, &setup, "mine.*").await;
    let mut job = watched("mine", "60000ms");
    job["deadline_ms"] = 4000.into();
    producer.send(&job).await;
    until("it runs", async || setup.ran().len() == 1).await;
    worker.kill().await;
    let worker = setup.worker("w2").await;
    let last = loop {
        let (_, event) = next(&producer, &mine).await;
        if let What::State(State::Finished { status, .. }) = event.what {
            break (status, event.attempt);
        }
    };
    assert_eq!(last, (Status::Expired, 2));
    assert_eq!(producer.result().await.status, Status::Expired);
    worker.drain().await;
}

async fn cancel(producer: &Producer, setup: &Setup, id: &str) {
    let cancel = Control::Cancel { tenant: "default".into(), id: id.into() }.encode();
    producer.client.publish(&setup.names.control(), "", BasicProperties::default(), &cancel).await;
}

/// Events that the broker did not confirm before it died are told again: a number may come twice, and none is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_comes_back_is_told_what_it_missed() {
    let Some(private) = Private::start() else { return };
    private.ready().await;
    let setup = Setup::new(&private.endpoint(), &names());
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    // It outlives the broker, as what is in it does not.
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = producer.client.channel.queue_declare("mine".into(), options, FieldTable::default());
    declared.await.unwrap();
    bind(&producer, &setup, "mine", "j.*").await;
    producer.send(&watched("j", "6000ms")).await;
    let mut seqs = Vec::new();
    while seqs.len() < 5 {
        let (_, event) = next(&producer, "mine").await;
        seqs.push(event.seq);
    }
    private.kill();
    drop(producer);
    worker.down().await;
    private.begin();
    private.ready().await;
    worker.up().await;
    let producer = setup.producer().await;
    loop {
        let (_, event) = next(&producer, "mine").await;
        assert!(event.seq <= seqs.last().unwrap() + 1, "{seqs:?}, then {event:?}");
        seqs.push(event.seq);
        if let What::State(State::Finished { verdict, .. }) = event.what {
            assert_eq!((event.seq, verdict), (7, Some(Verdict::Accepted)));
            break;
        }
    }
    worker.drain().await;
    assert_eq!(setup.ran().len(), 1, "the job went on meanwhile");
}

/// A broker that takes nothing holds no job up; what it did not take is dropped and marked.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_nothing_holds_no_job_up() {
    let Some(private) = Private::start() else { return };
    private.ready().await;
    let setup = Setup { slots: 1, ..Setup::new(&private.endpoint(), &names()) };
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    let mine = bound(&producer, &setup, "flood.*").await;
    let stage = |name: &str, stdin: &str| json!({"name": name, "argv": ["cat"], "stdin": stdin, "limits": {"wall_ms": 30_000, "output_kib": 65_536}});
    let stages = [stage("wait", "15000ms"), stage("flood", &"y\n".repeat(4 << 20))];
    producer.send(&json!({"id": "flood", "runtime": "python", "stages": stages, "stream": true})).await;
    until("its first stage runs", async || setup.ran().len() == 1).await;
    private.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    until("it has a result that nobody takes", async || {
        setup.ledger.unpublished(Duration::ZERO, 10).await.unwrap().len() == 1
    })
    .await;
    private.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    let result = producer.result().await;
    assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
    let (mut shown, mut dropped) = (0, 0);
    loop {
        match next(&producer, &mine).await.1.what {
            What::Stdout(chunk) => shown += chunk.content.decode().unwrap().len() as u64,
            What::Dropped(mark) => dropped += mark.bytes,
            What::State(State::Finished { .. }) => break,
            _ => {}
        }
    }
    assert_eq!(shown + dropped, (8 << 20) + "15000ms".len() as u64);
    assert!(dropped > 0, "{shown} bytes were shown");
    worker.drain().await;
}
