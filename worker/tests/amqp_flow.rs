//! Whole jobs through a real RabbitMQ, over fake VMs.

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

use amqp_rig::{Setup, job, printed};
use broker::{names, until, vhost};
use hearth_schemas::{
    job::Lane,
    result::{RefusalCode, Status, Verdict},
};
use hearth_worker::{
    amqp::control::Control,
    seams::{JobSource, Receipt, Settled, Settlement},
};
use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_in_and_its_one_result_comes_out() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup::new(&vhost.endpoint, &names());
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    let properties = producer.properties().with_correlation_id("c-7".into()).with_user_id("guest".into());
    producer.send_bytes(&serde_json::to_vec(&job("j", "hello")).unwrap(), properties).await;
    let message = producer.client.get(&producer.replies).await;
    assert_eq!(message.properties.correlation_id().as_ref().unwrap().as_str(), "c-7");
    let result: hearth_schemas::result::JobResult = serde_json::from_slice(&message.data).unwrap();
    assert_eq!(
        (result.id.as_str(), result.tenant.as_str(), printed(&result).as_str()),
        ("j", "guests", "hello")
    );
    assert_eq!((result.verdict, result.worker.as_deref()), (Some(Verdict::Accepted), Some("w1")));
    // Without an id anywhere it gets one.
    producer.send(&json!({"runtime": "python", "code": "x"})).await;
    assert_eq!(producer.result().await.id.len(), 26);
    // The same again gets the stored result, another request with its id a refusal.
    producer.send(&json!({"id": "k", "runtime": "python", "code": "x"})).await;
    let first = producer.result().await;
    producer.send(&json!({"id": "k", "runtime": "python", "code": "x"})).await;
    assert_eq!(producer.result().await, first);
    producer.send(&json!({"id": "k", "runtime": "python", "code": "y"})).await;
    assert_eq!(producer.result().await.refusal.unwrap().code, RefusalCode::IdConflict);
    worker.drain().await;
    assert_eq!(producer.left().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_where_one_can_tell_whom_and_buried_otherwise() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup::new(&vhost.endpoint, &names());
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    let nonsense = vec![b'['; 16 * 1024 * 1024];
    let impossible =
        serde_json::to_vec(&json!({"runtime": "python", "code": "x", "limits": {"memory_mib": 1_000_000}}));
    for (id, body, code) in [
        ("not-json", b"nonsense".to_vec(), RefusalCode::Malformed),
        ("version", br#"{"version": 2, "runtime": "python"}"#.to_vec(), RefusalCode::Version),
        ("large", nonsense, RefusalCode::Invalid),
        ("limit", impossible.unwrap(), RefusalCode::Invalid),
    ] {
        producer.send_bytes(&body, producer.properties().with_message_id(id.into())).await;
        let result = producer.result().await;
        assert_eq!((result.id.as_str(), result.status), (id, Status::Refused));
        assert_eq!(result.refusal.unwrap().code, code, "{id}");
    }
    // Nobody to tell.
    producer.send_bytes(b"nonsense", BasicProperties::default()).await;
    let dead = producer.client.get(&setup.names.dead()).await;
    let headers = dead.properties.headers().clone().unwrap();
    let reason = match &headers.inner()["hearth-reason"] {
        AMQPValue::LongString(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
        other => panic!("{other:?}"),
    };
    assert!(dead.data == b"nonsense" && reason.contains("nobody to tell"), "{reason}");
    // Into our own queues: the refusal goes to the exchange of results.
    let own = BasicProperties::default().with_reply_to(setup.names.dead().as_str().into());
    producer.send_bytes(&serde_json::to_vec(&job("mine", "x")).unwrap(), own).await;
    let refused = producer.client.get(&setup.names.unclaimed()).await;
    assert_eq!(refused.routing_key.as_str(), "default.python.refused");
    assert!(String::from_utf8_lossy(&refused.data).contains("reply_to"));
    assert_eq!(producer.client.count(&setup.names.dead()).await, 0);
    worker.drain().await;
    assert_eq!((producer.left().await, setup.ran().len()), (0, 0), "no VM was touched, nothing comes again");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_jobs_than_slots_wait_in_lanes_and_tenants_take_turns() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup { slots: 1, ..Setup::new(&vhost.endpoint, &names()) };
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    let send = async |id: String, lane: &str, tenant: &str| {
        let mut job = job(&id, &id);
        job["lane"] = lane.into();
        job["tenant"] = tenant.into();
        producer.send(&job).await;
    };
    // Tenants "a" and "b" have different shards of the two.
    assert_ne!(hearth_worker::amqp::names::shard("a", 2), hearth_worker::amqp::names::shard("b", 2));
    for n in 0..60 {
        send(format!("a-batch-{n}"), "batch", "a").await;
    }
    for n in 0..60 {
        send(format!("a-{n}"), "normal", "a").await;
    }
    for n in 0..5 {
        send(format!("b-{n}"), "normal", "b").await;
    }
    let results = producer.results(125).await;
    assert!(results.values().all(|result| result.verdict == Some(Verdict::Accepted)));
    let ran = setup.ran();
    assert_eq!(ran.len(), 125, "each once");
    let place = |id: &str| ran.iter().position(|ran| ran == id).unwrap();
    assert!(place("b-4") < place("a-50"), "b's few jobs do not wait for a's many: {ran:?}");
    let batch_before = ran[..place("a-59")].iter().filter(|id| id.starts_with("a-batch")).count();
    assert!((2..59).contains(&batch_before), "batch has turns, and not most of them: {batch_before}");
    worker.drain().await;
    assert_eq!(producer.left().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_held_is_done_by_another() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup::new(&vhost.endpoint, &names());
    let first = setup.worker("w1").await;
    let producer = setup.producer().await;
    // The first ones are still at it when the worker is killed, however late this test comes to do that.
    for n in 0..20 {
        let takes_ms = if n < 4 { 5000 + n } else { 300 + n };
        producer.send(&job(&format!("j{n}"), &format!("{takes_ms}ms"))).await;
    }
    until("two jobs run", async || setup.ran().len() >= 2).await;
    first.kill().await;
    let killed = Instant::now();
    let second = setup.worker("w2").await;
    let results = producer.results(20).await;
    assert!(results.values().all(|result| result.status == Status::Finished));
    assert!(results.values().any(|result| result.attempt == 2), "a begun job is the next attempt");
    eprintln!("all done {:?} after the kill", killed.elapsed());
    // A job that was parked and not yet acknowledged when the worker died is there twice.
    until("copies are settled", async || producer.left().await == 0).await;
    second.drain().await;
    assert_eq!(producer.left().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_finishes_what_runs_and_gives_back_the_rest() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup { slots: 1, ..Setup::new(&vhost.endpoint, &names()) };
    let first = setup.worker("w1").await;
    let producer = setup.producer().await;
    for n in 0..12 {
        producer.send(&job(&format!("j{n}"), &format!("{}ms", 400 + n))).await;
    }
    until("one runs", async || !setup.ran().is_empty()).await;
    first.drain().await;
    let done = setup.ran().len();
    assert!(done < 4, "it took nothing more: {done}");
    let second = setup.worker("w2").await;
    let results = producer.results(12).await;
    assert!(results.values().all(|result| result.attempt == 1), "none was begun twice");
    assert_eq!(setup.ran().len(), 12);
    second.drain().await;
    assert_eq!(producer.left().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_queued_and_running_jobs_at_once() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup { slots: 1, ..Setup::new(&vhost.endpoint, &names()) };
    let workers = [setup.worker("w1").await, setup.worker("w2").await];
    let producer = setup.producer().await;
    for (id, input) in [("a", "60000ms"), ("b", "60001ms"), ("c", "60002ms")] {
        producer.send(&job(id, input)).await;
    }
    // A cancel that overtakes its job's registration may end it twice, with the same bytes.
    until("both VMs are busy and the third waits", async || {
        setup.ran().len() == 2 && producer.left().await == 1
    })
    .await;
    for id in ["c", "b", "a"] {
        let asked = Instant::now();
        let cancel = Control::Cancel { tenant: "default".into(), id: id.into() }.encode();
        producer.client.publish(&setup.names.control(), "", BasicProperties::default(), &cancel).await;
        let result = producer.result().await;
        assert_eq!((result.id.as_str(), result.status), (id, Status::Cancelled));
        assert!(asked.elapsed() < Duration::from_secs(2), "{id}: {:?}", asked.elapsed());
        eprintln!("{id} cancelled after {:?}", asked.elapsed());
    }
    for worker in workers {
        worker.drain().await;
    }
    assert_eq!(
        setup.ran_times("60002ms"),
        usize::from(setup.ran().len() == 3),
        "c was cancelled while it waited"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_deadline_passes_in_the_queue_expires_in_time() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup { slots: 1, ..Setup::new(&vhost.endpoint, &names()) };
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    producer.send(&job("long", "8000ms")).await;
    until("it runs", async || !setup.ran().is_empty()).await;
    let sent = Instant::now();
    let mut late = job("late", "x");
    late["deadline_ms"] = 500.into();
    producer.send(&late).await;
    let result = producer.result().await;
    assert_eq!((result.id.as_str(), result.status), ("late", Status::Expired));
    assert!(sent.elapsed() < Duration::from_millis(5500), "{:?}", sent.elapsed());
    // One that was sent long ago is late when it comes.
    let properties = producer.properties().with_timestamp(1_000_000_000);
    producer.send_bytes(&serde_json::to_vec(&job("old", "x")).unwrap(), properties).await;
    assert_eq!(producer.result().await.status, Status::Expired);
    assert_eq!(producer.result().await.id, "long");
    worker.drain().await;
    assert_eq!(setup.ran(), ["8000ms"]);
}

/// The traps: the limit counts deliveries that were merely prefetched, and a message that exceeds it may be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_broker_gives_up_on_gets_a_result_and_is_kept_for_people() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup::new(&vhost.endpoint, &names());
    setup.worker("w0").await.drain().await;
    let producer = setup.producer().await;
    producer.send(&job("falls", "x")).await;
    let mut deliveries = 0;
    until("the broker gives up", async || {
        let got = producer
            .client
            .channel
            .basic_get(setup.names.intake().as_str().into(), BasicGetOptions::default());
        if let Some(message) = got.await.unwrap() {
            deliveries += 1;
            message.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await.unwrap();
        }
        producer.client.count(&setup.names.fallen()).await == 1
    })
    .await;
    assert_eq!(deliveries, 51, "a limit of 50 allows one more");
    let worker = setup.worker("w1").await;
    let result = producer.result().await;
    assert_eq!((result.id.as_str(), result.status), ("falls", Status::InfraError));
    assert!(result.infra_error.unwrap().message.contains("delivery_limit"));
    let dead = producer.client.get(&setup.names.dead()).await;
    assert_eq!(dead.data, serde_json::to_vec(&job("falls", "x")).unwrap());
    worker.drain().await;
    assert_eq!((producer.left().await, setup.ran().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_failed_at_a_job_leaves_it_to_another() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup::new(&vhost.endpoint, &names());
    let (_service1, mut source1, task1) = setup.service("w1");
    let (_service2, mut source2, task2) = setup.service("w2");
    source1.set_credit("python", 1);
    until("the first is up", async || {
        *source1.health().watch().borrow() == hearth_worker::amqp::publisher::Health::Up
    })
    .await;
    let producer = setup.producer().await;
    producer.send(&job("j", "x")).await;
    let failed = source1.next().await.unwrap();
    source2.set_credit("python", 1);
    until("the second is up", async || {
        *source2.health().watch().borrow() == hearth_worker::amqp::publisher::Health::Up
    })
    .await;
    let retry = Settlement::Retry { after: Duration::from_millis(10), elsewhere: true };
    assert_eq!(failed.receipt.settle(retry).await, Settled::Taken);
    let delivery = tokio::select! {
        delivery = source2.next() => delivery.unwrap(),
        _ = source1.next() => panic!("the one that failed got it again"),
    };
    assert_eq!(delivery.properties.message_id.as_deref(), Some("j"));
    assert_eq!(delivery.properties.reply_to.as_ref(), Some(&producer.replies));
    // Dropped unspent, it comes again; spent twice is not possible.
    drop(delivery);
    let again = tokio::time::timeout(Duration::from_secs(20), async {
        tokio::select! {
            delivery = source2.next() => delivery.unwrap(),
            delivery = source1.next() => delivery.unwrap(),
        }
    });
    let again = again.await.unwrap();
    assert!(again.properties.redelivered);
    assert_eq!(again.receipt.settle(Settlement::Ack).await, Settled::Taken);
    drop((source1, source2));
    task1.await.unwrap();
    task2.await.unwrap();
    assert_eq!(producer.left().await, 0);
}

/// Why tickets are consumers of their own: a channel's shared limit is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_for_all_consumers_of_a_channel_is_refused_on_quorum_queues() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup::new(&vhost.endpoint, &names());
    setup.worker("w0").await.drain().await;
    let producer = setup.producer().await;
    let channel = producer.client.link.channel().await.unwrap();
    channel.basic_qos(1, BasicQosOptions { global: true }).await.unwrap();
    let queue = setup.names.run("python", Lane::Normal, 0);
    let consumer = channel
        .basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await;
    assert!(consumer.unwrap_err().to_string().contains("NOT_IMPLEMENTED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_declared_again() {
    let Some(vhost) = vhost() else { return };
    let setup = Setup::new(&vhost.endpoint, &names());
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    producer.send(&job("before", "x")).await;
    assert_eq!(producer.result().await.id, "before");
    for queue in [setup.names.intake(), setup.names.run("python", Lane::Normal, 1)] {
        let mut health = worker.health.watch();
        health.mark_unchanged();
        let deleted = producer.client.channel.queue_delete(queue.as_str().into(), Default::default());
        deleted.await.unwrap();
        health.wait_for(|health| *health != hearth_worker::amqp::publisher::Health::Up).await.unwrap();
        worker.up().await;
        producer.send(&job(&queue.replace('.', "-"), "x")).await;
        assert_eq!(producer.result().await.id, queue.replace('.', "-"));
    }
    worker.drain().await;
}
