//! Log records, to stderr, for people or for machines; and spans, to a collector of traces.

use std::io::{self, IsTerminal};

use hearth_worker::{settings::TelemetrySettings, trace::TARGET};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use super::{
    exit::{Exit, Failure},
    traces::Traces,
};
use crate::config::{Config, LogFormat};

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// What is written can be changed while the command runs.
#[derive(Clone)]
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// From now on this. Checked before: see [`EnvFilter`].
    pub fn set(&self, filter: &str) -> Result<(), Failure> {
        let told = parse(filter).map(|parsed| self.0.reload(parsed));
        told?.map_err(|error| Failure::from_error(Exit::Internal, &error))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(Exit::Usage, format!("the log filter {filter:?}: {error}")))
}

/// Starts logging as the command line says. Once per process.
pub fn start(config: &Config) -> Result<(), Failure> {
    let (records, _) = records(config, config.log_filter())?;
    let started = tracing_subscriber::registry().with(records).try_init();
    started.map_err(|error| Failure::from_error(Exit::Internal, &error))
}

/// Starts logging for a worker: the command line goes before its settings, which by default say `info`. Spans of jobs go
/// to the collector, if one is configured. Once per process, within a tokio runtime.
pub fn start_worker(
    config: &Config,
    settings: &TelemetrySettings,
    worker: &str,
) -> Result<(Filter, Option<Traces>), Failure> {
    let (records, filter) = records(config, worker_filter(config, settings))?;
    let mut layers = vec![records];
    let traces =
        settings.otlp_endpoint.as_deref().map(|endpoint| Traces::open(endpoint, worker)).transpose()?;
    if let Some(traces) = &traces {
        layers.push(
            traces.layer().with_filter(Targets::new().with_target(TARGET, tracing::Level::TRACE)).boxed(),
        );
    }
    let started = tracing_subscriber::registry().with(layers).try_init();
    started.map_err(|error| Failure::from_error(Exit::Internal, &error))?;
    Ok((filter, traces))
}

/// Which log records a worker writes.
pub fn worker_filter<'a>(config: &'a Config, settings: &'a TelemetrySettings) -> &'a str {
    match (&settings.log, config.log.is_some() || config.quiet || config.verbose > 0) {
        (Some(filter), false) => filter,
        (None, false) => "info,lapin=off",
        (_, true) => config.log_filter(),
    }
}

fn records(config: &Config, filter: &str) -> Result<(AnyLayer, Filter), Failure> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let layer: AnyLayer = match config.effective_log_format() {
        LogFormat::Human => {
            let people = tracing_subscriber::fmt::layer().with_writer(io::stderr);
            people
                .with_ansi(io::stderr().is_terminal())
                .with_target(false)
                .compact()
                .with_filter(filter)
                .boxed()
        }
        LogFormat::Json => {
            let mut machines = json_subscriber::JsonLayer::stderr();
            machines.with_timer("timestamp", tracing_subscriber::fmt::time::SystemTime);
            machines.with_level("level").with_target("target");
            // What the job's span says stands in each of its lines, beside what the line itself says.
            machines.with_top_level_flattened_span_list().with_flattened_event();
            machines.with_filter(filter).boxed()
        }
    };
    Ok((layer, Filter(handle)))
}
