//! Cancelling jobs through a real RabbitMQ, wherever they are: each is ended at once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod amqp_rig;
mod broker;

use std::{collections::BTreeMap, time::Duration};

use amqp_rig::{Producer, Setup, job, printed, shared_ledger::SharedLedger};
use broker::{names, redis::Redis, until, vhost};
use hearth_schemas::result::{Cause, JobResult, Status, Step};
use hearth_worker::{
    amqp::{control::Control, publisher::Health},
    ledger::{Begun, FailedAttempt, JobKey, Ledger, Quotas, Registration, TenantLimits},
    route::Route,
    seams::{JobSource, Receipt, Settlement},
    service::serve,
};
use lapin::BasicProperties;
use tokio::time::Instant;

/// What a cancel may take on a machine that does nothing else.
const LIMIT: Duration = Duration::from_millis(250);

/// The longest of some round trips under what else the machine does: a refusal, which nobody has to wait for.
async fn round_trip(producer: &Producer) -> Duration {
    let mut longest = Duration::ZERO;
    for n in 0..5 {
        let sent = Instant::now();
        let properties = producer.properties().with_message_id(format!("refused-{n}").into());
        producer.send_bytes(b"nonsense", properties).await;
        assert_eq!(producer.result().await.status, Status::Refused);
        longest = longest.max(sent.elapsed());
    }
    longest
}

/// Cancels a job; its result, which must be there in time.
async fn cancelled(setup: &Setup, producer: &Producer, id: &str) -> JobResult {
    let before = round_trip(producer).await;
    let asked = Instant::now();
    let cancel = Control::Cancel { tenant: "default".into(), id: id.into() }.encode();
    producer.client.publish(&setup.names.control(), "", BasicProperties::default(), &cancel).await;
    let result = producer.result().await;
    let took = asked.elapsed();
    let after = round_trip(producer).await;
    println!("{id}: cancelled within {took:?}; a round trip takes {before:?} before, {after:?} after");
    assert!(took < LIMIT + 4 * before.max(after), "{id}: {took:?}, round trips {before:?} and {after:?}");
    assert_eq!((result.id.as_str(), result.status), (id, Status::Cancelled));
    result
}

/// Parked jobs, waiting ones and running ones, with two workers of whom only one can know the job.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_wait_and_jobs_that_run_are_ended_at_once_and_keep_their_output() {
    let (Some(vhost), Some(redis)) = (vhost(), Redis::start().await) else { return };
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let setup = Setup { ledger, slots: 1, ..Setup::new(&vhost.endpoint, &names()) };
    let workers = [setup.worker("w1").await, setup.worker("w2").await];
    let producer = setup.producer().await;
    for (id, input) in [("a", "60000ms"), ("b", "60001ms"), ("parked-1", "60002ms"), ("parked-2", "60003ms")]
    {
        producer.send(&job(id, input)).await;
        until("it runs, or waits in its queue", async || {
            setup.ran_times(input) == 1 || (setup.ran().len() == 2 && producer.left().await > 0)
        })
        .await;
    }
    until("two run and two wait", async || setup.ran().len() == 2 && producer.left().await == 2).await;
    for id in ["parked-2", "parked-1"] {
        let result = cancelled(&setup, &producer, id).await;
        assert_eq!((result.attempt, result.stages[0].run.cause), (0, Some(Cause::Cancelled)));
    }
    for id in ["a", "b"] {
        let result = cancelled(&setup, &producer, id).await;
        assert_eq!(result.attempt, 1);
        let input = if id == "a" { "60000ms" } else { "60001ms" };
        assert_eq!(printed(&result), input, "what it had printed by then");
    }
    until("nothing is left", async || producer.left().await == 0).await;
    for worker in workers {
        worker.drain().await;
    }
    assert_eq!(setup.ran().len(), 2, "what waited was never run");
}

/// A job that is set aside, since its tenant runs as much as it may; and one that nobody knows yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_its_tenant_is_ended_at_once() {
    let (Some(vhost), Some(redis)) = (vhost(), Redis::start().await) else { return };
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let default = TenantLimits { running_max: Some(1), starts: None };
    let quotas = Quotas { default, tenants: BTreeMap::new() };
    let setup = Setup { ledger, slots: 3, quotas, ..Setup::new(&vhost.endpoint, &names()) };
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    producer.send(&job("runs", "60000ms")).await;
    until("it runs", async || setup.ran().len() == 1).await;
    producer.send(&job("aside", "x")).await;
    until("it was fetched", async || {
        producer.left().await == 0 && redis.field("hearth:job:default/aside", "digest").await.is_some()
    })
    .await;
    assert_eq!(cancelled(&setup, &producer, "aside").await.attempt, 0);
    assert_eq!(cancelled(&setup, &producer, "runs").await.attempt, 1);
    // A cancel may come before its job.
    let early = Control::Cancel { tenant: "default".into(), id: "early".into() }.encode();
    producer.client.publish(&setup.names.control(), "", BasicProperties::default(), &early).await;
    let marked = "hearth:job:default/early";
    until("it is marked", async || redis.field(marked, "cancelled").await.as_deref() == Some("1")).await;
    producer.send(&job("early", "x")).await;
    let result = producer.result().await;
    assert_eq!((result.id.as_str(), result.status), ("early", Status::Cancelled));
    worker.drain().await;
    assert_eq!(setup.ran(), ["60000ms"]);
}

fn key(id: &str) -> JobKey {
    JobKey { tenant: "default".into(), id: id.into() }
}

/// What `handle` does after a failure of ours, with a pause that is long enough to look at.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_in_backoff_after_a_failure_of_ours_is_ended_at_once() {
    let (Some(vhost), Some(redis)) = (vhost(), Redis::start().await) else { return };
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let setup = Setup { ledger, ..Setup::new(&vhost.endpoint, &names()) };
    let (service, mut source, task) = setup.service("w1");
    source.set_credit("python", 1);
    let mut health = source.health().watch();
    health.wait_for(|health| *health == Health::Up).await.unwrap();
    let producer = setup.producer().await;
    producer.send(&job("fails", "x")).await;
    let delivery = source.next().await.unwrap();
    let route = Route { reply_to: Some(producer.replies.clone()), ..Route::default() };
    let registration = Registration { route: route.encode(), ..Registration::default() };
    let digest = service.intake().job(&delivery.body, &delivery.properties, "-").unwrap().digest;
    let begun = setup.ledger.begin_with(&key("fails"), &digest, "w1", &registration).await.unwrap();
    let Begun::Begun { token, .. } = begun else { panic!("{begun:?}") };
    let failed = FailedAttempt {
        worker: "w1".into(),
        step: Step::Upload,
        message: "it broke".into(),
        failed_unix_ms: 1,
        took_ms: Duration::from_millis(1).into(),
        counted: true,
    };
    setup.ledger.give_back(&token, failed).await.unwrap();
    let retry = Settlement::Retry { after: Duration::from_secs(3), elsewhere: true };
    let backoff = tokio::spawn(delivery.receipt.settle(retry));
    let (drain, drained) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(service, source, 256, async move { drained.await.unwrap() }));
    let result = cancelled(&setup, &producer, "fails").await;
    assert!(!backoff.is_finished(), "its backoff was not over");
    assert_eq!(result.attempt, 0);
    backoff.await.unwrap();
    until("its message is settled", async || producer.left().await == 0).await;
    drain.send(()).unwrap();
    serving.await.unwrap();
    task.await.unwrap();
    assert_eq!(setup.ran().len(), 0);
}
