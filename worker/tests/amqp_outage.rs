//! A broker that breaks: its connections, its patience, itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod amqp_rig;
mod broker;

use amqp_rig::{Setup, job, printed};
use broker::{Private, names, until};
use hearth_schemas::result::Verdict;

/// The same message comes again while its job runs, by a closed connection, and never runs twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_while_its_connection_is_closed_and_does_not_run_twice() {
    let Some(private) = Private::start() else { return };
    private.ready().await;
    let setup = Setup::new(&private.endpoint(), &names());
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    producer.send(&job("j", "4000ms")).await;
    until("it runs", async || !setup.ran().is_empty()).await;
    drop(producer);
    private.ctl(&["close_all_connections", "a test"]);
    let why = worker.down().await;
    assert!(why.contains("CONNECTION_FORCED") || why.contains("connection"), "{why}");
    worker.up().await;
    let producer = setup.producer().await;
    // The first producer's queue is gone, so the result is where nobody bound.
    let result = producer.client.get(&setup.names.unclaimed()).await;
    assert!(String::from_utf8_lossy(&result.data).contains("\"accepted\""));
    worker.drain().await;
    assert_eq!((setup.ran().len(), producer.left().await), (1, 0), "ran once, settled once");
}

/// The trap: a consumer that waits too long for an acknowledgement gets one error and is silent for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_longer_than_the_consumer_timeout_is_explained_and_survived() {
    let Some(private) = Private::start() else { return };
    private.ready().await;
    let setup = Setup::new(&private.endpoint(), &names());
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    producer.send(&job("long", "9000ms")).await;
    let why = worker.down().await;
    assert!(why.contains("consumer_timeout"), "{why}");
    worker.up().await;
    producer.send(&job("next", "x")).await;
    let next = producer.result().await;
    assert_eq!((next.id.as_str(), printed(&next).as_str()), ("next", "x"));
    let long = producer.result().await;
    assert_eq!((long.id.as_str(), long.verdict), ("long", Some(Verdict::Accepted)));
    worker.drain().await;
    assert_eq!((setup.ran_times("9000ms"), producer.left().await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_comes_back_loses_nothing() {
    let Some(private) = Private::start() else { return };
    private.ready().await;
    let setup = Setup::new(&private.endpoint(), &names());
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    let mut queued = Vec::new();
    for n in 0..10 {
        let id = format!("j{n}");
        let job = serde_json::to_vec(&job(&id, &format!("{}ms", 1000 + n))).unwrap();
        producer.send_bytes(&job, lapin::BasicProperties::default()).await;
        queued.push(id);
    }
    until("two run", async || setup.ran().len() >= 2).await;
    private.kill();
    drop(producer);
    worker.down().await;
    private.begin();
    private.ready().await;
    worker.up().await;
    let producer = setup.producer().await;
    let mut done = std::collections::BTreeMap::new();
    while done.len() < 10 {
        let message = producer.client.get(&setup.names.unclaimed()).await;
        let id = message.properties.message_id().as_ref().unwrap().to_string();
        if let Some(before) = done.insert(id, message.data.clone()) {
            assert_eq!(before, message.data, "a repeat is the same bytes");
        }
    }
    assert!(queued.iter().all(|id| done.contains_key(id)));
    assert_eq!(setup.ran().len(), 10, "each ran once: {:?}", setup.ran());
    worker.drain().await;
    assert_eq!(producer.left().await, 0);
}
