//! The floor: two confirmed AMQP hops and one exec, with nothing of Hearth between them but the agent's session.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use hearth_pool::{
    fakes::process::{ProcessHypervisor, ProcessVm},
    hypervisor::{Hypervisor, Slot},
    lease::Identity,
    session::{Command, Session},
};
use hearth_schemas::guest::messages::{ExecLimits, User};
use hearth_tests::process::{ProcessMachine, RUNTIME, run_dir};
use hearth_worker::amqp::link::Link;
use lapin::{
    BasicProperties, Channel, Confirmation, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, oneshot},
    task::JoinHandle,
    time::Instant,
};

use super::rig::{Rig, Vhost};
use crate::sessions::wake;

const LIMIT: Duration = Duration::from_secs(60);
const PREFETCH: u16 = 64;
/// What runs: the same as the jobs.
pub const SCRIPT: &str = "true\n";
const FILE: &str = "main.sh";
/// About as large as the result of such a job.
const RESULT_BYTES: usize = 1024;

/// The floor, at work.
pub struct Bare {
    ask: Channel,
    waiting: Waiting,
    tasks: Vec<JoinHandle<Result<()>>>,
    _links: Vec<Link>,
    _hypervisor: ProcessHypervisor,
    _vm: ProcessVm,
    _run_dir: TempDir,
    _vhost: Vhost,
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<(Instant, Duration)>>>>;

impl Bare {
    pub async fn start(rig: &Rig, machine: &ProcessMachine) -> Result<Self> {
        let (vhost, run_dir) = (rig.vhost()?, run_dir()?);
        let (hypervisor, _) = machine.hypervisor(run_dir.path(), "bare", Duration::ZERO, None).await?;
        let slot = Slot { runtime: RUNTIME.into(), number: 0 };
        let identity = Identity { cid: 3, port: 9000, token: 1 };
        let vm = hypervisor.restore(&slot, &identity).await?.vm;
        let session = Session::connect(hypervisor.dial(&vm).await?, LIMIT).await?;
        session.wake(wake(identity.cid), LIMIT).await?;
        let mut upload = session.put().await?;
        upload.file(FILE, 0o644, SCRIPT.len() as u64, SCRIPT.as_bytes()).await?;
        upload.finish(LIMIT).await?;
        // As the worker does: one connection to consume, one to publish.
        let endpoint = vhost.endpoint()?;
        let (producer, consuming, publishing) = (
            Link::open(&endpoint, "bench").await?,
            Link::open(&endpoint, "bench").await?,
            Link::open(&endpoint, "bench").await?,
        );
        let (ask, answer) = (confirming(&producer).await?, confirming(&publishing).await?);
        let asked = consume(&consuming, "bare.jobs").await?;
        let answered = consume(&producer, "bare.results").await?;
        let waiting = Waiting::default();
        let tasks = vec![
            tokio::spawn(work(asked, answer, Arc::new(session))),
            tokio::spawn(hear(answered, waiting.clone())),
        ];
        Ok(Self {
            ask,
            waiting,
            tasks,
            _links: vec![producer, consuming, publishing],
            _hypervisor: hypervisor,
            _vm: vm,
            _run_dir: run_dir,
            _vhost: vhost,
        })
    }

    /// One there and back, without the time that the command took by its own account.
    pub async fn once(&self, id: &str, body: &[u8]) -> Result<Duration> {
        let (tell, told) = oneshot::channel();
        self.waiting.lock().await.insert(id.to_owned(), tell);
        let began = Instant::now();
        publish(&self.ask, "bare.jobs", id, body).await?;
        let (came, wall) = tokio::time::timeout(LIMIT, told).await??;
        Ok((came - began).saturating_sub(wall))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn confirming(link: &Link) -> Result<Channel> {
    let channel = link.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

async fn consume(link: &Link, queue: &str) -> Result<Consumer> {
    let channel = link.channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    Ok(channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?)
}

async fn publish(channel: &Channel, queue: &str, id: &str, body: &[u8]) -> Result<()> {
    let properties = BasicProperties::default().with_delivery_mode(2).with_correlation_id(id.into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel.basic_publish("".into(), queue.into(), options, body, properties).await?;
    match sent.await? {
        Confirmation::Ack(None) => Ok(()),
        other => bail!("{queue}: {other:?}"),
    }
}

/// Takes, runs, answers, acknowledges.
async fn work(mut asked: Consumer, answer: Channel, session: Arc<Session>) -> Result<()> {
    while let Some(delivery) = asked.next().await {
        let (delivery, answer, session) = (delivery?, answer.clone(), session.clone());
        tokio::spawn(async move {
            let id = delivery.properties.correlation_id().as_ref().context("no id")?.to_string();
            let wall = exec(&session).await?;
            let mut body = wall.as_micros().to_le_bytes().to_vec();
            body.resize(RESULT_BYTES, 0);
            publish(&answer, "bare.results", &id, &body).await?;
            delivery.acker.ack(BasicAckOptions::default()).await?;
            anyhow::Ok(())
        });
    }
    Ok(())
}

async fn exec(session: &Session) -> Result<Duration> {
    let command = Command {
        argv: ["bash", FILE].map(str::to_owned).into(),
        env: [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())].into(),
        cwd: String::new(),
        limits: ExecLimits { wall_ms: Some(10_000), ..ExecLimits::default() },
        user: User::Job,
        ip: false,
        fresh: false,
    };
    let exited = crate::floor::run(session, command, Bytes::new()).await?;
    ensure!(exited.exit_code == Some(0), "{exited:?}");
    Ok(Duration::from_micros(exited.usage.map_or(0, |usage| usage.wall_us)))
}

async fn hear(mut answered: Consumer, waiting: Waiting) -> Result<()> {
    while let Some(delivery) = answered.next().await {
        let (delivery, came) = (delivery?, Instant::now());
        let id = delivery.properties.correlation_id().as_ref().context("no id")?.to_string();
        let micros = delivery.data.first_chunk::<16>().map_or(0, |bytes| u128::from_le_bytes(*bytes));
        if let Some(tell) = waiting.lock().await.remove(&id) {
            let _ = tell.send((came, Duration::from_micros(u64::try_from(micros)?)));
        }
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}
