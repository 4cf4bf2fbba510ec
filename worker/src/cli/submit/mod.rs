//! `hearth submit`: jobs to RabbitMQ, results from there.

mod batch;
mod follow;
mod single;
mod whole;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use hearth_schemas::{
    job::{is_name, probe},
    result::{JobResult, Status},
};
use hearth_worker::{amqp::client::JobClient, trace::TraceContext};
use ulid::Ulid;

use self::{single::Single, whole::Whole};
use super::{
    broker::{Broker, away},
    exit::{Exit, Failure},
    follow::{Form, Printer, asking},
    interrupt::Interrupted,
    output,
};
use crate::config::{Config, setting};

/// The pause before a broken connection is made anew.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// How often in a row that may fail.
const RECONNECTS_MAX: u32 = 60;

/// Send jobs to RabbitMQ, and wait for their results when asked
///
/// One job: prints its id, or with --wait its result. A batch: one job per line; results are written as they come, one per
/// line. Exit code 0: sent, or with results: all were accepted. 1: some were not. 65: the input is wrong. 69: no worker was
/// ever there. 75: the broker is away. 130: Ctrl-C; --resume goes on from there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hearth submit job.json --wait\n  \
    hearth submit job.json --follow                   and see what it prints while it runs\n  \
    hearth submit --batch jobs.jsonl --out results.jsonl\n  \
    hearth submit --batch jobs.jsonl --out results.jsonl --resume     after it was interrupted\n  \
    generate | hearth submit --batch - | jq -r .status")]
pub struct Arguments {
    /// A job (JSON), or `-` for one on standard input
    #[arg(value_name = "JOB", required_unless_present = "batch")]
    job: Option<PathBuf>,
    /// Wait for the result, and print it
    #[arg(long, conflicts_with = "batch")]
    wait: bool,
    /// As --wait, and print output and what happens as it comes: on stderr, or with --json each event on a line of stdout
    #[arg(long, conflicts_with = "batch")]
    follow: bool,
    /// Events as lines of JSON
    #[arg(long, requires = "follow")]
    json: bool,
    /// Jobs, one per line, or `-` for standard input; each needs an id of its own or gets one from what it says and its line
    #[arg(long, value_name = "FILE", conflicts_with = "job")]
    batch: Option<PathBuf>,
    /// Where results go, one per line [default: standard output]
    #[arg(long, value_name = "FILE", requires = "batch")]
    out: Option<PathBuf>,
    /// Leave out jobs that have a result in --out, and append
    #[arg(long, requires = "out")]
    resume: bool,
    /// Results in the order of the jobs; else as they come
    #[arg(long, requires = "batch")]
    ordered: bool,
    /// A file whose table [objects] says how to reach the stores where workers keep results that are too large for a message;
    /// without it, or where it does not help, such a result comes in short, with the name of the whole
    #[arg(long, value_name = "FILE", env = "HEARTH_OBJECTS", hide_env_values = true)]
    objects: Option<PathBuf>,
    /// Jobs under way at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    window: u32,
    #[command(flatten)]
    broker: Broker,
}

/// Sends what there is.
pub fn run(config: &Config, arguments: &Arguments) -> Result<Exit, Failure> {
    match (&arguments.batch, &arguments.job) {
        (Some(batch), _) => super::block_on(batch::run(config, arguments, batch)),
        (None, Some(job)) => super::block_on(one(config, arguments, job)),
        (None, None) => Err(Failure::new(Exit::Usage, "neither a job nor --batch is given")),
    }
}

async fn one(config: &Config, arguments: &Arguments, job: &Path) -> Result<Exit, Failure> {
    let mut interrupted = Interrupted::listen()?;
    let body = Bytes::from(read(job)?);
    let body = if arguments.follow { asking(body) } else { body };
    let whole = Whole::open(arguments.objects.as_deref())?;
    let id = probe(&body).id.filter(|id| is_name(id)).unwrap_or_else(|| Ulid::generate().to_string());
    let (endpoint, names) = (arguments.broker.endpoint()?, arguments.broker.names()?);
    if !arguments.wait && !arguments.follow {
        let client = JobClient::connect(&endpoint, &names).await.map_err(|error| failure(&error))?;
        // Nobody reads the queue that goes with this connection.
        let (sender, _replies) = client.split();
        let sent = sender.with_trace(trace()).send_without_reply(&id, &body).await;
        sent.map_err(|error| failure(&error))?;
        output::line(&id)?;
        return Ok(Exit::Accepted);
    }
    let form = if arguments.json { Form::Json } else { Form::Text { quiet: config.quiet } };
    let printer = arguments.follow.then(|| Printer::new(form));
    let single = Single { endpoint: &endpoint, names: &names, id, body, printer };
    let reply = tokio::select! {
        reply = single.result() => reply?,
        failure = interrupted.wait() => return Err(failure),
    };
    let body = whole.of(reply.body).await;
    let result: JobResult =
        serde_json::from_slice(&body).map_err(|error| Failure::from_error(Exit::Internal, &error))?;
    output::line(&String::from_utf8_lossy(&body))?;
    Ok(match result.status {
        Status::Finished if result.is_accepted() => Exit::Accepted,
        Status::Finished => Exit::NotAccepted,
        Status::Refused => Exit::Data,
        Status::InfraError => Exit::Internal,
        Status::Cancelled | Status::Expired => Exit::Temporary,
    })
}

/// The trace that this command is part of, as its environment says.
fn trace() -> Option<TraceContext> {
    Some(TraceContext { traceparent: setting("TRACEPARENT")?, tracestate: setting("TRACESTATE") })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = match path == Path::new("-") {
        true => {
            let mut body = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut body).map(|_| body)
        }
        false => std::fs::read(path),
    };
    read.map_err(|error| Failure::new(Exit::NoInput, format!("{}: {error}", path.display())))
}

/// Why a job was not sent, as an exit code.
fn failure(error: &hearth_worker::amqp::client::ClientError) -> Failure {
    match error {
        hearth_worker::amqp::client::ClientError::NoIntake(_) => {
            Failure::from_error(Exit::Unavailable, error)
        }
        _ => away(error),
    }
}
