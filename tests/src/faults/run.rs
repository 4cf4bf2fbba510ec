//! The run itself.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hearth_worker::amqp::names::Names;
use redis::Script;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    audit,
    crew::{Crew, Program, Services},
    jobs::ATTEMPTS,
    plan::{Fault, Planned, Shape, plan},
    producer::{Feed, Seen, produce},
};
use crate::{broker::RealBroker, process::RUNTIME, redis::RealRedis, wait::until_some};

/// How long a worker may take to hold a job again.
const BUSY_WITHIN: Duration = Duration::from_secs(60);
/// How long a job may take when nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Decides jobs and faults.
    pub seed: u64,
    /// How much.
    pub shape: Shape,
    /// What workers are.
    pub program: Program,
    /// VMs of each.
    pub slots: u32,
    /// Jobs without a result at once.
    pub window: usize,
    /// Run queues of each lane.
    pub shards: u16,
    /// How long a lease lasts.
    pub lease: Duration,
    /// What a command needs beyond the time that it sleeps, at most.
    pub slack: Duration,
    /// Kill no worker that has a job at its last attempt: then none may be given up, in however short a run.
    pub spare: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Jobs that were sent.
    pub jobs: u64,
    /// Workers that were killed.
    pub kills: u64,
    /// Of them, while they held a job.
    pub busy_kills: u64,
    /// Restarts of the broker.
    pub broker_restarts: u64,
    /// Restarts of Redis.
    pub redis_restarts: u64,
    /// Results that came again.
    pub repeats: u64,
    /// Results that nobody was there for.
    pub unclaimed: u64,
    /// Jobs that the producer sent again.
    pub resent: u64,
    /// Jobs that ended as `infra_error`, each after three attempts.
    pub gave_up: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, jobs, kills, busy_kills, broker_restarts, redis_restarts, .. } = self;
        write!(
            f,
            "seed {seed}: {jobs} jobs in {:.0?}, {kills} kills ({busy_kills} of workers with a job), {broker_restarts} \
             restarts of the broker, {redis_restarts} of Redis; {} jobs sent again, {} repeats, {} unclaimed, {} given up",
            self.took, self.resent, self.repeats, self.unclaimed, self.gave_up
        )
    }
}

/// Runs it. `None`, said aloud, without the servers.
///
/// # Errors
/// What does not hold, and where the logs are.
pub async fn run(setup: &Setup) -> Result<Option<Report>> {
    let (Some(mut broker), Some(mut redis)) = (RealBroker::start().await, RealRedis::start().await) else {
        return Ok(None);
    };
    redis.server().trust_new_data().await?;
    let services = Services { broker: broker.url(), redis: redis.url(), shards: setup.shards };
    let mut crew = Crew::start(setup.program.clone(), &services, setup.shape.workers, setup.slots)?;
    match storm(setup, &mut broker, &mut redis, &mut crew).await {
        Ok(report) => Ok(Some(report)),
        Err(error) => {
            let log = crew.log();
            let logs = crew.keep();
            Err(error.context(format!("SEED={}; logs in {}\n{log}", setup.seed, logs.display())))
        }
    }
}

async fn storm(
    setup: &Setup,
    broker: &mut RealBroker,
    redis: &mut RealRedis,
    crew: &mut Crew,
) -> Result<Report> {
    let (endpoint, names, began) = (broker.endpoint(), Names::default(), Instant::now());
    let mut report = Report { seed: setup.seed, ..Report::default() };
    let mut seen = Seen::default();
    let feed = Feed {
        seed: setup.seed,
        runtime: RUNTIME.into(),
        slack: setup.slack,
        window: setup.window,
        jobs: setup.shape.jobs,
        until: began + setup.shape.lasts,
        patience: PATIENCE,
    };
    let planned = plan(setup.seed, &setup.shape);
    let of = |which: fn(&Fault) -> bool| -> Vec<Planned> {
        planned.iter().filter(|planned| which(&planned.fault)).copied().collect()
    };
    let ledger = redis.url();
    let kills = of(|fault| matches!(fault, Fault::Kill(_) | Fault::KillBusy(_)));
    let sabotage = async {
        let (killed, brokers, servers) = tokio::join!(
            kill_all(crew, &ledger, began, &kills, setup.spare),
            async {
                for planned in of(|fault| *fault == Fault::Broker) {
                    sleep_until(began + planned.at).await;
                    broker.restart().await;
                    report.broker_restarts += 1;
                }
            },
            async {
                for planned in of(|fault| *fault == Fault::Redis) {
                    sleep_until(began + planned.at).await;
                    redis.restart().await;
                    report.redis_restarts += 1;
                }
            },
        );
        let ((), ()) = (brokers, servers);
        killed
    };
    let (produced, killed) = tokio::join!(produce(&endpoint, &names, &feed, &mut seen), sabotage);
    (report.kills, report.busy_kills) = killed?;
    produced?;
    (report.jobs, report.took) = (seen.jobs.len() as u64, began.elapsed());
    audit::taken(&endpoint, &names, setup).await?;
    crew.drain().await?;
    audit::host(crew)?;
    report.unclaimed = audit::broker(&endpoint, &names, setup, &mut seen).await?;
    (report.repeats, report.resent) = (seen.repeats, seen.resent);
    audit::results(&seen, crew.killed(), &mut report)?;
    audit::redis(redis, setup.lease).await?;
    ensure!(setup.spare || report.kills >= kills.len() as u64, "not all were killed: {report}");
    ensure!(report.busy_kills >= setup.shape.busy_kills as u64, "too few of them held a job: {report}");
    Ok(report)
}

