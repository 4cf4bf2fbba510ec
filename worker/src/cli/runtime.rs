//! `hearth runtime`: which runtimes there are, and what they say.

use clap::{Args, Subcommand};
use hearth_pool::runtime::{Runtime, Runtimes};
use hearth_schemas::limits::AGENT_RESERVE_MIB;

use super::{
    exit::{Exit, Failure},
    output::{self, Style},
};
use crate::config::Config;

/// List the runtimes, or show one
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hearth runtime list\n  \
    hearth runtime show python > python.toml       a start for a runtime of your own\n  \
    hearth --runtimes /etc/hearth/runtimes runtime list --json")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the runtimes that jobs may ask for
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show one runtime as TOML
    Show {
        /// Its name
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Prints what was asked.
pub fn run(config: &Config, arguments: &Arguments) -> Result<Exit, Failure> {
    let runtimes = super::runtimes(config)?;
    match &arguments.command {
        Command::List { json: true } => output::json(&runtimes.iter().collect::<Vec<_>>(), Style::Pretty)?,
        Command::List { json: false } => output::line(&table(&runtimes))?,
        Command::Show { name, json } => {
            let runtime = find(&runtimes, name)?;
            if *json {
                output::json(runtime, Style::Pretty)?;
            } else {
                let text = toml::to_string_pretty(runtime);
                output::line(&text.map_err(|error| Failure::from_error(Exit::Internal, &error))?)?;
            }
        }
    }
    Ok(Exit::Accepted)
}

/// The runtime of that name, or a failure that lists those there are.
pub fn find<'a>(runtimes: &'a Runtimes, name: &str) -> Result<&'a Runtime, Failure> {
    runtimes.get(name).ok_or_else(|| {
        let known: Vec<&str> = runtimes.iter().map(|runtime| runtime.name.as_str()).collect();
        Failure::new(Exit::Data, format!("no runtime {name:?}; there are: {}", known.join(", ")))
    })
}

fn table(runtimes: &Runtimes) -> String {
    let mut text = format!(
        "{:<12} {:>5} {:>10} {:>11}  {}\n",
        "RUNTIME", "VCPUS", "JOB MEMORY", "JOB SCRATCH", "PACKAGES"
    );
    for runtime in runtimes.iter() {
        text += &format!(
            "{:<12} {:>5} {:>6} MiB {:>7} MiB  {}\n",
            runtime.name,
            runtime.vcpus,
            runtime.vm_memory_mib.saturating_sub(AGENT_RESERVE_MIB),
            runtime.scratch_mib,
            runtime.packages.join(" "),
        );
    }
    text
}
