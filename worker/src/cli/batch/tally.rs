//! How a batch is doing: for a person a bar, for a log a line now and then.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use tokio::time::Instant;

use crate::config::Config;

/// How often a log hears of it.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Counts results.
pub struct Tally {
    bar: ProgressBar,
    lines: bool,
    said: Instant,
    began: Instant,
    total: Option<u64>,
    results: u64,
    accepted: u64,
    repeats: u64,
    /// Of an earlier run that this one resumes.
    failed_before: u64,
}

#[derive(Deserialize, Default)]
struct Head {
    #[serde(default)]
    status: String,
    #[serde(default)]
    verdict: String,
}

impl Tally {
    /// `total` where it is known; `failed_before` results of an earlier run were not accepted.
    pub fn new(config: &Config, total: Option<u64>, failed_before: u64) -> Self {
        let terminal = io::stderr().is_terminal() && !config.quiet && config.verbose == 0;
        let bar = match (terminal, total) {
            (false, _) => ProgressBar::hidden(),
            (true, Some(total)) => ProgressBar::new(total),
            (true, None) => ProgressBar::new_spinner(),
        };
        let template = match total {
            Some(_) => "{wide_bar} {pos}/{len} {per_sec} ETA {eta} {msg}",
            None => "{spinner} {pos} {per_sec} {msg}",
        };
        // A literal template; where it were wrong, the default is as good.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let (said, began, lines) = (Instant::now(), Instant::now(), !terminal && !config.quiet);
        Self { bar, lines, said, began, total, results: 0, accepted: 0, repeats: 0, failed_before }
    }

    /// Jobs whose results were there before.
    pub fn skip(&mut self) {
        self.bar.inc(1);
        self.total = self.total.map(|total| total.saturating_sub(1));
        self.bar.reset_eta();
    }

    /// A result came.
    pub fn result(&mut self, body: &[u8]) {
        let head: Head = serde_json::from_slice(body).unwrap_or_default();
        self.results += 1;
        self.accepted += u64::from(head.status == "finished" && head.verdict == "accepted");
        self.bar.inc(1);
        self.bar.set_message(format!("{} not accepted", self.results - self.accepted));
        if self.lines && self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            eprintln!("{}", self.line());
        }
    }

    /// A result came again.
    pub fn repeat(&mut self) {
        self.repeats += 1;
    }

    /// What a log is told.
    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        let rate = self.results as f64 / seconds;
        let total = self.total.map_or_else(String::new, |total| {
            let left = total.saturating_sub(self.results) as f64 / rate.max(0.001);
            format!(" of {total}, {left:.0} s left")
        });
        format!(
            "{} results{total}, {rate:.1}/s, {} not accepted, {} repeats",
            self.results,
            self.results - self.accepted,
            self.repeats
        )
    }

    /// The last word; whether all were accepted.
    pub fn finish(self) -> bool {
        self.bar.finish_and_clear();
        if self.lines || !self.bar.is_hidden() {
            eprintln!("{}", self.line());
        }
        self.results == self.accepted && self.failed_before == 0
    }
}
