//! `hearth run --batch`: many jobs in fresh VMs of this host, some at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use hearth_pool::{
    pool::{Bounds, Config as PoolConfig, RuntimeSlots},
    runtime::Runtimes,
    scale::{gate::Cost, scaler::Policy},
    snapshot::Snapshot,
};
use hearth_worker::{
    admit::Terms,
    embedded::{self, QueueClosed},
    handle::Service,
    intake::Intake,
    ledger::MemoryLedger,
    local::{Host, Local, warm_up},
    objects::Objects,
    service::serve,
};
use tokio::sync::{mpsc, watch};

use super::{
    Arguments,
    execute::{Failures, hopeless, observer},
};
use crate::{
    cli::{
        batch::{self, Done, Line, Results, Tally},
        exit::{Exit, Failure},
        host,
        interrupt::Interrupted,
        progress::Progress,
    },
    config::Config,
};

/// Jobs under way for each VM: while one runs, the next waits for the VM after it.
const AHEAD: u32 = 2;
/// Results that wait at most for one before them.
const WAITING_MAX: usize = 1000;
/// How often results are handed to the system.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// What one VM counts as in the budget, in thousandths of a processor: so that there are never more of them.
const ONE_VM: u64 = 1000;

/// Runs the batch, writes its results, and leaves no VM behind.
pub async fn run(
    config: &Config,
    arguments: &Arguments,
    runtimes: &Runtimes,
    path: &Path,
) -> Result<Exit, Failure> {
    let mut interrupted = Interrupted::listen()?;
    let worker = host::worker();
    let lines = batch::read(path)?;
    let (results, done) = Results::open(arguments.out.as_deref(), arguments.resume)?;
    let host = host::open(config, &worker).await?;
    let snapshots = snapshots(&host, runtimes)?;
    let terms = Terms::new(host.offers(snapshots.keys().map(String::as_str)));
    let settings = host::objects(arguments.objects.as_deref())?;
    let objects = Objects::open(&settings, host.object_spool());
    let objects = objects.map_err(|error| Failure::from_error(Exit::Config, &error))?;
    let terms = Terms { objects: settings.terms(), ..terms };
    let parallel = arguments.parallel();
    let (failures, failed) = watch::channel(Failures::default());
    let mut pool = pool(&snapshots, parallel);
    pool.observer = Some(observer(Arc::new(Progress::silent()), failures));
    let local = Local::open(&host, pool).await.map_err(|error| host::failure(&error))?;

    let at_once = (parallel * AHEAD) as usize;
    let (submitter, source, sink) = embedded::queue(at_once);
    let intake = Intake { objects, ..Intake::embedded(terms, &worker) };
    let service = Service::new(MemoryLedger::default(), sink, local.pool().clone(), intake);
    let tally = Tally::new(config, batch::count(path), done.not_accepted());
    let mut feed = Feed { lines, done, results, tally, ordered: arguments.ordered, pending: BTreeMap::new() };
    let went = tokio::select! {
        went = feed.go(at_once, |id, body| submitter.submit(body, Some(id))) => went,
        () = serve(Arc::new(service), source, at_once, std::future::pending()) => Err(closed(&QueueClosed)),
        failure = hopeless(failed) => Err(failure),
        failure = interrupted.wait() => Err(failure),
    };
    feed.results.flush()?;
    // What ran is dropped; a second Ctrl-C leaves the rest to the guard.
    let closed = tokio::select! {
        closed = local.close(Duration::ZERO) => closed,
        failure = interrupted.wait() => return Err(failure),
    };
    if let Err(error) = closed {
        tracing::error!(%error, "the guard ends what is left");
    }
    drop(snapshots);
    let accepted = feed.tally.finish();
    went?;
    Ok(if accepted { Exit::Accepted } else { Exit::NotAccepted })
}

/// Every runtime of which there is a snapshot that fits.
fn snapshots(host: &Host, runtimes: &Runtimes) -> Result<BTreeMap<String, Snapshot>, Failure> {
    let mut found = BTreeMap::new();
    let mut lack = None;
    for runtime in runtimes.iter() {
        match host.snapshot(&runtime.name) {
            Ok(snapshot) => drop(found.insert(runtime.name.clone(), snapshot)),
            Err(error) => lack = Some(error),
        }
    }
    match (found.is_empty(), lack) {
        (true, Some(error)) => Err(Failure::from_error(Exit::Unavailable, &error)),
        _ => Ok(found),
    }
}

/// So many VMs at most, of whatever runtimes the jobs ask for; none before somebody asks.
fn pool(snapshots: &BTreeMap<String, Snapshot>, parallel: u32) -> PoolConfig {
    let slots = |(name, snapshot): (&String, &Snapshot)| RuntimeSlots {
        name: name.clone(),
        slots: parallel,
        warm_up: warm_up(&snapshot.manifest),
    };
    let mut pool = PoolConfig::new(snapshots.iter().map(slots).collect());
    let cost = Cost { cpu_milli: ONE_VM, ..Cost::default() };
    pool.bounds =
        snapshots.keys().map(|name| (name.clone(), Bounds { floor: 0, cost, dormant: 0 })).collect();
    pool.cpu_milli = Some(u64::from(parallel) * ONE_VM);
    pool.scaling = Some(Policy::default());
    pool
}

fn closed(error: &QueueClosed) -> Failure {
    Failure::from_error(Exit::Internal, error)
}

/// Jobs in, results out.
struct Feed {
    lines: mpsc::Receiver<Result<Line, Failure>>,
    done: Done,
    results: Results,
    tally: Tally,
    ordered: bool,
    /// What has begun and is not written, by line; with its result, when that waits for one before it.
    pending: BTreeMap<u64, Option<Bytes>>,
}

impl Feed {
    /// Until every line has its result.
    async fn go<F>(&mut self, at_once: usize, submit: impl Fn(String, Bytes) -> F) -> Result<(), Failure>
    where
        F: Future<Output = Result<Bytes, QueueClosed>>,
    {
        let (mut running, mut ids) = (FuturesUnordered::new(), BTreeSet::new());
        let mut flush = tokio::time::interval(FLUSH_EVERY);
        let mut read_all = false;
        while !(read_all && running.is_empty()) {
            let room = running.len() < at_once && self.pending.len() < WAITING_MAX;
            tokio::select! {
                Some((line, answer)) = running.next(), if !running.is_empty() => {
                    let (line, answer): (Line, Result<Bytes, QueueClosed>) = (line, answer);
                    ids.remove(&line.id);
                    self.done.insert(&line.id);
                    self.answered(line.number, answer.map_err(|error| closed(&error))?)?;
                }
                line = self.lines.recv(), if room && !read_all => match line.transpose()? {
                    None => read_all = true,
                    Some(line) if self.done.contains(&line.id) || !ids.insert(line.id.clone()) => self.tally.skip(),
                    Some(line) => {
                        self.pending.insert(line.number, None);
                        let answer = submit(line.id.clone(), line.body.clone());
                        running.push(async move { (line, answer.await) });
                    }
                },
                _ = flush.tick() => self.results.flush()?,
            }
        }
        Ok(())
    }

    fn answered(&mut self, number: u64, result: Bytes) -> Result<(), Failure> {
        self.tally.result(&result);
        if !self.ordered {
            self.pending.remove(&number);
            return self.results.write(&result);
        }
        self.pending.insert(number, Some(result));
        while let Some(first) = self.pending.first_entry()
            && first.get().is_some()
        {
            if let Some(result) = first.remove() {
                self.results.write(&result)?;
            }
        }
        Ok(())
    }
}
