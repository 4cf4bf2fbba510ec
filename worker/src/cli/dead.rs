//! `hearth dead`: messages that nobody could deal with.

use clap::{Args, Subcommand};
use hearth_worker::amqp::dead::{Act, Dead, Done, each};

use super::{
    broker::{Broker, away},
    exit::{Exit, Failure},
    output::{self, Style},
};

/// List, retry or drop messages that nobody could deal with
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hearth dead list --json | jq -r .id\n  \
    hearth dead retry 01J8Z3\n  \
    hearth dead drop --all")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List them, the oldest first
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        most: u32,
        /// As JSON, one per line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        broker: Broker,
    },
    /// Send them again, under new ids, which are printed: the old ones have their results
    Retry(Which),
    /// Remove them for good
    Drop(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// Their ids
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    broker: Broker,
}

/// Does what was asked.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::List { most, json, broker } => {
            for Done { dead, .. } in super::block_on(go(broker, *most, |_| Act::Keep))? {
                match json {
                    true => output::json(&dead, Style::Compact)?,
                    false => output::line(&line(&dead))?,
                }
            }
            Ok(Exit::Accepted)
        }
        Command::Retry(which) => act(which, Act::Retry),
        Command::Drop(which) => act(which, Act::Drop),
    }
}

/// 0 when there was each of them.
fn act(which: &Which, act: Act) -> Result<Exit, Failure> {
    let chosen = |dead: &Dead| which.all || which.ids.contains(&dead.id);
    let decide = |dead: &Dead| if chosen(dead) { act } else { Act::Keep };
    let done = super::block_on(go(&which.broker, u32::MAX, decide))?;
    let done: Vec<_> = done.into_iter().filter(|done| chosen(&done.dead)).collect();
    for Done { dead, new_id } in &done {
        output::line(new_id.as_ref().unwrap_or(&dead.id))?;
    }
    let missing: Vec<_> =
        which.ids.iter().filter(|id| !done.iter().any(|done| done.dead.id == **id)).cloned().collect();
    match missing.is_empty() {
        true => Ok(Exit::Accepted),
        false => Err(Failure::new(Exit::Data, format!("not among the dead: {}", missing.join(", ")))),
    }
}

async fn go(broker: &Broker, most: u32, decide: impl FnMut(&Dead) -> Act) -> Result<Vec<Done>, Failure> {
    let (names, link) = (broker.names()?, broker.link("hearth dead").await?);
    let done = each(&link, &names, most, decide).await.map_err(|error| away(&error))?;
    link.close().await;
    Ok(done)
}

fn line(dead: &Dead) -> String {
    let id = if dead.id.is_empty() { "-" } else { &dead.id };
    // What somebody sent must not move the reader's cursor.
    let shown = |text: &str| text.chars().take(160).collect::<String>().escape_debug().to_string();
    format!("{}\t{} attempts\t{} bytes\t{}", shown(id), dead.attempts, dead.bytes, shown(&dead.reason))
}
