//! A producer of jobs: one after the other, as many as the worker takes, or at a rate.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use hearth_schemas::result::{JobResult, Status, Verdict};
use hearth_tests::process::RUNTIME;
use hearth_worker::amqp::{
    client::{JobClient, JobSender, Replies},
    declare::apply,
    link::{Endpoint, Link},
    names::{Names, SHARDS},
    topology::Topology,
};
use lapin::{options::QueueDeclareOptions, types::FieldTable};
use rand::RngExt;
use serde_json::json;
use tokio::{
    process::{Child, Command},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    bare::{Bare, SCRIPT},
    figures::{Overheads, Saturated},
    rig::{Vhost, Worker},
};

/// How long a result may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Jobs that are sent at once when a queue is filled.
const FILL_AT_ONCE: usize = 256;
/// How long a worker is loaded before it is looked at.
const RAMP: Duration = Duration::from_secs(2);
/// A queue of this length counts as dealt with, when it was seen to be so short so often in a row.
const FEW: u32 = 64;
const FEW_TIMES: u32 = 10;

/// How a worker is kept saturated.
pub struct Load {
    pub slots: u32,
    pub lasts_s: u64,
    pub perf: Option<PathBuf>,
}

/// A result, and when it came.
struct Came {
    at: Instant,
    id: String,
    body: bytes::Bytes,
}

impl Came {
    /// The time that the job's command took by its own account.
    fn wall(&self) -> Result<Duration> {
        let result: JobResult = serde_json::from_slice(&self.body).context("a result")?;
        let fine = result.status == Status::Finished && result.verdict == Some(Verdict::Accepted);
        ensure!(fine, "{}: {}", self.id, String::from_utf8_lossy(&self.body));
        let usage = result.stages.first().and_then(|stage| stage.run.usage).context("no usage")?;
        Ok(usage.wall_ms.into())
    }
}

pub struct Producer {
    sender: Arc<JobSender>,
    came: mpsc::Receiver<Came>,
    reader: JoinHandle<()>,
    endpoint: Endpoint,
    sent: u64,
    queued: u64,
}

impl Producer {
    pub async fn start(vhost: &Vhost) -> Result<Self> {
        let (endpoint, names) = (vhost.endpoint()?, Names::default());
        let link = Link::open(&endpoint, "bench").await?;
        apply(&link.channel().await?, &Topology::new(&names, [RUNTIME], SHARDS)).await?;
        let (sender, replies) = JobClient::connect(&endpoint, &names).await?.split();
        let (give, came) = mpsc::channel(4096);
        let reader = tokio::spawn(read(replies, give));
        Ok(Self { sender: Arc::new(sender), came, reader, endpoint, sent: 0, queued: 0 })
    }

    pub fn end(self) {
        self.reader.abort();
    }

    fn job(&mut self) -> (String, Vec<u8>) {
        self.sent += 1;
        let id = format!("bench-{}", self.sent);
        let body = json!({"id": id, "runtime": RUNTIME, "code": SCRIPT, "deadline_ms": 3_600_000});
        (id, body.to_string().into_bytes())
    }

