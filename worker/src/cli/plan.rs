//! `hearth plan`: what other settings would have done to a load.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};
use hearth_pool::scale::sim::Takes;
use hearth_worker::plan::{
    self, Assumptions, Goal, Named, Outcome, Recommendation, Scenario, Trace, TraceFormat, prometheus,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    output::{self, Style},
};

/// Say what the settings, and others, would have done to a load, by simulating the pool's own rules
///
/// The load is a trace (CSV with a header of arrival, runtime, duration and, if wanted, lane; or JSONL with these fields; times in
/// seconds or as 2026-11-20T08:00:00Z), or rates out of Prometheus. Of the settings only [slots] and [pool] are looked at.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hearth plan jobs.csv --config worker.toml --set pool.mode=auto --set pool.target_wait_ms=100\n  \
    hearth plan jobs.jsonl --config worker.toml --proposed new.toml --svg plan.svg\n  \
    hearth plan jobs.csv --config worker.toml --recommend --target-wait-ms 50 --target-hit 0.99\n  \
    hearth plan --prometheus http://localhost:9090 --from 2026-11-20T00:00:00Z --config worker.toml")]
pub struct Arguments {
    /// The trace; - is standard input
    #[arg(value_name = "TRACE", required_unless_present = "prometheus")]
    trace: Option<PathBuf>,
    /// How the trace is written [default: by its name; standard input is csv]
    #[arg(long)]
    format: Option<Format>,
    /// The current settings, as TOML
    #[arg(long, value_name = "FILE", env = "HEARTH_WORKER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Proposed settings: a file [default: the current ones]
    #[arg(long, value_name = "FILE")]
    proposed: Option<PathBuf>,
    /// Proposed settings: a change, such as pool.mode=auto
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Look for the cheapest setting that reaches the targets
    #[arg(long)]
    recommend: bool,
    /// How long a job may wait [default: pool.target_wait_ms of the proposed settings]
    #[arg(long, value_name = "MS")]
    target_wait_ms: Option<u64>,
    /// The part of all jobs that waits no longer
    #[arg(long, value_name = "PART", default_value_t = 0.99)]
    target_hit: f64,
    /// As JSON, with the course of it
    #[arg(long)]
    json: bool,
    /// Draw memory, hits and waits over time
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    assumed: Assumed,
    #[command(flatten)]
    rates: Rates,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Csv,
    Jsonl,
}

/// What neither settings nor traces say. `hearth_restore_seconds` and `make bench` tell the times.
#[derive(Debug, Args)]
#[command(next_help_heading = "Assumptions")]
struct Assumed {
    /// From a turn to a Ready VM; for one runtime as python=700
    #[arg(long, value_name = "[RUNTIME=]MS", default_value = "500")]
    restore_ms: Vec<String>,
    /// Spread of it: standard deviation over mean, log-normal
    #[arg(long, value_name = "CV", default_value_t = 0.2)]
    restore_cv: f64,
    /// From the end of a job to a vacant slot
    #[arg(long, value_name = "MS", default_value_t = 50)]
    destroy_ms: u64,
    /// Processor time of one restore [default: as long as it takes]
    #[arg(long, value_name = "MS")]
    restore_cpu_ms: Option<u64>,
    /// Memory of a VM; for one runtime as gcc=512
    #[arg(long, value_name = "[RUNTIME=]MIB", default_value = "256")]
    vm_memory_mib: Vec<String>,
    /// Processors of a VM
    #[arg(long, value_name = "N", default_value_t = 1)]
    vm_cpus: u32,
    /// Another seed gives another run
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Rates out of Prometheus")]
struct Rates {
    /// The server, as http://HOST:PORT
    #[arg(long, value_name = "URL", conflicts_with = "trace")]
    prometheus: Option<String>,
    /// Jobs per second, by a label runtime
    #[arg(long, value_name = "PROMQL", default_value = prometheus::QUERY)]
    query: String,
    /// From when: 2026-11-20T08:00:00Z or seconds since 1970 [default: a day before the end]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Until when [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Between two values
    #[arg(long, value_name = "S", default_value_t = 60)]
    step_s: u32,
    /// Mean time that a job has its VM
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    duration_ms: u64,
}

#[derive(Serialize)]
struct Answer {
    outcomes: Vec<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recommendation: Option<Recommendation>,
}

/// Reads, simulates, prints.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let assumed = arguments.assumed.read()?;
    if !(0.0..1.0).contains(&arguments.target_hit) {
        return Err(Failure::new(Exit::Usage, "--target-hit: allowed is a number from 0 to 1"));
    }
    let (current, proposed) = scenarios(arguments)?;
    let trace = trace(arguments)?;
    let told = proposed.as_ref().unwrap_or(&current).pool.scaling.map(|policy| policy.target_wait);
    let wait = arguments.target_wait_ms.map(Duration::from_millis).or(told).unwrap_or_default();
    let simulated = |error: plan::ScenarioError| Failure::from_error(Exit::Config, &error);
    let mut outcomes = Vec::new();
    for scenario in [Some(&current), proposed.as_ref()].into_iter().flatten() {
        outcomes.push(scenario.run(&trace, &assumed, wait).map_err(simulated)?);
    }
    let mut recommendation = None;
    if arguments.recommend {
        let goal = Goal { wait, part: arguments.target_hit };
        let base = proposed.as_ref().unwrap_or(&current);
        recommendation = Some(plan::recommend(base, &trace, &assumed, goal).map_err(simulated)?);
    }
    print(arguments, Answer { outcomes, recommendation })
}

