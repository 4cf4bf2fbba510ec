//! `hearth doctor`: what this host can do, and what to do about the rest.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
};

use clap::Args;
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    hypervisor,
    output::{self, Style},
};
use crate::{
    config::{Config, Services},
    doctor::{
        findings::{Finding, Level, findings, jobs_can_run},
        gather,
    },
};

/// Say what this host can do, and what to do about the rest
///
/// One line per capability: `ok`; `warn`, absent or less than it could be, jobs run without it; `fail`, no job can run
/// until it is mended. Exit code 0 when jobs can run here, 69 when not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hearth doctor\n  \
    hearth doctor --probe               boot a guest to see whether KVM really works\n  \
    hearth doctor --config worker.toml  also whether a worker can start with these settings\n  \
    hearth doctor --json | jq '.findings[] | select(.level != \"ok\")'")]
pub struct Arguments {
    /// As a JSON object
    #[arg(long)]
    json: bool,
    /// Boot a guest with KVM and remember whether that works (up to a minute)
    #[arg(long)]
    probe: bool,
    /// Judge a worker's settings, too: whether they are right and what it would keep
    #[arg(long, value_name = "FILE", env = "HEARTH_WORKER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    services: Services,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Whether jobs can run here.
    jobs_can_run: bool,
    /// One entry per capability.
    findings: &'a [Finding],
}

/// Looks, judges, prints.
pub fn run(config: &Config, arguments: &Arguments) -> Result<Exit, Failure> {
    let runtimes = super::runtimes(config)?;
    let choice = super::block_on(async {
        if arguments.probe {
            super::bake::probe(config, &runtimes).await?;
        }
        Ok(hypervisor::for_jobs(config, &runtimes).await)
    })?;
    let choice = choice.map_err(|failure| failure.message);
    let facts = gather::gather(config, &arguments.services, arguments.config.as_deref(), &runtimes, choice);
    let found = findings(&facts);
    let jobs_can_run = jobs_can_run(&found);
    if arguments.json {
        output::json(&Report { jobs_can_run, findings: &found }, Style::Pretty)?;
    } else {
        output::line(&table(&found, io::stdout().is_terminal()))?;
    }
    Ok(if jobs_can_run { Exit::Accepted } else { Exit::Unavailable })
}

fn table(findings: &[Finding], colour: bool) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let level = finding.level.as_str();
        let paint = match (colour, finding.level) {
            (false, _) => ("", ""),
            (true, Level::Ok) => ("\x1b[32m", "\x1b[0m"),
            (true, Level::Warn) => ("\x1b[33m", "\x1b[0m"),
            (true, Level::Fail) => ("\x1b[31m", "\x1b[0m"),
        };
        text += &format!("{}{level:<4}{}  {:<width$}  {}\n", paint.0, paint.1, finding.name, finding.detail);
        if let Some(remedy) = finding.remedy.as_ref().filter(|_| finding.level != Level::Ok) {
            text += &format!("{:<4}  {:<width$}  -> {remedy}\n", "", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_has_a_line_and_each_fault_its_remedy() {
        let finding = |name: &str, level, remedy: Option<&str>| Finding {
            name: name.into(),
            level,
            detail: "detail".into(),
            remedy: remedy.map(Into::into),
        };
        let found = [finding("kvm", Level::Ok, None), finding("vsock", Level::Fail, Some("run: it"))];
        assert_eq!(
            table(&found, false),
            "ok    kvm    detail\nfail  vsock  detail\n             -> run: it\n"
        );
    }
}
