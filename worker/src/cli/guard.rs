//! `hearth guard`: started by the worker itself, for its VMs.

use clap::Args;

use super::exit::{Exit, Failure};

/// End a dead worker's VMs (started by hearth itself)
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Arguments {}

/// Serves until the worker is gone. On the main thread and without a tokio runtime: children die with their thread.
pub fn run() -> Result<Exit, Failure> {
    match hearth_pool::guard::serve() {
        Ok(()) => Ok(Exit::Accepted),
        Err(error) => Err(Failure::from_error(Exit::Internal, &error)),
    }
}
