//! Who may do what: users of a real RabbitMQ with the permissions that are documented, and whom a job belongs to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod amqp_rig;
mod broker;

use amqp_rig::{Producer, Setup, job};
use broker::{Client, names, until, vhost};
use hearth_schemas::{
    job::Lane,
    result::{JobResult, Status},
};
use hearth_worker::amqp::{
    control::Control,
    dead::{Act, each},
    link::Link,
    names::{LANES, Names},
    permissions::Permissions,
};
use lapin::{
    BasicProperties,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldArray, FieldTable},
};

/// What the broker says to a message; nothing when it takes it.
async fn refusal(link: &Link, exchange: &str, key: &str) -> Option<String> {
    let channel = link.channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default();
    match channel.basic_publish(exchange.into(), key.into(), options, b"x", properties).await {
        Ok(sent) => sent.await.err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

/// Every queue and exchange that must be a worker's alone to write.
fn workers_alone(names: &Names) -> Vec<(String, String)> {
    let queues = [names.intake(), names.dead(), names.fallen(), names.unclaimed()];
    let run = LANES.map(|lane| names.run("python", lane, 0));
    let straight = queues.into_iter().chain(run).map(|queue| (String::new(), queue));
    let exchanges = [names.results(), names.unclaimed(), names.events(), names.retried()];
    straight.chain(exchanges.into_iter().map(|exchange| (exchange, "a.b.c".to_owned()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_documented_permissions_a_worker_works_and_a_producer_can_only_send_jobs() {
    let Some(vhost) = vhost() else { return };
    let names = names();
    let users = Permissions::all(&names).map(|permissions| vhost.user(&permissions));
    let [works, produces, operates] = &users;
    let setup = Setup::new(&works.endpoint, &names);
    let worker = setup.worker("w1").await;
    let producer = Producer::new(&produces.endpoint, &setup).await;
    producer.send(&job("j", "hello")).await;
    assert_eq!(producer.result().await.status, Status::Finished);
    for (exchange, key) in workers_alone(&names) {
        let said = refusal(&producer.client.link, &exchange, &key).await;
        assert!(
            said.as_ref().is_some_and(|said| said.contains("ACCESS_REFUSED")),
            "{exchange} {key}: {said:?}"
        );
    }
    let said = refusal(&producer.client.link, &names.control(), "").await.expect("a cancel is believed");
    assert!(said.contains("ACCESS_REFUSED"), "{said}");
    // Nor may it read what is not its own, or delete it.
    for queue in [names.dead(), names.intake(), names.run("python", Lane::Normal, 0), names.unclaimed()] {
        let channel = producer.client.link.channel().await.unwrap();
        let options = BasicConsumeOptions::default();
        let consumed =
            channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
        assert!(consumed.await.unwrap_err().to_string().contains("ACCESS_REFUSED"), "{queue}");
        let channel = producer.client.link.channel().await.unwrap();
        let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
        assert!(deleted.unwrap_err().to_string().contains("ACCESS_REFUSED"), "{queue}");
        let channel = producer.client.link.channel().await.unwrap();
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let name = format!("{queue}.more");
        let declared = channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await;
        assert!(declared.unwrap_err().to_string().contains("ACCESS_REFUSED"), "{queue}");
    }
    // An operator can cancel.
    let operator = Client::new(&operates.endpoint).await;
    producer.send(&job("long", "60000ms")).await;
    until("it runs", async || setup.ran_times("60000ms") == 1).await;
    let cancel = Control::Cancel { tenant: "default".into(), id: "long".into() }.encode();
    operator.publish(&names.control(), "", BasicProperties::default(), &cancel).await;
    assert_eq!(producer.result().await.status, Status::Cancelled);
    let said = refusal(&operator.link, "", &names.run("python", Lane::Normal, 0)).await.unwrap();
    assert!(said.contains("ACCESS_REFUSED"), "{said}");
    worker.drain().await;
    assert_eq!(setup.ran().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_belongs_to_its_users_tenant_and_names_another_only_where_it_is_trusted() {
    let Some(vhost) = vhost() else { return };
    let names = names();
    let all = Permissions { configure: ".*".into(), write: ".*".into(), read: ".*".into(), role: "test" };
    let [mapped, trusted, other] = [(); 3].map(|()| vhost.user(&all));
    let setup = Setup {
        tenants: [(mapped.name.clone(), "acme".to_owned())].into(),
        trusted: Some(vec![trusted.name.clone()]),
        ..Setup::new(&vhost.endpoint, &names)
    };
    let worker = setup.worker("w1").await;
    let mut number = 0;
    let mut sent = async |user: &broker::User, named: Option<&str>, tenant: Option<&str>| -> JobResult {
        number += 1;
        let producer = Producer::new(&user.endpoint, &setup).await;
        let mut job = job(&format!("j{number}"), "x");
        if let Some(tenant) = tenant {
            job["tenant"] = tenant.into();
        }
        let properties = match named {
            Some(user) => producer.properties().with_user_id(user.into()),
            None => producer.properties(),
        };
        producer.send_bytes(&serde_json::to_vec(&job).unwrap(), properties).await;
        producer.result().await
    };
    let is_of = |result: &JobResult, tenant: &str| {
        assert_eq!(
            (result.status, result.tenant.as_str()),
            (Status::Finished, tenant),
            "{:?}",
            result.refusal
        );
    };
    let is_refused = |result: &JobResult, own: &str| {
        let refusal = result.refusal.as_ref().unwrap();
        assert_eq!((refusal.field.as_deref(), result.tenant.as_str()), (Some("tenant"), own));
        assert!(refusal.message.contains(own), "{}", refusal.message);
    };
    is_of(&sent(&mapped, Some(&mapped.name), None).await, "acme");
    is_of(&sent(&mapped, Some(&mapped.name), Some("acme")).await, "acme");
    is_refused(&sent(&mapped, Some(&mapped.name), Some("globex")).await, "acme");
    is_of(&sent(&trusted, Some(&trusted.name), Some("globex")).await, "globex");
    is_of(&sent(&trusted, Some(&trusted.name), None).await, "default");
    is_refused(&sent(&other, Some(&other.name), Some("acme")).await, "default");
    // Whoever does not say who it is is nobody in particular, whatever its connection.
    is_of(&sent(&mapped, None, None).await, "default");
    is_refused(&sent(&trusted, None, Some("acme")).await, "default");
    // And nobody can say that it is somebody else.
    let forger = Producer::new(&other.endpoint, &setup).await;
    let options = BasicPublishOptions::default();
    let forged = forger.properties().with_user_id(trusted.name.as_str().into());
    let sent =
        forger.client.channel.basic_publish(names.jobs().as_str().into(), "".into(), options, b"x", forged);
    let said = match sent.await {
        Ok(sent) => sent.await.unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(said.contains("user_id"), "{said}");
    worker.drain().await;
}

/// Users of a tenant, and of whoever looks after the dead.
struct People {
    vhost: std::sync::Arc<broker::Vhost>,
    names: Names,
    alice: broker::User,
    mallory: broker::User,
    operator: broker::User,
}

impl People {
    fn new() -> Option<Self> {
        let (vhost, names) = (vhost()?, names());
        let [_, producer, operator] = Permissions::all(&names);
        let (alice, mallory) = (vhost.user(&producer), vhost.user(&producer));
        let operator = vhost.user(&operator);
        Some(Self { vhost, names, alice, mallory, operator })
    }

    fn setup(&self) -> Setup {
        Setup {
            tenants: [(self.alice.name.clone(), "acme".to_owned())].into(),
            trusted: Some(Vec::new()),
            ..Setup::new(&self.vhost.endpoint, &self.names)
        }
    }
}

fn header(name: &str, value: &str) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert(name.into(), AMQPValue::LongString(value.into()));
    headers
}

/// The trap: `user_id` is the publisher's own, so whoever sends a dead message again cannot keep it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_message_that_is_sent_again_is_still_its_producers() {
    let Some(people) = People::new() else { return };
    let setup = people.setup();
    let worker = setup.worker("w1").await;
    // Nobody could be told what is wrong with these.
    for user in [&people.alice, &people.mallory] {
        let producer = Producer::new(&user.endpoint, &setup).await;
        let forged = header("hearth-user", &people.alice.name);
        let properties =
            BasicProperties::default().with_user_id(user.name.as_str().into()).with_headers(forged);
        producer.send_bytes(br#"{"runtime": "python", "code": 7}"#, properties).await;
    }
    let watcher = Client::new(&people.vhost.endpoint).await;
    until("both are dead", async || watcher.count(&people.names.dead()).await == 2).await;
    let operator = Link::open(&people.operator.endpoint, "test").await.unwrap();
    let done = each(&operator, &people.names, 10, |_| Act::Retry).await.unwrap();
    let mut tenants = Vec::new();
    for _ in 0..2 {
        let result = watcher.get(&people.names.unclaimed()).await;
        let result: JobResult = serde_json::from_slice(&result.data).unwrap();
        let sent = done.iter().any(|done| done.new_id.as_ref() == Some(&result.id));
        assert!(sent && result.status == Status::Refused, "{result:?}");
        tenants.push(result.tenant);
    }
    tenants.sort();
    assert_eq!(tenants, ["acme", "default"], "each is of who sent it, and of nobody else");
    // One whose fault is gone by now runs, for its tenant.
    let dead = header("hearth-user", &people.alice.name);
    let body = serde_json::to_vec(&job("was-dead", "alive")).unwrap();
    let properties = BasicProperties::default().with_headers(dead);
    watcher.publish("", &people.names.dead(), properties, &body).await;
    each(&operator, &people.names, 10, |_| Act::Retry).await.unwrap();
    let result: JobResult =
        serde_json::from_slice(&watcher.get(&people.names.unclaimed()).await.data).unwrap();
    assert_eq!((result.tenant.as_str(), amqp_rig::printed(&result).as_str()), ("acme", "alive"));
    worker.drain().await;
}

/// Has the broker give up on the only message of a queue.
async fn give_up(client: &Client, names: &Names, queue: &str) {
    until("the broker gives up", async || {
        let got = client.channel.basic_get(queue.into(), BasicGetOptions::default());
        if let Some(message) = got.await.unwrap() {
            message.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await.unwrap();
        }
        client.count(&names.fallen()).await == 1
    })
    .await;
}

/// The trap: a message in a run queue was published by a worker, and what fell from there has no `user_id`.
#[tokio::test(flavor = "multi_thread")]
async fn what_falls_from_a_run_queue_is_still_its_producers_and_nobody_can_pretend_that_it_did() {
    let Some(people) = People::new() else { return };
    let (setup, names) = (people.setup(), &people.names);
    setup.worker("w0").await.drain().await;
    let watcher = Client::new(&people.vhost.endpoint).await;
    let run = names.run("python", Lane::Normal, 0);
    let parked = BasicProperties::default()
        .with_message_id("fell".into())
        .with_headers(header("hearth-user", &people.alice.name));
    let body = |id| serde_json::to_vec(&job(id, "x")).unwrap();
    watcher.publish("", &run, parked, &body("fell")).await;
    give_up(&watcher, names, &run).await;
    let result = async |worker: &str| -> JobResult {
        let worker = setup.worker(worker).await;
        let result = serde_json::from_slice(&watcher.get(&names.unclaimed()).await.data).unwrap();
        worker.drain().await;
        result
    };
    let fell = result("w1").await;
    assert_eq!((fell.tenant.as_str(), fell.status), ("acme", Status::InfraError));
    // It says that it fell from there, and whose it is; it fell from the intake.
    let mallory = Producer::new(&people.mallory.endpoint, &setup).await;
    let mut death = header("queue", &run);
    death.insert("reason".into(), AMQPValue::LongString("delivery_limit".into()));
    death.insert("exchange".into(), AMQPValue::LongString("".into()));
    death.insert("count".into(), AMQPValue::LongLongInt(1));
    let mut forged = header("hearth-user", &people.alice.name);
    let deaths = FieldArray::from(vec![AMQPValue::FieldTable(death)]);
    forged.insert("x-death".into(), AMQPValue::FieldArray(deaths));
    let properties = BasicProperties::default()
        .with_message_id("forged".into())
        .with_user_id(people.mallory.name.as_str().into())
        .with_headers(forged);
    mallory.send_bytes(&body("forged"), properties).await;
    give_up(&watcher, names, &names.intake()).await;
    let forged = result("w2").await;
    assert_eq!((forged.id.as_str(), forged.tenant.as_str()), ("forged", "default"));
    assert_eq!(setup.ran().len(), 0);
}
