//! What RabbitMQ and its client do that one would not think, each shown as it is: why Hearth does what it does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod broker;

use std::time::Duration;

use broker::{Client, prefix, until, vhost};
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::timeout;

/// Longer than anything here takes that happens at all.
const LONG_ENOUGH: Duration = Duration::from_millis(1500);

async fn quorum(channel: &Channel, more: &[(&str, AMQPValue)]) -> String {
    let (name, mut arguments) = (prefix(), FieldTable::default());
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for (argument, value) in more {
        arguments.insert((*argument).into(), value.clone());
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.as_str().into(), options, arguments).await.unwrap();
    name
}

async fn consume(channel: &Channel, queue: &str) -> Consumer {
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    channel.basic_consume(queue.into(), "".into(), options, arguments).await.unwrap()
}

/// Why a message's `expiration` is dropped, and deadlines are the ledger's.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_short_time_behind_one_with_a_long_time_does_not_expire() {
    let Some(vhost) = vhost() else { return };
    let client = Client::new(&vhost.endpoint).await;
    let queue = quorum(&client.channel, &[]).await;
    for expiration in ["60000", "100"] {
        let properties = BasicProperties::default().with_expiration(expiration.into());
        client.publish("", &queue, properties, b"x").await;
    }
    tokio::time::sleep(LONG_ENOUGH).await;
    assert_eq!(client.count(&queue).await, 2, "it is there long after its time");
    client.get(&queue).await;
    until("at the head it expires", async || client.count(&queue).await == 0).await;
}

/// Why a ticket is a consumer of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_consumers_prefetch_does_not_change() {
    let Some(vhost) = vhost() else { return };
    let client = Client::new(&vhost.endpoint).await;
    let queue = quorum(&client.channel, &[]).await;
    let channel = client.link.channel().await.unwrap();
    channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    let mut consumer = consume(&channel, &queue).await;
    channel.basic_qos(5, BasicQosOptions::default()).await.unwrap();
    for _ in 0..5 {
        client.publish("", &queue, BasicProperties::default(), b"x").await;
    }
    let first = consumer.next().await.unwrap().unwrap();
    assert!(timeout(LONG_ENOUGH, consumer.next()).await.is_err(), "it still has a prefetch of one");
    // A delivery that is dropped is not given back until its channel closes.
    let acker = first.acker.clone();
    drop(first);
    assert!(timeout(LONG_ENOUGH, consumer.next()).await.is_err());
    assert!(acker.ack(BasicAckOptions::default()).await.unwrap());
    consumer.next().await.unwrap().unwrap();
    assert!(!acker.ack(BasicAckOptions::default()).await.unwrap_or(false), "spent once, it is stale");
}

/// Why the broker's limit is only a backstop, and attempts are counted in the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_only_fetched_by_workers_that_died_counts_as_delivered() {
    let Some(vhost) = vhost() else { return };
    let client = Client::new(&vhost.endpoint).await;
    let fallen = quorum(&client.channel, &[]).await;
    let arguments = [
        ("x-delivery-limit", AMQPValue::LongInt(2)),
        ("x-dead-letter-exchange", AMQPValue::LongString("".into())),
        ("x-dead-letter-routing-key", AMQPValue::LongString(fallen.as_str().into())),
    ];
    let queue = quorum(&client.channel, &arguments).await;
    for n in 0..2 {
        client.publish("", &queue, BasicProperties::default(), format!("{n}").as_bytes()).await;
    }
    for _ in 0..3 {
        until("both are ready", async || client.count(&queue).await == 2).await;
        let dies = Client::new(&vhost.endpoint).await;
        dies.channel.basic_qos(10, BasicQosOptions::default()).await.unwrap();
        // It looks at the first only; the second is merely fetched.
        let mut consumer = consume(&dies.channel, &queue).await;
        consumer.next().await.unwrap().unwrap();
        until("both are fetched", async || client.count(&queue).await == 0).await;
    }
    until("both have fallen", async || client.count(&fallen).await == 2).await;
}
