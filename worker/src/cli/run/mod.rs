//! `hearth run`: one job in one fresh VM, here and now; or many.

mod batch;
mod execute;
mod input;
mod outcome;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use hearth_pool::{
    net::with_card,
    runtime::{Runtime, Runtimes},
};
use hearth_schemas::result::JobResult;
use hearth_worker::{
    admit::{NetworkTerms, Offer, Terms},
    intake::Intake,
    objects::ObjectSettings,
    seams::Properties,
};
use ipnet::Ipv4Net;
use ulid::Ulid;

use super::{
    exit::{Exit, Failure},
    follow::{self, Follower, Form},
    output::Style,
};
use crate::config::Config;

/// Run a job, a source file, or many jobs, each in a fresh microVM
///
/// Prints the result as JSON; of a batch each on a line, as they come. Exit code 0: every stage was accepted. 1: the job ran and was not. 65: the job is refused,
/// before any VM is taken. 66: no such input. 69: no snapshot, or this host cannot run VMs. 70: our own fault. 75: the
/// job's deadline came first. 130: Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hearth run hello.py                              the runtime is told by the extension\n  \
    hearth run main.rb --runtime ruby                or by you\n  \
    hearth run job.json --json | jq -r '.stages[0].stdout'\n  \
    hearth run slow.py --follow                      see what it prints while it runs\n  \
    echo '{\"runtime\":\"python\",\"code\":\"print(1)\"}' | hearth run -\n  \
    echo 'print(1)' | hearth run - --runtime python\n  \
    hearth run --batch jobs.jsonl --parallel 4 --out results.jsonl\n  \
    generate | hearth run --batch - | jq -r .verdict")]
pub struct Arguments {
    /// A job (.json), a source file (.py, .c, .cpp, .js, .sh), or `-` for a job on standard input
    #[arg(value_name = "JOB", required_unless_present = "batch")]
    job: Option<PathBuf>,
    /// The runtime of a source file
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Wall time that a source file may take, in milliseconds [default: 10000]
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// A file whose table [objects] says which objects jobs may name, and where large outputs go; a worker's will do
    #[arg(long, value_name = "FILE", env = "HEARTH_OBJECTS", hide_env_values = true)]
    objects: Option<PathBuf>,
    /// The result on one line, and nothing but errors on stderr
    #[arg(long)]
    json: bool,
    /// Print output and what happens as it comes: on stderr, or with --json each event on a line of stdout, the result last
    #[arg(long)]
    follow: bool,
    /// Jobs, one per line, or `-` for standard input; each needs an id of its own or gets one from what it says and its line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["job", "runtime", "timeout_ms", "json", "follow"])]
    batch: Option<PathBuf>,
    /// VMs of a batch at once [default: one for each processor]
    #[arg(long, value_name = "N", requires = "batch", value_parser = clap::value_parser!(u32).range(1..=1000))]
    parallel: Option<u32>,
    /// Where the results of a batch go, one per line [default: standard output]
    #[arg(long, value_name = "FILE", requires = "batch")]
    out: Option<PathBuf>,
    /// Leave out jobs that have a result in --out, and append
    #[arg(long, requires = "out")]
    resume: bool,
    /// Results in the order of the jobs; else as they come
    #[arg(long, requires = "batch")]
    ordered: bool,
}

impl Arguments {
    /// What prints events, when that is asked for.
    fn follower(&self, quiet: bool) -> Option<Follower> {
        let form = if self.json { Form::Json } else { Form::Text { quiet } };
        self.follow.then(|| Follower::new(form))
    }

    fn parallel(&self) -> u32 {
        let processors = std::thread::available_parallelism().ok();
        let processors = processors.and_then(|count| u32::try_from(count.get()).ok());
        self.parallel.or(processors).unwrap_or(1)
    }

    fn style(&self) -> Style {
        if self.json { Style::Compact } else { Style::Pretty }
    }
}

/// Checks the job, then runs it; or a batch.
pub fn run(config: &Config, arguments: &Arguments) -> Result<Exit, Failure> {
    match (&arguments.batch, &arguments.job) {
        (Some(path), _) => {
            let runtimes = super::runtimes(config)?;
            super::block_on(batch::run(config, arguments, &runtimes, path))
        }
        (None, Some(job)) => one(config, arguments, job),
        (None, None) => Err(Failure::new(Exit::Usage, "neither a job nor --batch is given")),
    }
}

fn one(config: &Config, arguments: &Arguments, job: &Path) -> Result<Exit, Failure> {
    let input = input::classify(job, arguments.runtime.as_deref(), arguments.timeout_ms)?;
    let body = input::request(input, input::read(job)?)?;
    let body = if arguments.follow { follow::asking(body) } else { body };
    let runtimes = super::runtimes(config)?;
    let worker = super::host::worker();
    let objects = super::host::objects(arguments.objects.as_deref())?;
    let submission = Submission { id: Ulid::generate().to_string(), worker, body, objects };
    // As the runtimes are written; what was baked is asked once this host is known.
    let runtime = match submission.admit(terms(&runtimes)) {
        Ok(runtime) => runtime,
        Err(refused) => return outcome::report(&refused, arguments.style(), false),
    };
    let result = super::block_on(execute::execute(config, arguments, &runtimes, &submission, &runtime))?;
    outcome::report(&result, arguments.style(), !arguments.json && !config.quiet)
}

/// One request on its way to a VM.
#[derive(Debug)]
struct Submission {
    /// The job's id where it has none of its own.
    id: String,
    /// Who runs it.
    worker: String,
    /// The request.
    body: Bytes,
    /// Which objects it may name.
    objects: ObjectSettings,
}

impl Submission {
    /// The pool's key of the job's VM, if it is one; else the result that refuses it.
    fn admit(&self, terms: Terms) -> Result<String, Box<JobResult>> {
        let terms = Terms { objects: self.objects.terms(), network: everywhere(), ..terms };
        let intake = Intake::embedded(terms, &self.worker);
        intake.job(&self.body, &Properties::default(), &self.id).map(|job| job.pool_key())
    }
}

/// What the runtimes offer as they are written.
fn terms(runtimes: &Runtimes) -> Terms {
    let offer = |runtime: &Runtime| Offer {
        vm_memory_mib: runtime.vm_memory_mib,
        scratch_mib: runtime.scratch_mib,
        entry: runtime.entry.clone(),
        languages: runtime.languages.clone(),
    };
    let both =
        |runtime: &Runtime| [runtime.name.clone(), with_card(&runtime.name)].map(|key| (key, offer(runtime)));
    Terms::new(runtimes.iter().flat_map(both).collect())
}

/// Whoever runs a job by hand is the operator, and has named what it may reach.
pub(super) fn everywhere() -> NetworkTerms {
    NetworkTerms { private: vec![Ipv4Net::default()], host: Vec::new() }
}
