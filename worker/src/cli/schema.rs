//! `hearth schema`: the JSON Schemas of what crosses a wire.

use clap::{Args, ValueEnum};
use hearth_schemas::json_schemas;

use super::{
    exit::{Exit, Failure},
    output,
};

/// Print a JSON Schema
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hearth schema > job.schema.json     the job request, version 1\n  \
    hearth schema result                what comes back\n  \
    hearth schema event                 what `--follow` and hearth.events bring meanwhile\n  \
    hearth schema manifest              manifest.json of a snapshot")]
pub struct Arguments {
    /// Of what
    #[arg(value_enum, default_value = "job")]
    of: Of,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Of {
    /// The job request
    Job,
    /// The job result
    Result,
    /// A live event
    Event,
    /// The manifest of a snapshot
    Manifest,
}

/// Prints it.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let name = match arguments.of {
        Of::Job => "job",
        Of::Result => "result",
        Of::Event => "event",
        Of::Manifest => "manifest",
    };
    let schemas = json_schemas();
    let schema = schemas.iter().find(|(known, _)| *known == name);
    let missing = || Failure::new(Exit::Internal, format!("no schema of {name}"));
    output::line(&schema.ok_or_else(missing)?.1)?;
    Ok(Exit::Accepted)
}
