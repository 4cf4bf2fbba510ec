//! `hearth worker` with VMs that are processes, for tests that kill it. Never shipped.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use hearth_tests::process::{Arguments, run, threads};
use hearth_worker::run::Stopped;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
enum What {
    /// Serve jobs from RabbitMQ until told to stop.
    Worker(Arguments),
    /// End a dead worker's VMs.
    Guard,
}

fn main() -> Result<ExitCode> {
    match What::parse() {
        // On the main thread and without a runtime: children die with their thread.
        What::Guard => hearth_pool::guard::serve()?,
        What::Worker(arguments) => {
            let filter = EnvFilter::try_new("info,lapin=off")?;
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(threads(&arguments)?).enable_all().build()?;
            if runtime.block_on(run(&arguments))? == Stopped::AtOnce {
                return Ok(ExitCode::from(75));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
