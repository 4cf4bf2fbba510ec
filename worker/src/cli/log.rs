//! Log records: to stderr, for people or for machines.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

use super::exit::{Exit, Failure};
use crate::config::{Config, LogFormat};

/// Starts logging. Once per process.
pub fn start(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(config.log_filter())
        .map_err(|error| Failure::new(Exit::Usage, format!("--log {:?}: {error}", config.log_filter())))?;
    let records = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let records: Box<dyn Layer<Registry> + Send + Sync> = match config.effective_log_format() {
        LogFormat::Human => {
            records.with_ansi(io::stderr().is_terminal()).with_target(false).compact().boxed()
        }
        LogFormat::Json => records.json().flatten_event(true).boxed(),
    };
    let started = tracing_subscriber::registry().with(records.with_filter(filter)).try_init();
    started.map_err(|error| Failure::from_error(Exit::Internal, &error))
}
