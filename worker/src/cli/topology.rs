//! `hearth topology`: what Hearth needs on a broker.

use clap::Args;
use hearth_worker::amqp::{
    declare::{apply, check},
    names::SHARDS,
    permissions::Permissions,
    topology::Topology,
};

use super::{
    broker::{Broker, away},
    exit::{Exit, Failure},
    output::{self, Style},
};
use crate::config::Config;

/// Print, check or declare what Hearth needs on a broker, for operators whose workers may not declare
///
/// Exit code 0: it is all there, or declared. 1: something is absent or different. 75: the broker is away. Bindings cannot
/// be checked over AMQP.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hearth topology                        what is needed, one line for each thing\n  \
    hearth topology --permissions          which users the broker should let do what\n  \
    hearth topology --check --broker amqp://localhost\n  \
    hearth topology --apply --runtime python --runtime gcc")]
pub struct Arguments {
    /// Say what is absent or different, and change nothing
    #[arg(long, conflicts_with_all = ["apply", "print", "permissions"])]
    check: bool,
    /// Declare it
    #[arg(long, conflicts_with_all = ["print", "permissions"])]
    apply: bool,
    /// Print it [default]
    #[arg(long)]
    print: bool,
    /// Print what workers, producers and operators need: the patterns of `rabbitmqctl set_permissions`, configure, write
    /// and read. Only workers may publish to anything but the exchange of jobs: what is in run queues is believed
    #[arg(long, conflicts_with = "print")]
    permissions: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// A runtime that workers offer; may be given often [default: all that are configured]
    #[arg(long = "runtime", value_name = "NAME")]
    offered: Vec<String>,
    /// Run queues of each runtime and lane; the same as in the workers' settings
    #[arg(long, value_name = "N", default_value_t = SHARDS, value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: u16,
    #[command(flatten)]
    broker: Broker,
}

/// Does what was asked.
pub fn run(config: &Config, arguments: &Arguments) -> Result<Exit, Failure> {
    let names = arguments.broker.names()?;
    if arguments.permissions {
        let all = Permissions::all(&names);
        match arguments.json {
            true => output::json(&all, Style::Pretty)?,
            false => output::line(&all.map(|one| one.to_string()).join("\n"))?,
        }
        return Ok(Exit::Accepted);
    }
    let runtimes = match arguments.offered.is_empty() {
        true => super::runtimes(config)?.iter().map(|runtime| runtime.name.clone()).collect(),
        false => arguments.offered.clone(),
    };
    let topology = Topology::new(&names, runtimes.iter().map(String::as_str), arguments.shards);
    if arguments.apply {
        return super::block_on(declare(arguments, &topology));
    }
    if arguments.check {
        return super::block_on(compare(arguments, &topology));
    }
    match arguments.json {
        true => output::json(&topology, Style::Pretty)?,
        false => output::line(&topology.to_string())?,
    }
    Ok(Exit::Accepted)
}

async fn declare(arguments: &Arguments, topology: &Topology) -> Result<Exit, Failure> {
    let link = arguments.broker.link("hearth topology").await?;
    let channel = link.channel().await.map_err(|error| away(&error))?;
    let applied = apply(&channel, topology).await;
    applied.map_err(|error| {
        Failure::from_error(Exit::Config, &error)
            .remedy("a queue's arguments cannot be changed: drain it, delete it, and run this again")
    })?;
    link.close().await;
    Ok(Exit::Accepted)
}

async fn compare(arguments: &Arguments, topology: &Topology) -> Result<Exit, Failure> {
    let link = arguments.broker.link("hearth topology").await?;
    let lacks = check(&link, topology).await.map_err(|error| away(&error))?;
    link.close().await;
    for lack in &lacks {
        let how = if lack.absent { "absent" } else { "different" };
        output::line(&format!("{how}: {} ({})", lack.what, lack.message))?;
    }
    Ok(if lacks.is_empty() { Exit::Accepted } else { Exit::NotAccepted })
}
