//! `hearth worker`: the service.

mod services;
mod warmth;

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use hearth_pool::net::runtime_of;
use hearth_worker::{
    ledger::trouble,
    local::Local,
    meters,
    run::{Order, Parts, Stopped, run as serve},
    settings::Settings,
    threads::threads_here,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use self::services::Services;
use super::{
    exit::{Exit, Failure},
    host,
    log::{self, Filter},
    output,
};
use crate::config::{Config, setting};

/// Serve jobs from RabbitMQ until told to stop
///
/// SIGTERM or Ctrl-C: take nothing more, finish what runs, stop; a second one, or the end of the grace, stops at once, and
/// what ran runs again elsewhere. SIGHUP: read the settings again, as far as they can be changed while jobs run: tenants,
/// limits of jobs, stores of objects, where results may go, which log records are written; the log says what needs a
/// restart. Exit code 0: drained. 69: this host has no VMs. 70: its guard died. 75: stopped at once. 78: the
/// settings are wrong.
#[derive(Debug, Args)]
#[command(
    after_help = "Every setting can be given by the environment instead: broker.url is HEARTH_WORKER_BROKER_URL.\n\n\
    Example settings:\n  \
    [broker]\n  url = \"amqp://hearth:secret@rabbit/%2f\"\n  \
    [redis]\n  url = \"redis://redis/0\"\n  \
    [slots]\n  python = 40\n  \
    [pool]\n  mode = \"auto\"\n  target_wait_ms = 50\n  memory_budget_mib = 8192\n  \
    [worker]\n  admin = \"127.0.0.1:9102\"\n  \
    [telemetry]\n  otlp_endpoint = \"http://127.0.0.1:4318\""
)]
pub struct Arguments {
    /// The settings, as TOML
    #[arg(long, value_name = "FILE", env = "HEARTH_WORKER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Check the settings, and do nothing
    #[arg(long)]
    check: bool,
}

/// Reads the settings, then serves.
pub fn run(config: &Config, arguments: &Arguments) -> Result<Exit, Failure> {
    let settings = settings(config, arguments)?;
    if arguments.check {
        output::line("the settings are fine")?;
        return Ok(Exit::Accepted);
    }
    super::block_on_threads(Some(threads_here(&settings)), work(config, arguments, settings))
}

fn settings(config: &Config, arguments: &Arguments) -> Result<Settings, Failure> {
    let text = match &arguments.config {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::new(Exit::NoInput, format!("{}: {error}", path.display())))?,
    };
    Settings::parse(&text, &setting)
        .map(|settings| settings.with_data_dir(&config.data_dir))
        .map_err(|error| Failure::new(Exit::Config, format!("settings:\n{error}")))
}

async fn work(config: &Config, arguments: &Arguments, settings: Settings) -> Result<Exit, Failure> {
    let name = host::worker();
    let (filter, traces) = log::start_worker(config, &settings.telemetry, &name)?;
    let worked = serve_here(config, arguments, settings, name, filter).await;
    if let Some(traces) = traces {
        traces.close().await;
    }
    worked
}

async fn serve_here(
    config: &Config,
    arguments: &Arguments,
    settings: Settings,
    name: String,
    filter: Filter,
) -> Result<Exit, Failure> {
    let (give, orders) = mpsc::channel(4);
    listen(config, arguments, filter, give.clone())?;
    let metrics = meters::start().map_err(|error| Failure::from_error(Exit::Internal, &error))?;
    let mut host = host::open(config, &name).await?;
    host.network = settings.network.config(host.network);
    host.rates = settings.rates;
    let runtimes = super::runtimes(config)?;
    let with_cards = settings.slots.keys().map(String::as_str).filter(|key| runtime_of(key).1);
    let mut offers = host.offers(runtimes.iter().map(|runtime| runtime.name.as_str()).chain(with_cards));
    if !settings.slots.is_empty() {
        offers.retain(|runtime, _| settings.slots.contains_key(runtime));
    }
    let missing: Vec<_> =
        settings.slots.keys().filter(|runtime| !offers.contains_key(*runtime)).cloned().collect();
    if offers.is_empty() || !missing.is_empty() {
        let what = if missing.is_empty() { "any runtime".to_owned() } else { missing.join(", ") };
        return Err(Failure::new(Exit::Unavailable, format!("no snapshot of {what} that fits this host"))
            .remedy("hearth bake makes it"));
    }
    let mut snapshots = BTreeMap::new();
    for runtime in offers.keys() {
        let snapshot =
            host.snapshot(runtime).map_err(|error| Failure::from_error(Exit::Unavailable, &error))?;
        // In use until the pool is open, which holds what its VMs are of.
        snapshots.insert(runtime.clone(), snapshot);
    }
    let (pool, total) = warmth::pool(&settings, &snapshots)?;
    let services = Services::open(&settings)?;
    services.first_start(&settings).await;
    let local = match services.leases()? {
        Some(leases) => Local::open_with(&host, pool, leases).await,
        None => Local::open(&host, pool).await,
    };
    drop(snapshots);
    let mut local = local.map_err(|error| host::failure(&error))?;
    let dead = local.guard_dead();
    tokio::spawn(async move {
        dead.await;
        let _ = give.send(Order::Fault("the guard is dead, and its VMs with it".to_owned())).await;
    });
    let grace = settings.grace;
    let parts = Parts {
        name,
        pool: local.pool().clone(),
        slots: u16::try_from(total).unwrap_or(u16::MAX),
        offers,
        ledger: services.ledger(),
        ledger_trouble: trouble(services.server()),
        metrics,
        object_spool: host.object_spool(),
    };
    let schedule = tokio::spawn(warmth::follow_schedule(settings.pool.clone(), parts.pool.clone()));
    let stopped = serve(settings, parts, orders).await;
    schedule.abort();
    let grace = if matches!(stopped, Ok(Stopped::Drained)) { grace } else { std::time::Duration::ZERO };
    if let Err(error) = local.close(grace).await {
        tracing::error!(%error, "the guard ends what is left");
    }
    match stopped.map_err(|error| Failure::from_error(Exit::Unavailable, &error))? {
        Stopped::Drained => Ok(Exit::Accepted),
        Stopped::AtOnce => Ok(Exit::Temporary),
        Stopped::Fault => Err(Failure::new(Exit::Internal, "the guard died; what ran runs again elsewhere")
            .remedy("start the worker again: its first act is to clear up")),
    }
}

/// Signals as orders. Settings that are wrong are not taken.
fn listen(
    config: &Config,
    arguments: &Arguments,
    filter: Filter,
    give: mpsc::Sender<Order>,
) -> Result<(), Failure> {
    let on = |kind| signal(kind).map_err(|error| Failure::from_error(Exit::Internal, &error));
    let (mut interrupt, mut terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    let mut hangup = on(SignalKind::hangup())?;
    let (config, arguments) = (config.clone(), Arguments { config: arguments.config.clone(), check: false });
    tokio::spawn(async move {
        loop {
            let order = tokio::select! {
                _ = interrupt.recv() => Order::Drain,
                _ = terminate.recv() => Order::Drain,
                _ = hangup.recv() => match settings(&config, &arguments) {
                    Ok(settings) => {
                        if let Err(error) = filter.set(log::worker_filter(&config, &settings.telemetry)) {
                            tracing::error!(%error, "the log stays as it was");
                        }
                        Order::Reload(Box::new(settings))
                    }
                    Err(error) => {
                        tracing::error!(%error, "the settings stay as they were");
                        continue;
                    }
                },
            };
            if give.send(order).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