    /// Sends jobs that will wait.
    pub async fn fill(&mut self, jobs: u64) -> Result<()> {
        let mut sending = JoinSet::new();
        for _ in 0..jobs {
            self.send(&mut sending);
            if sending.len() >= FILL_AT_ONCE {
                sending.join_next().await.context("none")???;
            }
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        self.queued = jobs;
        Ok(())
    }

    fn send(&mut self, sending: &mut JoinSet<Result<()>>) {
        let ((id, body), sender) = (self.job(), self.sender.clone());
        sending.spawn(async move { Ok(sender.send(&id, &body).await?) });
    }

    async fn next(&mut self) -> Result<Came> {
        let came = timeout(PATIENCE, self.came.recv()).await.context("no result")?;
        came.context("the connection of the results broke")
    }

    /// One job, one floor, one job …, each when every slot has its VM.
    pub async fn alone(&mut self, worker: &Worker, bare: &Bare, samples: usize) -> Result<Overheads> {
        let mut overheads = Overheads::default();
        let (before, steps) = (worker.claims().await?, worker.steps().await?);
        for _ in 0..samples {
            worker.all_ready().await?;
            let ((id, body), began) = (self.job(), Instant::now());
            let sender = self.sender.clone();
            let sent = tokio::spawn({
                let (id, body) = (id.clone(), body.clone());
                async move { sender.send(&id, &body).await }
            });
            let came = self.next().await?;
            sent.await??;
            ensure!(came.id == id, "the result of another job");
            overheads.ours.push((came.at - began).saturating_sub(came.wall()?));
            worker.all_ready().await?;
            overheads.floor.push(bare.once(&id, &body).await?);
        }
        overheads.hits = worker.claims().await?.since(before);
        overheads.steps_ms = worker.steps().await?.means_ms(&steps);
        Ok(overheads)
    }

    /// Jobs at a rate, sent whether or not earlier ones have ended; and a floor for every second one.
    pub async fn at_rate(
        &mut self,
        worker: &Worker,
        bare: &Bare,
        per_s: f64,
        samples: usize,
    ) -> Result<Overheads> {
        let mut overheads = Overheads::default();
        let mut began = HashMap::new();
        let mut sending = JoinSet::new();
        let mut floors = FuturesUnordered::new();
        let before = worker.claims().await?;
        let (mut next, mut left) = (Instant::now(), samples);
        while left > 0 || !began.is_empty() || !floors.is_empty() {
            tokio::select! {
                () = sleep_until(next), if left > 0 => {
                    next += Duration::from_secs_f64(-(1.0 - rand::rng().random::<f64>()).ln() / per_s);
                    left -= 1;
                    let (id, body) = self.job();
                    if left % 2 == 0 {
                        let (id, body) = (id.clone(), body.clone());
                        floors.push(async move { bare.once(&id, &body).await });
                    }
                    began.insert(id.clone(), Instant::now());
                    let sender = self.sender.clone();
                    sending.spawn(async move { anyhow::Ok(sender.send(&id, &body).await?) });
                }
                came = self.came.recv() => {
                    let came = came.context("the connection of the results broke")?;
                    let began = began.remove(&came.id).context("the result of another job")?;
                    overheads.ours.push((came.at - began).saturating_sub(came.wall()?));
                }
                Some(took) = floors.next() => overheads.floor.push(took?),
                Some(sent) = sending.join_next() => sent??,
            }
        }
        overheads.hits = worker.claims().await?.since(before);
        Ok(overheads)
    }

    /// As many jobs at once as keep every slot busy, and as wait; what the worker does meanwhile.
    pub async fn saturate(&mut self, worker: &Worker, load: &Load) -> Result<Saturated> {
        let mut sending = JoinSet::new();
        let mut out = self.queued;
        while out < self.queued + u64::from(load.slots) * 2 + 2 {
            self.send(&mut sending);
            out += 1;
        }
        let parking = Instant::now();
        let mut parked = Saturated::default();
        let (mut begins, mut before) = (None, worker.cpu()?);
        if self.queued == 0 {
            begins = Some(Instant::now() + RAMP);
        }
        // What waits goes from the intake to the run queues first.
        let mut look = tokio::time::interval(Duration::from_millis(500));
        let mut saturated = Saturated::default();
        let (mut profile, mut few) = (None, 0);
        loop {
            let measuring = begins.filter(|begins| Instant::now() >= *begins);
            tokio::select! {
                came = self.next() => {
                    came?.wall()?;
                    self.send(&mut sending);
                    saturated.jobs += 1;
                }
                Some(sent) = sending.join_next() => sent??,
                _ = look.tick(), if begins.is_none() => {
                    // What the broker says of a queue is a while old.
                    few = if self.intake().await? <= FEW { few + 1 } else { 0 };
                    if few > FEW_TIMES {
                        parked = saturated.until(parking.elapsed(), before, worker.cpu()?);
                        begins = Some(Instant::now() + RAMP);
                    }
                }
                () = sleep_until(begins.unwrap_or(parking)), if begins.is_some() && !saturated.begun => {
                    (saturated, before) = (Saturated { begun: true, ..Saturated::default() }, worker.cpu()?);
                    profile = load.perf.as_ref().map(|file| perf(worker.pid(), load.lasts_s, file)).transpose()?;
                }
                () = sleep_until(measuring.unwrap_or(parking) + Duration::from_secs(load.lasts_s)), if measuring.is_some() && saturated.begun => break,
            }
        }
        let began = begins.unwrap_or(parking);
        let mut done = saturated.until(began.elapsed(), before, worker.cpu()?);
        done.parking_s = parked.took.as_secs_f64();
        if let Some(mut profile) = profile {
            profile.wait().await?;
        }
        if self.queued == 0 {
            for _ in 0..out {
                self.next().await?;
            }
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        Ok(done)
    }

    async fn intake(&self) -> Result<u32> {
        let link = Link::open(&self.endpoint, "bench").await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name = Names::default().intake();
        let channel = link.channel().await?;
        let queue = channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await?;
        Ok(queue.message_count())
    }
}

async fn read(mut replies: Replies, give: mpsc::Sender<Came>) {
    while let Ok(reply) = replies.next().await {
        let came = Came { at: Instant::now(), id: reply.id.clone(), body: reply.body.clone() };
        if give.send(came).await.is_err() {
            return;
        }
        reply.seen().await;
    }
}

fn perf(pid: u32, lasts_s: u64, file: &Path) -> Result<Child> {
    Command::new("perf")
        .args(["record", "--freq", "499", "--call-graph", "dwarf,8192", "--pid", &pid.to_string()])
        .arg("--output")
        .arg(file)
        .args(["--", "sleep", &lasts_s.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .context("perf")
}
