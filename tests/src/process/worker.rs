//! `hearth worker` with VMs that are processes: the same settings, the same `worker::run`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use hearth_pool::{
    fakes::process::Chances,
    guard::GuardCommand,
    lease::redis::{RedisLeaseConfig, RedisLeases, host_domain},
    pool::{Config, LEASE_MARGIN, Pool, RuntimeSlots},
    reclaim::reclaim,
    redis_server::{RedisConfig, RedisServer},
};
use hearth_worker::{
    ledger::{RedisLedger, RedisLedgerConfig},
    meters,
    run::{Order, Parts, Stopped, run as serve},
    settings::Settings,
    threads::threads_here,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use super::{ProcessMachine, RUNTIME, offers};

/// How such a worker is told what it does.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The settings of `hearth worker`, as TOML; with Redis.
    #[arg(long)]
    pub config: PathBuf,
    /// One for all workers of a host.
    #[arg(long)]
    pub run_dir: PathBuf,
    /// The program that plays a VM.
    #[arg(long)]
    pub agent: PathBuf,
    /// How long a restore takes.
    #[arg(long, default_value_t = 500)]
    pub restore_ms: u64,
    /// How long a lease lasts.
    #[arg(long, default_value_t = 60)]
    pub lease_s: u64,
    /// VMs being restored at once.
    #[arg(long, default_value_t = 2)]
    pub restores_at_once: usize,
    /// Decides what goes wrong by chance.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Part of the restores that fail.
    #[arg(long, default_value_t = 0.0)]
    pub restore_fails: f64,
    /// Part of the VMs that die by themselves.
    #[arg(long, default_value_t = 0.0)]
    pub dies: f64,
    /// How long those live at most.
    #[arg(long, default_value_t = 5000)]
    pub dies_within_ms: u64,
}

/// Serves until it is told to stop by SIGTERM.
///
/// # Errors
/// It could not start, or did not end as it should.
pub async fn run(arguments: &Arguments) -> Result<Stopped> {
    let orders = orders()?;
    let settings = settings(arguments)?;
    let Some(redis) = &settings.redis else { bail!("redis is missing in the settings") };
    let server = RedisServer::new(RedisConfig {
        accept_loss: redis.accept_loss,
        prefix: redis.prefix.clone(),
        ..RedisConfig::new(&redis.url)
    })?;
    let name = format!("process-{}", std::process::id());
    let mut leases = RedisLeaseConfig::new(host_domain()?);
    leases.ttl = Duration::from_secs(arguments.lease_s);
    let ledger = RedisLedger::new(server.clone(), RedisLedgerConfig::new(leases.ttl + leases.grace));
    let slots = settings.slots.get(RUNTIME).copied().unwrap_or(1);
    let pool = pool(arguments, &name, slots, RedisLeases::new(server, leases)).await?;
    let (_say, ledger_trouble) = watch::channel(None);
    let grace = settings.grace;
    let parts = Parts {
        name,
        pool: pool.clone(),
        slots: u16::try_from(slots)?,
        offers: offers(),
        ledger,
        ledger_trouble,
        metrics: meters::start()?,
        object_spool: arguments.run_dir.join("objects"),
    };
    let stopped = serve(settings, parts, orders).await?;
    let grace = if stopped == Stopped::Drained { grace } else { Duration::ZERO };
    pool.close(grace).await?;
    Ok(stopped)
}

fn settings(arguments: &Arguments) -> Result<Settings> {
    let text = std::fs::read_to_string(&arguments.config).context("the settings")?;
    Ok(Settings::parse(&text, &|_| None)?)
}

/// How many threads such a worker runs its tasks on.
///
/// # Errors
/// There are no settings.
pub fn threads(arguments: &Arguments) -> Result<usize> {
    Ok(threads_here(&settings(arguments)?))
}

async fn pool(arguments: &Arguments, name: &str, slots: u32, leases: RedisLeases) -> Result<Pool> {
    let guard = GuardCommand { program: std::env::current_exe()?, arguments: vec!["guard".into()] };
    let machine = ProcessMachine {
        agent: vec![arguments.agent.to_string_lossy().into_owned()],
        guard,
        cgroups: hearth_pool::fakes::process::cgroups()?,
    };
    reclaim(&arguments.run_dir)?;
    let chances = Chances {
        seed: arguments.seed,
        restore_fails: arguments.restore_fails,
        dies: arguments.dies,
        dies_within: Duration::from_millis(arguments.dies_within_ms),
    };
    let restore_takes = Duration::from_millis(arguments.restore_ms);
    let (hypervisor, _) = machine.hypervisor(&arguments.run_dir, name, restore_takes, Some(chances)).await?;
    let mut config = Config::new(vec![RuntimeSlots { name: RUNTIME.into(), slots, warm_up: None }]);
    config.restores_at_once = arguments.restores_at_once;
    // By default as it is everywhere; of a short lease a larger part, since a VM needs no less time to be destroyed.
    config.lease_margin = LEASE_MARGIN.min(Duration::from_secs(arguments.lease_s) / 3);
    config.limits.destroy = config.lease_margin.mul_f64(0.8);
    config.observer = Some(meters::observer());
    Ok(Pool::spawn(config, hypervisor, leases))
}

fn orders() -> Result<mpsc::Receiver<Order>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (give, orders) = mpsc::channel(4);
    tokio::spawn(async move {
        while terminate.recv().await.is_some() && give.send(Order::Drain).await.is_ok() {}
    });
    Ok(orders)
}