fn print(arguments: &Arguments, answer: Answer) -> Result<Exit, Failure> {
    let mut all = answer.outcomes.clone();
    all.extend(answer.recommendation.as_ref().map(|found| found.outcome.clone()));
    if let Some(path) = &arguments.svg {
        plan::plot(&all, path).map_err(|error| Failure::from_error(Exit::Output, &error))?;
    }
    let reached = answer.recommendation.as_ref().is_none_or(|found| found.settings.is_some());
    if arguments.json {
        output::json(&answer, Style::Pretty)?;
    } else {
        output::line(&plan::table(&all))?;
        if let Some(found) = &answer.recommendation {
            output::line(&recommended(found))?;
        }
    }
    Ok(if reached { Exit::Accepted } else { Exit::NotAccepted })
}

fn recommended(found: &Recommendation) -> String {
    match &found.settings {
        Some(settings) if settings.is_empty() => {
            format!("Of {} settings the present ones are the cheapest that reach the targets.", found.tried)
        }
        Some(settings) => {
            let settings: Vec<_> = settings.iter().map(|setting| format!("  --set {setting}")).collect();
            format!(
                "The cheapest of {} settings that reach the targets:\n{}",
                found.tried,
                settings.join("\n")
            )
        }
        None => format!(
            "None of {} settings reaches the targets; the last column came nearest. More slots, memory or turns are \
             needed (slots.*, pool.memory_budget_mib, pool.restores_at_once), or faster restores.",
            found.tried
        ),
    }
}

fn scenarios(arguments: &Arguments) -> Result<(Scenario, Option<Scenario>), Failure> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| Failure::new(Exit::NoInput, format!("{}: {error}", path.display())))
    };
    let wrong = |error: plan::ScenarioError| Failure::from_error(Exit::Config, &error);
    let current = arguments.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let proposed = arguments.proposed.as_deref().map(read).transpose()?;
    let changed = proposed.is_some() || !arguments.set.is_empty();
    let text = proposed.as_ref().unwrap_or(&current);
    let proposed = changed.then(|| plan::settings("proposed", text, &arguments.set)).transpose();
    Ok((plan::settings("current", &current, &[]).map_err(wrong)?, proposed.map_err(wrong)?))
}

