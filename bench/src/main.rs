//! `hearth-bench run`, `hearth-bench service`, `hearth-bench pools` and `hearth-bench compare`.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use hearth_bench::{
    Plan,
    by_hand::ByHand,
    cases, floor, pools, restores,
    series::Report,
    service::{self, ServicePlan},
    sessions, transfers, wire,
};
use hearth_tests::real::{Machine, Worker};
use hearth_worker::local::Host;

/// How long things take, against floors measured in the same run.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure: ours, floor, ours, floor, …
    Run {
        /// Pairs of samples of each series.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
        samples: u16,
        /// Only series whose names contain this.
        #[arg(long)]
        only: Option<String>,
        /// The runtime whose snapshot is restored.
        #[arg(long, default_value = "python")]
        runtime: String,
        /// Write every sample here, for `compare`.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// What the service itself costs, over RabbitMQ and Redis, with VMs that are processes; as a Markdown table.
    Service {
        /// Slots of the worker.
        #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
        slots: Vec<u32>,
        /// Jobs that wait all the time.
        #[arg(long, value_delimiter = ',', default_value = "1000,100000")]
        queued: Vec<u64>,
        /// Slots of the worker when jobs wait.
        #[arg(long, default_value_t = 10)]
        queue_slots: u32,
        /// Times that each setting is measured.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
        repeats: u16,
        /// Jobs whose overhead is looked at each time.
        #[arg(long, default_value_t = 300)]
        samples: usize,
        /// For how long the worker is kept saturated, in seconds.
        #[arg(long, default_value_t = 10)]
        saturated_s: u64,
        /// VMs that are being restored at once.
        #[arg(long, default_value_t = 4)]
        restores_at_once: u16,
        /// Threads that the worker runs its tasks on, instead of its own choice.
        #[arg(long)]
        threads: Option<u16>,
        /// Have `perf` record the saturated worker into this file.
        #[arg(long)]
        perf: Option<PathBuf>,
    },
    /// Compare pools under made-up loads, in virtual time, as a Markdown table.
    Pools {
        /// Runs of each.
        #[arg(long, default_value_t = pools::SEEDS, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compare two runs.
    Compare {
        /// The older run.
        before: PathBuf,
        /// The newer run.
        now: PathBuf,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    match Arguments::parse().what {
        What::Run { samples, only, runtime, out } => {
            let plan = Plan { samples: samples.into(), only, runtime };
            let report = run(&plan).await?;
            if let Some(out) = out {
                let text = serde_json::to_string_pretty(&report)?;
                fs::write(&out, text).with_context(|| format!("writing {}", out.display()))?;
            }
            print!("{}\n{}", report.machine, report.table());
        }
        What::Service {
            slots,
            queued,
            queue_slots,
            repeats,
            samples,
            saturated_s,
            restores_at_once,
            threads,
            perf,
        } => {
            let plan = ServicePlan {
                slots,
                queued,
                queue_slots,
                repeats,
                samples,
                saturated_s,
                restores_at_once,
                threads,
                perf,
            };
            print!("{}", service::table(&service::run(&plan).await?));
        }
        What::Pools { seeds, json } => {
            let lines: Vec<_> =
                pools::settings().iter().flat_map(|setting| pools::compare(setting, seeds)).collect();
            match json {
                true => println!("{}", serde_json::to_string_pretty(&lines)?),
                false => print!("{}", pools::table(&lines)),
            }
        }
        What::Compare { before, now } => print!("{}", read(&now)?.compare(&read(&before)?)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(plan: &Plan) -> Result<Report> {
    let mut report = Report::default();
    let cores = std::thread::available_parallelism()?;
    report.machine = format!("{cores} cores");
    if let Some(machine) = Machine::find()? {
        machine.baked(&plan.runtime)?;
        let run_dir = Worker::run_dir()?;
        let host = Worker::host(&machine, run_dir.path().into()).await?;
        vms(plan, &machine, &host, &mut report).await?;
    }
    wire::run(plan, &mut report).await?;
    if let Some(only) = &plan.only {
        report.keep(only);
    }
    Ok(report)
}

async fn vms(plan: &Plan, machine: &Machine, host: &Host, report: &mut Report) -> Result<()> {
    let manifest = host.snapshot(&plan.runtime)?.manifest;
    let accelerator = format!("{:?}", manifest.accelerator).to_lowercase();
    report.machine += &format!(", {accelerator}, {}, {} MiB", plan.runtime, manifest.machine.vm_memory_mib);
    let by_hand = ByHand::new(host, &plan.runtime)?;
    if plan.wants(&restores::NAMES) {
        restores::run(plan, host, &manifest, &by_hand, report).await?;
    }
    if plan.wants(&sessions::NAMES) || plan.wants(&transfers::NAMES) {
        sessions::run(plan, &by_hand, &floor::server()?, report).await?;
    }
    if plan.wants(&cases::NAMES) {
        cases::run(plan, machine, &by_hand, &floor::server()?, report).await?;
    }
    Ok(())
}

fn read(path: &PathBuf) -> Result<Report> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no run of hearth-bench", path.display()))
}
