//! Tenants through a real RabbitMQ, their limits counted in a real Redis, over fake VMs.

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
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use amqp_rig::{Producer, Setup, job, shared_ledger::SharedLedger};
use broker::{names, redis::Redis, until, until_within, vhost};
use hearth_schemas::result::{JobResult, Verdict};
use hearth_worker::{
    amqp::names::shard,
    ledger::{Ledger, Quotas, Rate, TenantLimits},
};
use serde_json::Value;
use tokio::time::Instant;

fn quotas(tenant: &str, limits: TenantLimits) -> Quotas {
    Quotas { tenants: BTreeMap::from([(tenant.to_owned(), limits)]), ..Quotas::default() }
}

fn of(tenant: &str, id: &str, input: &str) -> Value {
    let mut job = job(id, input);
    job["tenant"] = tenant.into();
    job
}

/// Looks on all the time until a producer has its results: the most jobs of a tenant that ran at once.
async fn watched(
    setup: &Setup,
    producer: &Producer,
    tenant: &str,
    count: usize,
) -> (usize, BTreeMap<String, JobResult>) {
    let most = AtomicUsize::new(0);
    let watch = async {
        loop {
            let running = setup.ledger.running(tenant).await.unwrap() as usize;
            most.fetch_max(running, Ordering::SeqCst);
        }
    };
    tokio::select! {
        results = producer.results(count) => (most.load(Ordering::SeqCst), results),
        () = watch => unreachable!(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_at_its_limit_waits_over_all_workers_and_is_in_nobodys_way() {
    let (Some(vhost), Some(redis)) = (vhost(), Redis::start().await) else { return };
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let limits = TenantLimits { running_max: Some(2), starts: None };
    let base = Setup::new(&vhost.endpoint, &names());
    let setup = Setup { ledger, slots: 3, quotas: quotas("busy", limits), ..base };
    let workers = [setup.worker("w1").await, setup.worker("w2").await];
    let producer = setup.producer().await;
    for n in 0..30 {
        producer.send(&of("busy", &format!("busy-{n}"), &format!("{}ms", 150 + n))).await;
    }
    until("two run", async || setup.ledger.running("busy").await.unwrap() == 2).await;
    // Six slots, two of them busy's: the others' jobs have the rest, though 28 of busy's wait.
    let other = setup.producer().await;
    for n in 0..20 {
        other.send(&of("other", &format!("other-{n}"), &format!("other-{n}"))).await;
    }
    other.results(20).await;
    let busy_left = setup.ledger.running("busy").await.unwrap();
    assert!(busy_left > 0, "others do not wait until busy's jobs are done");
    let (most, results) = watched(&setup, &producer, "busy", 30).await;
    assert_eq!(most, 2, "as many as may, and not fewer");
    assert!(results.values().all(|result| result.verdict == Some(Verdict::Accepted)), "none is refused");
    assert!(results.values().all(|result| result.attempt == 1));
    for worker in workers {
        worker.drain().await;
    }
    assert_eq!((setup.ran().len(), producer.left().await), (50, 0), "each ran once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_jobs_begin_at_its_rate_over_all_workers() {
    let (Some(vhost), Some(redis)) = (vhost(), Redis::start().await) else { return };
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let rate = Rate { per_minute: 300, burst: 2 };
    let limits = TenantLimits { running_max: None, starts: Some(rate) };
    let base = Setup::new(&vhost.endpoint, &names());
    let setup = Setup { ledger, slots: 4, quotas: quotas("paced", limits), ..base };
    let workers = [setup.worker("w1").await, setup.worker("w2").await];
    let producer = setup.producer().await;
    let began = Instant::now();
    for n in 0..17 {
        producer.send(&of("paced", &format!("p{n}"), &format!("p{n}"))).await;
    }
    let results = producer.results(17).await;
    let took = began.elapsed();
    assert!(results.values().all(|result| result.verdict == Some(Verdict::Accepted)));
    // Two at once, then fifteen at five a second.
    assert!(took >= Duration::from_millis(2800), "{took:?}");
    for worker in workers {
        worker.drain().await;
    }
    assert_eq!((setup.ran().len(), producer.left().await), (17, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_gives_back_what_waits_for_its_tenant() {
    let (Some(vhost), Some(redis)) = (vhost(), Redis::start().await) else { return };
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let limits = TenantLimits { running_max: Some(1), starts: None };
    let base = Setup::new(&vhost.endpoint, &names());
    let setup = Setup { ledger, slots: 2, quotas: quotas("t", limits), ..base };
    let first = setup.worker("w1").await;
    let producer = setup.producer().await;
    for n in 0..6 {
        producer.send(&of("t", &format!("j{n}"), &format!("{}ms", 700 + n))).await;
    }
    until("one runs and others are fetched", async || setup.ran().len() == 1 && producer.left().await < 5)
        .await;
    first.drain().await;
    assert!(setup.ran().len() <= 2, "it began nothing more: {:?}", setup.ran());
    let second = setup.worker("w2").await;
    let results = producer.results(6).await;
    assert!(results.values().all(|result| result.attempt == 1));
    second.drain().await;
    assert_eq!((setup.ran().len(), producer.left().await), (6, 0));
}

/// Fair share inside a lane, with tenants that would wait in one queue if there were no others.
#[tokio::test(flavor = "multi_thread")]
async fn ten_jobs_start_within_ten_job_lengths_of_a_tenant_whose_many_wait() {
    let (Some(vhost), Some(redis)) = (vhost(), Redis::start().await) else { return };
    let ledger = SharedLedger::Redis(redis.ledger().await);
    let setup = Setup { ledger, slots: 4, shards: 4, ..Setup::new(&vhost.endpoint, &names()) };
    let few = (0..).map(|n| format!("few{n}")).find(|few| shard(few, 4) == shard("many", 4)).unwrap();
    let many = if broker::full() { 100_000 } else { 5_000 };
    let worker = setup.worker("w1").await;
    let producer = setup.producer().await;
    let began = Instant::now();
    producer.send_many((0..many).map(|n| of("many", &format!("many-{n}"), "400ms"))).await;
    let sent = began.elapsed();
    let intake = setup.names.intake();
    until_within("all of them wait", Duration::from_secs(600), async || {
        producer.client.count(&intake).await == 0
    })
    .await;
    println!("{many} jobs sent in {sent:?}, parked after {:?}", began.elapsed());
    let (ran_before, asked) = (setup.ran().len(), Instant::now());
    for n in 0..10 {
        producer.send(&of(&few, &format!("few-{n}"), &format!("few-{n}"))).await;
    }
    until("ten have started", async || (0..10).all(|n| setup.ran_times(&format!("few-{n}")) == 1)).await;
    let ran = setup.ran();
    let last = ran.iter().rposition(|ran| ran.starts_with("few-")).unwrap();
    println!("ten started within {:?} and {} starts", asked.elapsed(), last + 1 - ran_before);
    assert!(
        last < ran_before + 10 * 4,
        "ten job lengths on four VMs are 40 starts: {:?}",
        &ran[ran_before..]
    );
    worker.kill().await;
}
