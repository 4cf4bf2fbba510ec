//! What must hold when all is over.

use std::{fs::File, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use hearth_pool::{
    fakes::process::cgroups,
    lease::{
        LeaseStore,
        redis::{RedisLeaseConfig, RedisLeases, host_domain},
    },
};
use hearth_worker::amqp::{
    link::{Endpoint, Link},
    names::Names,
    topology::Topology,
};
use lapin::{
    options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions},
    types::FieldTable,
};
use redis::AsyncCommands;
use rustix::fs::{FlockOperation, flock};

use super::{
    crew::Crew,
    jobs::Judged,
    producer::Seen,
    run::{Report, Setup},
};
use crate::{process::Left, redis::RealRedis, wait::until};

/// How long workers may take for what is left in queues.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// Of all jobs, in thousandths: the part that may end as `infra_error`.
const GAVE_UP_MAX_PER_MILLE: u64 = 5;
/// How long everything of a worker that has ended may take to be gone: the guard's 2 s, on a busy machine.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// How many jobs wait in each shard: stays, and must be all zeros.
const LOAD: &str = "hearth:shards:load";
/// Keys that stay, whatever was done: the age of the data, and which identities there are. Bounded.
const MAY_STAY: [&str; 4] = ["epoch", "free_cids", "free_ports", "given"];

/// Judges every result. A job may be given up only when each of its attempts was ended by one of our `kills`.
///
/// # Errors
/// What is wrong.
pub fn results(seen: &Seen, kills: &[String], report: &mut Report) -> Result<()> {
    ensure!(seen.others.is_empty(), "two results for one job: {:?}", seen.others);
    let mut wrong = Vec::new();
    for (id, job) in &seen.jobs {
        match seen.results.get(id).map(|body| job.judge(body)) {
            Some(Judged::Right) => {}
            Some(Judged::GaveUp(attempts)) => {
                report.gave_up += 1;
                if !attempts.iter().all(|attempt| kills.contains(&attempt.worker)) {
                    wrong.push(format!(
                        "{id} was given up, and not because its workers were killed: {attempts:#?}"
                    ));
                }
            }
            Some(Judged::Wrong(what)) => wrong.push(what),
            None => wrong.push(format!("{id} has no result")),
        }
    }
    let strangers: Vec<_> = seen.results.keys().filter(|id| !seen.jobs.contains_key(*id)).collect();
    ensure!(strangers.is_empty(), "results of nobody's jobs: {strangers:?}");
    ensure!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), wrong.iter().take(5).collect::<Vec<_>>());
    let jobs = seen.jobs.len() as u64;
    ensure!(
        report.gave_up * 1000 <= GAVE_UP_MAX_PER_MILLE * jobs,
        "{} of {jobs} jobs were given up",
        report.gave_up
    );
    Ok(())
}

/// Waits until the workers have taken everything: of a job that was sent again, a second copy may still wait when its
/// producer has the result.
///
/// # Errors
/// The broker cannot be asked.
pub async fn taken(endpoint: &Endpoint, names: &Names, setup: &Setup) -> Result<()> {
    let link = Link::open(endpoint, "audit").await?;
    let channel = link.channel().await?;
    for queue in Topology::new(names, [crate::process::RUNTIME], setup.shards).queues {
        if queue.name == names.unclaimed() {
            continue;
        }
        until(TAKEN_WITHIN, &format!("somebody takes what is in {}", queue.name), async || {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found =
                channel.queue_declare(queue.name.as_str().into(), options, FieldTable::default()).await;
            found.is_ok_and(|found| found.message_count() == 0)
        })
        .await;
    }
    Ok(())
}

