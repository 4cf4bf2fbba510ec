//! Topology and results against a real RabbitMQ.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod broker;

use broker::{Client, Private, names, until, vhost};
use hearth_worker::{
    amqp::{
        declare::{apply, check},
        link::{Endpoint, Link},
        names::Names,
        publisher::{Confirmed, NotPublished, Publisher},
        reply::ReplyRule,
        sink::AmqpSink,
        topology::{Argument, Topology},
    },
    seams::{Properties, Publication, ResultSink},
};
use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, QueueDeleteOptions},
};

async fn declared(endpoint: &Endpoint, names: &Names) -> Topology {
    let topology = Topology::new(names, ["python"], 1);
    let link = Link::open(endpoint, "test").await.unwrap();
    apply(&link.channel().await.unwrap(), &topology).await.unwrap();
    topology
}

fn sink(endpoint: &Endpoint, names: &Names) -> AmqpSink {
    let rule = ReplyRule::new(names.clone(), vec!["*".into()]);
    AmqpSink::new(Publisher::new(endpoint.clone(), "test results"), names.clone(), rule)
}

fn publication(id: &str, reply_to: Option<&str>) -> Publication {
    Publication {
        body: format!(
            r#"{{"version":1,"id":"{id}","tenant":"acme","runtime":"python","status":"finished"}}"#
        )
        .into(),
        tenant: "acme".into(),
        id: id.into(),
        properties: Properties {
            reply_to: reply_to.map(Into::into),
            correlation_id: Some("c-1".into()),
            ..Properties::default()
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn declaring_is_idempotent_and_checking_tells_what_is_absent_or_different() {
    let Some(vhost) = vhost() else { return };
    let names = names();
    let link = Link::open(&vhost.endpoint, "test").await.unwrap();
    let topology = Topology::new(&names, ["python"], 2);
    let lacks = check(&link, &topology).await.unwrap();
    assert_eq!(lacks.len(), 6 + 4 + 6);
    assert!(lacks.iter().all(|lack| lack.absent));
    for _ in 0..2 {
        apply(&link.channel().await.unwrap(), &topology).await.unwrap();
    }
    assert_eq!(check(&link, &topology).await.unwrap(), []);
    let mut other = topology.clone();
    other.queues[3].arguments.insert("x-delivery-limit", Argument::Number(7));
    let lacks = check(&link, &other).await.unwrap();
    assert_eq!((lacks.len(), lacks[0].absent), (1, false));
    assert!(lacks[0].message.contains("x-delivery-limit"), "{}", lacks[0].message);
    let refused = apply(&link.channel().await.unwrap(), &other).await.unwrap_err();
    assert!(refused.to_string().contains(&names.intake()), "{refused}");
    assert_eq!(check(&link, &topology).await.unwrap(), [], "nothing was changed");
}

/// The trap: an unroutable message is acknowledged, also without `mandatory`, where it is lost without a word.
#[tokio::test(flavor = "multi_thread")]
async fn confirmed_is_not_routed() {
    let Some(vhost) = vhost() else { return };
    let client = Client::new(&vhost.endpoint).await;
    let options = BasicPublishOptions::default();
    let lost = client.channel.basic_publish(
        "".into(),
        "no-such-queue".into(),
        options,
        b"x",
        BasicProperties::default(),
    );
    let confirmation = lost.await.unwrap().await.unwrap();
    assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "confirmed and lost");
    let publisher = Publisher::new(vhost.endpoint.clone(), "test");
    let sent = publisher.publish("", "no-such-queue", BasicProperties::default(), b"x").await;
    assert_eq!(sent.unwrap(), Confirmed::Unroutable);
    let queue = client.own_queue().await;
    // Others cannot reach an exclusive queue by name, but they can publish to it.
    let sent = publisher.publish("", &queue, BasicProperties::default(), b"x").await;
    assert_eq!(sent.unwrap(), Confirmed::Routed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_goes_where_the_producer_said_with_its_correlation_id() {
    let Some(vhost) = vhost() else { return };
    let names = names();
    declared(&vhost.endpoint, &names).await;
    let client = Client::new(&vhost.endpoint).await;
    let queue = client.own_queue().await;
    sink(&vhost.endpoint, &names).publish(&publication("j1", Some(&queue))).await.unwrap();
    let message = client.get(&queue).await;
    assert_eq!(message.data, publication("j1", None).body);
    let properties = &message.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "j1");
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "c-1");
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(client.count(&names.unclaimed()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_without_a_place_goes_to_whoever_bound_it_else_it_is_kept() {
    let Some(vhost) = vhost() else { return };
    let names = names();
    declared(&vhost.endpoint, &names).await;
    let client = Client::new(&vhost.endpoint).await;
    let sink = sink(&vhost.endpoint, &names);
    let ours = names.dead();
    for (id, reply_to) in [("absent", None), ("gone", Some("no-such-queue")), ("ours", Some(ours.as_str()))] {
        sink.publish(&publication(id, reply_to)).await.unwrap();
        let message = client.get(&names.unclaimed()).await;
        assert_eq!(message.properties.message_id().as_ref().unwrap().as_str(), id);
        assert_eq!(message.routing_key.as_str(), "acme.python.finished");
    }
    assert_eq!(client.count(&names.dead()).await, 0, "never into our own queues");
    let queue = client.own_queue().await;
    let bound = client.channel.queue_bind(
        queue.as_str().into(),
        names.results().as_str().into(),
        "acme.*.finished".into(),
        lapin::options::QueueBindOptions::default(),
        lapin::types::FieldTable::default(),
    );
    bound.await.unwrap();
    sink.publish(&publication("bound", None)).await.unwrap();
    client.get(&queue).await;
    assert_eq!(client.count(&names.unclaimed()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_no_queue_takes_is_an_error() {
    let Some(vhost) = vhost() else { return };
    let names = names();
    declared(&vhost.endpoint, &names).await;
    let client = Client::new(&vhost.endpoint).await;
    let deleted =
        client.channel.queue_delete(names.unclaimed().as_str().into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    let error = sink(&vhost.endpoint, &names).publish(&publication("j", None)).await.unwrap_err();
    assert!(error.to_string().contains("no queue"), "{error}");
}

/// The broker is killed with results on their way, is away, comes back, is short of memory, and gets well again.
#[tokio::test(flavor = "multi_thread")]
async fn results_wait_on_disk_while_the_broker_is_away() {
    let Some(private) = Private::start() else { return };
    private.ready().await;
    let names = names();
    declared(&private.endpoint(), &names).await;
    let directory = tempfile::tempdir().unwrap();
    let sink = sink(&private.endpoint(), &names).with_spool(directory.path(), 1 << 20).unwrap();
    sink.publish(&publication("before", None)).await.unwrap();
    private.kill();
    for id in ["one", "two", "two"] {
        sink.publish(&publication(id, None)).await.unwrap_err();
    }
    assert_eq!(sink.spooled(), 2);
    let (marks, mut marked) = tokio::sync::mpsc::channel(10);
    let draining = tokio::spawn({
        let sink = sink.clone();
        async move {
            sink.publish_spooled(|publication| {
                let marks = marks.clone();
                async move { marks.send(publication.id).await.is_ok() }
            })
            .await
        }
    });
    private.begin();
    private.ready().await;
    assert_eq!(marked.recv().await.unwrap(), "one");
    assert_eq!(marked.recv().await.unwrap(), "two");
    let client = Client::new(&private.endpoint()).await;
    for id in ["before", "one", "two"] {
        let message = client.get(&names.unclaimed()).await;
        assert_eq!(message.properties.message_id().as_ref().unwrap().as_str(), id);
    }
    until("the spool is empty", async || sink.spooled() == 0).await;

    private.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
    let publisher = Publisher::new(private.endpoint(), "blocked");
    publisher.connect().await.unwrap();
    // The broker says that it is blocked when somebody publishes, and not before.
    let blocked = publisher.publish(&names.results(), "a.b.c", BasicProperties::default(), b"{}").await;
    assert!(matches!(blocked, Err(NotPublished::Blocked { .. })), "{blocked:?}");
    sink.publish(&publication("blocked", None)).await.unwrap_err();
    private.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    assert_eq!(marked.recv().await.unwrap(), "blocked");
    draining.abort();
}
