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
use broker::{names, until, vhost};
use hearth_schemas::event::{Event, State, What};
use hearth_worker::amqp::client::JobClient;
use lapin::{options::QueueBindOptions, types::FieldTable};
use serde_json::{Value, json};

fn watched(id: &str, input: &str) -> Value {
    let mut job = job(id, input);
    job["stream"] = true.into();
    job
}

/// A queue that gets what this key selects.
async fn bound(producer: &Producer, setup: &Setup, key: &str) -> String {
    let queue = producer.client.own_queue().await;
    let (exchange, options) = (setup.names.events(), QueueBindOptions::default());
    let channel = &producer.client.channel;
    let key = key.into();
    channel
        .queue_bind(queue.as_str().into(), exchange.into(), key, options, FieldTable::default())
        .await
        .unwrap();
    queue
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
