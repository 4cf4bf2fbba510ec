//! What long work says while it runs: on stderr, a spinner for a person, plain lines for a log.

use std::{
    io::{self, IsTerminal},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::config::Config;

/// A person sees that something moves.
const TICK: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One line that changes, and a line for each step that is over where steps are kept.
    Terminal,
    /// A line per step.
    Lines,
    /// Nothing.
    Silent,
}

/// Shows what a command is doing. Dropping it clears what is not to stay.
#[derive(Debug)]
pub struct Progress {
    kind: Kind,
    /// Whether each step leaves a line with its time, or is forgotten when the next begins.
    keep: bool,
    bar: ProgressBar,
    current: Mutex<Option<Step>>,
}

#[derive(Debug)]
struct Step {
    name: String,
    message: String,
    since: Instant,
}

impl Progress {
    /// For work of seconds, such as a run: a spinner on a terminal, lines with `-v`, else nothing.
    pub fn brief(config: &Config) -> Self {
        Self::new(config, false, config.verbose > 0)
    }

    /// For work of minutes, such as a bake: each step leaves a line with the time it took.
    pub fn lasting(config: &Config) -> Self {
        Self::new(config, true, true)
    }

    /// Nothing at all.
    pub fn silent() -> Self {
        Self { kind: Kind::Silent, keep: false, bar: ProgressBar::hidden(), current: Mutex::new(None) }
    }

    fn new(config: &Config, keep: bool, lines: bool) -> Self {
        // A line that changes and log records would write over each other.
        let terminal = io::stderr().is_terminal() && config.verbose == 0;
        let kind = match (config.quiet, terminal, lines) {
            (true, ..) | (false, false, false) => Kind::Silent,
            (false, true, _) => Kind::Terminal,
            (false, false, true) => Kind::Lines,
        };
        let bar = if kind == Kind::Terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        // A literal template; where it were wrong, the default is as good.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        if kind == Kind::Terminal {
            bar.enable_steady_tick(TICK);
        }
        Self { kind, keep, bar, current: Mutex::new(None) }
    }

    /// The step `name` begins, or goes on and has come to `message`.
    pub fn step(&self, name: &str, message: &str) {
        let mut current = self.current();
        match current.as_mut().filter(|step| step.name == name) {
            Some(step) => step.message = message.to_owned(),
            None => {
                self.end(current.take());
                *current =
                    Some(Step { name: name.to_owned(), message: message.to_owned(), since: Instant::now() });
                self.bar.reset_elapsed();
                if self.kind == Kind::Lines {
                    eprintln!("{}", line(name, message));
                }
            }
        }
        self.bar.set_message(line(name, message));
    }

    /// The last step is over.
    pub fn finish(&self) {
        let last = self.current().take();
        self.end(last);
        self.bar.finish_and_clear();
    }

    fn end(&self, step: Option<Step>) {
        let Some(step) = step.filter(|_| self.keep) else { return };
        let took = format!("{:.1} s", step.since.elapsed().as_secs_f64());
        match self.kind {
            Kind::Terminal => self.bar.println(format!("{} ({took})", line(&step.name, &step.message))),
            Kind::Lines => eprintln!("{}", line(&step.name, &format!("done in {took}"))),
            Kind::Silent => {}
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Step>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn line(name: &str, message: &str) -> String {
    match message.is_empty() {
        true => format!("{name} …"),
        false => format!("{name}: {message}"),
    }
}