/// Takes what nobody claimed, and sees to it that no queue holds anything but copies of jobs, all of which have results.
///
/// # Errors
/// One does.
pub async fn broker(endpoint: &Endpoint, names: &Names, setup: &Setup, seen: &mut Seen) -> Result<u64> {
    let link = Link::open(endpoint, "audit").await?;
    let channel = link.channel().await?;
    let mut unclaimed = 0;
    while let Some(message) = channel.basic_get(names.unclaimed().into(), BasicGetOptions::default()).await? {
        let id = message.properties.message_id().as_ref().context("a result without an id")?.to_string();
        seen.result(&id, message.data.clone().into());
        message.ack(BasicAckOptions::default()).await?;
        unclaimed += 1;
    }
    for queue in Topology::new(names, [crate::process::RUNTIME], setup.shards).queues {
        while let Some(message) =
            channel.basic_get(queue.name.as_str().into(), BasicGetOptions::default()).await?
        {
            // What a worker had fetched goes back when it drains. It may be a copy of a job that was sent again and has its result.
            let id = message.properties.message_id().as_ref().map_or("", |id| id.as_str());
            let copy = queue.name.starts_with("hearth.run.") && seen.jobs.contains_key(id);
            ensure!(copy, "a message {id:?} is in {}", queue.name);
            message.ack(BasicAckOptions::default()).await?;
        }
    }
    Ok(unclaimed)
}

/// Sees to it that no lease and no key is left but those that may stay: for results, for as long as they are kept.
///
/// # Errors
/// One is.
pub async fn redis(redis: &RealRedis, lease: Duration) -> Result<()> {
    let mut aside = redis.aside().await;
    let config = RedisLeaseConfig::new(host_domain()?);
    // Leases of killed workers are there until they have expired and somebody looks.
    let leases = RedisLeases::new(redis.server(), config.clone());
    let domain = format!("hearth:lease:{}:", config.domain);
    let gone = lease + config.grace + Duration::from_secs(20);
    until(gone, "the leases of the dead have expired", async || {
        let Ok(own) = leases.acquire("audit").await else { return false };
        let _ = leases.release(&own.identity).await;
        aside.hlen::<_, u64>(format!("{domain}held")).await.is_ok_and(|held| held == 0)
    })
    .await;
    let waiting: Vec<i64> = aside.hvals(LOAD).await?;
    ensure!(waiting.iter().all(|jobs| *jobs == 0), "jobs wait in shards: {waiting:?}");
    let keys: Vec<String> = aside.keys("*").await?;
    let mut left = Vec::new();
    for key in keys {
        let ttl_ms: i64 = aside.pttl(&key).await?;
        // The lease of whoever reaps ends by itself.
        let kept = (key.starts_with("hearth:job:") || key == "hearth:reaper") && ttl_ms > 0;
        if !kept && key != LOAD && !MAY_STAY.iter().any(|name| key.ends_with(&format!(":{name}"))) {
            left.push((key, ttl_ms));
        }
    }
    ensure!(left.is_empty(), "keys that should be gone, and their times to live: {left:?}");
    Ok(())
}

/// Sees to it that no process, file, socket, cgroup or lock is left on this host.
///
/// # Errors
/// One is.
pub fn host(crew: &Crew) -> Result<()> {
    let cgroups = cgroups()?;
    let left = Left::within(crew.run_dir(), &cgroups, GONE_WITHIN);
    ensure!(left == Left::default(), "left behind: {left:#?}");
    for entry in std::fs::read_dir(crew.run_dir().join("cid"))? {
        let path = entry?.path();
        if flock(File::open(&path)?, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("{} is locked", path.display());
        }
    }
    for entry in std::fs::read_dir(crew.directory())?.flatten() {
        if entry.path().is_dir() {
            ensure!(is_empty(&entry.path())?, "{} is not empty", entry.path().display());
        }
    }
    Ok(())
}

/// Whether nothing but directories is in it: a spool has one for what is not committed yet.
fn is_empty(directory: &Path) -> Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if !path.is_dir() || !is_empty(&path)? {
            return Ok(false);
        }
    }
    Ok(true)
}