/// Kills workers as planned; how many, and how many of them held a job.
async fn kill_all(
    crew: &mut Crew,
    redis: &str,
    began: Instant,
    kills: &[Planned],
    spare: bool,
) -> Result<(u64, u64)> {
    let (mut killed, mut busy) = (0, 0);
    for planned in kills {
        sleep_until(began + planned.at).await;
        let number = match planned.fault {
            Fault::KillBusy(first) => {
                busy += 1;
                stopped_holder(crew, redis, first, spare).await?
            }
            Fault::Kill(number) => {
                crew.pause(number)?;
                match held(redis, &crew.name(number)).await {
                    Some(held) if spare && held.worn > 0 => {
                        crew.go_on(number)?;
                        continue;
                    }
                    held => busy += u64::from(held.is_some_and(|held| held.jobs > 0)),
                }
                number
            }
            Fault::Broker | Fault::Redis => continue,
        };
        crew.kill(number)?;
        killed += 1;
        crew.replace(number)?;
    }
    Ok((killed, busy))
}

/// A worker that holds a job, stopped so that it still does when it is killed: this one, or the next that does.
async fn stopped_holder(crew: &mut Crew, redis: &str, first: usize, spare: bool) -> Result<usize> {
    let looking = until_some(BUSY_WITHIN * 2, "a worker holds a job", async || {
        for number in (first..crew.len()).chain(0..first) {
            if held(redis, &crew.name(number)).await.is_none_or(|held| held.jobs == 0) {
                continue;
            }
            crew.pause(number).ok()?;
            if held(redis, &crew.name(number))
                .await
                .is_some_and(|held| held.jobs > 0 && !(spare && held.worn > 0))
            {
                return Some(number);
            }
            crew.go_on(number).ok()?;
        }
        None
    });
    // An error, and no panic: it has the logs.
    timeout(BUSY_WITHIN, looking).await.with_context(|| format!("no worker holds a job in {BUSY_WITHIN:?}"))
}

/// What a worker has in hand.
#[derive(Clone, Copy, Debug)]
struct Held {
    jobs: u64,
    /// Of them, those that are at their last attempt.
    worn: u64,
}

/// What the ledger says that a worker has. `None` when it does not answer.
async fn held(redis: &str, owner: &str) -> Option<Held> {
    let script = Script::new(
        "local held, worn = 0, 0
         for _, running in ipairs(redis.call('KEYS', 'hearth:running:*')) do
           local tenant = string.sub(running, string.len('hearth:running:') + 1)
           for _, id in ipairs(redis.call('ZRANGE', running, 0, -1)) do
             local job = redis.call('HMGET', 'hearth:job:' .. tenant .. '/' .. id, 'phase', 'owner', 'history')
             if job[1] == 'held' and job[2] == ARGV[1] then
               held = held + 1
               local _, counted = string.gsub(job[3] or '', '\"counted\":true', '')
               if counted + 1 >= tonumber(ARGV[2]) then worn = worn + 1 end
             end
           end
         end
         return {held, worn}",
    );
    let client = redis::Client::open(redis).ok()?;
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    let (jobs, worn) = script.arg(owner).arg(ATTEMPTS).invoke_async(&mut connection).await.ok()?;
    Some(Held { jobs, worn })
}

/// A seed of the environment, `SEED`, or this one.
///
/// # Errors
/// It is no number.
#[allow(clippy::disallowed_methods, reason = "a test is told by the environment what to replay")]
pub fn seed(default: u64) -> Result<u64> {
    match std::env::var("SEED") {
        Ok(text) => text.parse().with_context(|| format!("SEED={text} is no number")),
        Err(_) => Ok(default),
    }
}