fn trace(arguments: &Arguments) -> Result<Trace, Failure> {
    let Some(path) = &arguments.trace else { return arguments.rates.trace(arguments.assumed.seed) };
    let input = |error: io::Error| Failure::new(Exit::NoInput, format!("{}: {error}", path.display()));
    let jsonl = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "ndjson");
    let format = match arguments.format {
        Some(Format::Jsonl) => TraceFormat::Jsonl,
        None if jsonl => TraceFormat::Jsonl,
        Some(Format::Csv) | None => TraceFormat::Csv,
    };
    let read = if path.as_os_str() == "-" {
        let mut text = Vec::new();
        io::stdin().lock().read_to_end(&mut text).map_err(input)?;
        plan::read_trace(text.as_slice(), format)
    } else {
        plan::read_trace(BufReader::new(File::open(path).map_err(input)?), format)
    };
    read.map_err(|error| {
        let failure = Failure::from_error(Exit::Data, &error);
        Failure::new(Exit::Data, format!("{}: {}", path.display(), failure.message))
    })
}

impl Rates {
    fn trace(&self, seed: u64) -> Result<Trace, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let to = moment("--to", self.to.as_deref(), i64::try_from(now).unwrap_or(i64::MAX))?;
        let from = moment("--from", self.from.as_deref(), to.saturating_sub(86_400))?;
        if from >= to || self.step_s == 0 {
            return Err(Failure::new(Exit::Usage, "--from must be before --to, and --step-s at least 1"));
        }
        let url = self.prometheus.clone().unwrap_or_default();
        let step = Duration::from_secs(u64::from(self.step_s));
        let range = prometheus::Range { url, query: self.query.clone(), from, to, step };
        let duration = Duration::from_millis(self.duration_ms);
        super::block_on(async {
            let trace = prometheus::trace(&range, duration, seed).await;
            trace.map_err(|error| Failure::from_error(Exit::Unavailable, &error))
        })
    }
}

fn moment(flag: &str, text: Option<&str>, default: i64) -> Result<i64, Failure> {
    let Some(text) = text else { return Ok(default) };
    let at = text.parse().ok().or_else(|| text.parse::<Timestamp>().ok().map(Timestamp::as_second));
    at.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("{flag} {text:?}: allowed is 2026-11-20T08:00:00Z, or seconds since 1970"),
        )
    })
}

impl Assumed {
    fn read(&self) -> Result<Assumptions, Failure> {
        if !(0.0..=5.0).contains(&self.restore_cv) {
            return Err(Failure::new(Exit::Usage, "--restore-cv: allowed is a number from 0 to 5"));
        }
        let takes = |ms: u64| Takes { mean: Duration::from_millis(ms), cv: self.restore_cv };
        let restore = named("--restore-ms", &self.restore_ms, 500)?;
        Ok(Assumptions {
            restore: Named {
                all: takes(restore.all),
                some: restore.some.into_iter().map(|(name, ms)| (name, takes(ms))).collect(),
            },
            destroy: Duration::from_millis(self.destroy_ms),
            vm_memory_mib: named("--vm-memory-mib", &self.vm_memory_mib, 256)?,
            cpu_milli: u64::from(self.vm_cpus) * 1000,
            restore_cpu: self.restore_cpu_ms.map(Duration::from_millis),
            seed: self.seed,
        })
    }
}

/// Values for all runtimes or, as `NAME=VALUE`, for one.
fn named(flag: &str, texts: &[String], default: u64) -> Result<Named<u64>, Failure> {
    let mut named = Named { all: default, some: BTreeMap::new() };
    for text in texts {
        let (name, value) =
            text.split_once('=').map_or((None, text.as_str()), |(name, value)| (Some(name), value));
        let value =
            value.parse::<u64>().ok().filter(|value| (1..=1 << 30).contains(value)).ok_or_else(|| {
                Failure::new(
                    Exit::Usage,
                    format!("{flag} {text:?}: allowed is a whole number, or RUNTIME=NUMBER"),
                )
            })?;
        match name {
            Some(name) => drop(named.some.insert(name.to_owned(), value)),
            None => named.all = value,
        }
    }
    Ok(named)
}
