//! The commands.

mod bake;
mod batch;
mod broker;
mod cancel;
mod dead;
mod doctor;
pub mod exit;
mod follow;
mod guard;
mod host;
mod hypervisor;
mod interrupt;
mod log;
mod memory;
mod output;
mod plan;
mod progress;
mod run;
mod runtime;
mod schema;
mod submit;
mod top;
mod topology;
mod traces;
mod worker;

use std::future::Future;

use clap::{Parser, Subcommand, error::ErrorKind};
use hearth_pool::runtime::Runtimes;

use self::exit::{Exit, Failure};
pub use self::hypervisor::Choice;
use crate::config::Config;

/// Run untrusted code in microVMs that start warm from a snapshot.
#[derive(Debug, Parser)]
#[command(
    name = "hearth",
    version,
    max_term_width = 110,
    after_help = "Data goes to stdout, everything else to stderr.\n\n\
        Examples:\n  \
        hearth doctor                       what this host can do\n  \
        hearth bake python                  build the image of `python` and snapshot it\n  \
        hearth run hello.py                 run a file in a fresh microVM\n  \
        hearth run job.json --json | jq .verdict\n  \
        hearth worker --config worker.toml  serve jobs from RabbitMQ\n  \
        hearth submit job.json --wait       send one there and wait for its result\n  \
        hearth top                          watch a worker"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    config: Config,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Bake(bake::Arguments),
    Runtime(runtime::Arguments),
    Schema(schema::Arguments),
    Doctor(doctor::Arguments),
    Worker(worker::Arguments),
    Submit(submit::Arguments),
    Cancel(cancel::Arguments),
    Dead(dead::Arguments),
    Topology(topology::Arguments),
    Plan(Box<plan::Arguments>),
    Top(top::Arguments),
    Guard(guard::Arguments),
}

/// Parses the command line, does what it says, and prints at most one error.
pub fn main() -> Exit {
    memory::keep_flat();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli) {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("hearth: {failure}");
            }
            failure.exit
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    // A worker's settings say more about its log.
    if !matches!(cli.command, Command::Worker(_)) {
        log::start(&cli.config)?;
    }
    let config = cli.config.resolved().map_err(|error| Failure::from_error(Exit::Config, &error))?;
    match cli.command {
        Command::Run(arguments) => run::run(&config, &arguments),
        Command::Bake(arguments) => bake::run(&config, &arguments),
        Command::Runtime(arguments) => runtime::run(&config, &arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&config, &arguments),
        Command::Worker(arguments) => worker::run(&config, &arguments),
        Command::Submit(arguments) => submit::run(&config, &arguments),
        Command::Cancel(arguments) => cancel::run(&arguments),
        Command::Dead(arguments) => dead::run(&arguments),
        Command::Topology(arguments) => topology::run(&config, &arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Guard(_) => guard::run(),
    }
}

/// Help and version are data and go to stdout; everything else is a usage error.
fn usage(error: &clap::Error) -> Exit {
    let exit = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Accepted,
        _ => Exit::Usage,
    };
    // Where it cannot be printed, nobody reads.
    let _ = error.print();
    exit
}

/// The runtimes that the configuration gives.
fn runtimes(config: &Config) -> Result<Runtimes, Failure> {
    Runtimes::load(config.runtimes.as_deref()).map_err(|error| Failure::from_error(Exit::Config, &error))
}

/// Runs a command's asynchronous part. Not for `guard`, whose children die with the thread that made them.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on_threads(None, work)
}

/// The same on so many threads; `None`: as many as there are cores.
fn block_on_threads<T>(
    threads: Option<usize>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    threads.map(|threads| builder.worker_threads(threads));
    let runtime = builder.enable_all().build();
    runtime.map_err(|error| Failure::from_error(Exit::Internal, &error))?.block_on(work)
}
