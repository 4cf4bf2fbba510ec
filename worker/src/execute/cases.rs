//! The cases of one stage: the same command again and again, each time in a fresh copy of the working tree.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use hearth_pool::session::{Channel, Command, Session, SessionError};
use hearth_schemas::{
    event::{OutputStream, State},
    guest::messages::{ExecLimits, Exited, User},
    limits::{CASE_CAPTURE_MAX_BYTES, CASE_CAPTURES_TOTAL_BYTES},
    result::{Capture, CaseReport, Cause, RunReport, StageReport, Step, UsageReport, Verdict},
};
use tokio::sync::watch;

use super::{
    StepFailure,
    checker::{Files, Opinion, check},
    stage::{STAGE_GRACE, exec_report, report},
    within,
};
use crate::{
    admit::{Case, Expectation, Stage},
    compare::Comparer,
    live::Feed,
    stop::{Stop, StopReason},
    verdict,
};

/// How much of each stream of each case a result keeps when a job has so many.
pub(super) fn capture_bytes(cases: usize) -> usize {
    (CASE_CAPTURES_TOTAL_BYTES / cases.max(1)).min(CASE_CAPTURE_MAX_BYTES)
}

/// How many cases may be on their way to the agent at once: one that runs, and one that is prepared meanwhile.
const AHEAD: usize = 2;

/// Runs the cases of a stage in order. Those that do not run, because of a stop or an earlier failure, are skipped.
/// `feed` is told of each, and of what it prints where the stage asks for that.
pub(super) async fn run_cases(
    session: &Session,
    stage: &Stage,
    capture_bytes: usize,
    stop: &Stop,
    feed: &Feed,
) -> Result<StageReport, StepFailure> {
    feed.state(State::StageStarted { stage: stage.name.clone() });
    let failed = Failed::default();
    let checked = stage.cases.iter().any(|case| matches!(case.expect, Expectation::Checker { .. }));
    let told = Told { feed, stage, output: feed.is_on() && stage.stream_cases, live: AtomicU32::new(0) };
    // A checker must not run beside the next case, only agents that know turns prepare, and what two cases print is not
    // told at once.
    let ahead = if checked || told.output || !session.hello().inline { 1 } else { AHEAD };
    let run = Run { session, stage, capture_bytes, stop, failed: &failed, ahead, told: &told };
    let (mut waiting, mut asked) = (stage.cases.iter(), FuturesOrdered::new());
    let mut cases: Vec<CaseReport> = Vec::with_capacity(stage.cases.len());
    loop {
        while asked.len() < ahead
            && let Some(case) = waiting.next()
        {
            asked.push_back(run.case(case));
        }
        let begun = stage.cases.get(cases.len()).filter(|_| !failed.is_set() && stop.reason().is_none());
        begun.inspect(|case| told.begins(case));
        let Some(report) = asked.next().await else { break };
        let report = match failed.is_set() {
            // It was on its way when the case before it turned out to have failed.
            true => RunReport::not_run(Verdict::Skipped, Some(Cause::EarlierFailure)),
            false => report?,
        };
        if stage.stop_on_failure && report.verdict != Verdict::Accepted {
            failed.set();
        }
        begun.inspect(|case| told.ended(case, &report));
        let name = stage.cases.get(cases.len()).map(|case| case.name.clone()).unwrap_or_default();
        cases.push(CaseReport { name, run: report });
    }
    let run = summary(&cases);
    let (stage_name, verdict, cause) = (stage.name.clone(), run.verdict, run.cause);
    feed.state(State::StageEnded { stage: stage_name, verdict, cause });
    Ok(StageReport { name: stage.name.clone(), run, cases })
}

/// That a case has failed after which none is to run.
#[derive(Debug)]
struct Failed(watch::Sender<bool>);

impl Default for Failed {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Failed {
    fn set(&self) {
        self.0.send_replace(true);
    }

    fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when it is. Cancel safe.
    async fn wait(&self) {
        // Its sender is here.
        let _ = self.0.subscribe().wait_for(|set| *set).await;
    }
}

/// What whoever watches is told of a stage's cases.
struct Told<'a> {
    feed: &'a Feed,
    stage: &'a Stage,
    /// What they print, too. Then one runs after the other.
    output: bool,
    /// What the one that runs is called on the live connection.
    live: AtomicU32,
}

impl Told<'_> {
    fn begins(&self, case: &Case) {
        let (stage, case) = (self.stage.name.clone(), case.name.clone());
        match self.output {
            true => self.live.store(self.feed.case_started(&stage, &case), Ordering::Relaxed),
            false => self.feed.state(State::CaseStarted { stage, case }),
        }
    }

    fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }

    fn printed(&self, stream: OutputStream, data: &[u8]) {
        if self.output {
            self.feed.data(stream, data);
        }
    }

    fn ended(&self, case: &Case, run: &RunReport) {
        if self.output {
            // What was not run copies nothing.
            if run.usage.is_none() {
                self.feed.live_ends(self.live());
            }
            self.feed.stage_ended(run);
        } else {
            let (stage, case) = (self.stage.name.clone(), case.name.clone());
            let (verdict, cause) = (run.verdict, run.cause);
            self.feed.state(State::CaseEnded { stage, case, verdict, cause });
        }
    }
}

/// What all cases of a stage have in common.
struct Run<'a> {
    session: &'a Session,
    stage: &'a Stage,
    capture_bytes: usize,
    stop: &'a Stop,
    failed: &'a Failed,
    ahead: usize,
    told: &'a Told<'a>,
}

impl Run<'_> {
    async fn case(&self, case: &Case) -> Result<RunReport, StepFailure> {
        match (self.stop.reason(), self.failed.is_set()) {
            (Some(reason), _) => Ok(RunReport::not_run(Verdict::Skipped, Some(reason.cause()))),
            (None, true) => Ok(RunReport::not_run(Verdict::Skipped, Some(Cause::EarlierFailure))),
            (None, false) => self.run(case).await,
        }
    }

    async fn run(&self, case: &Case) -> Result<RunReport, StepFailure> {
        let Self { session, stage, stop, told, .. } = *self;
        let limits = stage.limits.exec_limits();
        let argv = stage.argv.iter().chain(&case.argv_extra).cloned().collect();
        let half = self.capture_bytes / 2;
        let (mut stdout, mut stderr) = (Capture::new(half, half), Capture::new(half, half));
        let mut judge = Judge::new(&case.expect);
        let output = |channel, data: Bytes| match channel {
            Channel::Stdout => {
                stdout.push(&data);
                told.printed(OutputStream::Stdout, &data);
                judge.push(data);
            }
            Channel::Stderr => {
                stderr.push(&data);
                told.printed(OutputStream::Stderr, &data);
            }
        };
        let kill = async {
            tokio::select! {
                _ = stop.stopped() => {}
                () = self.failed.wait() => {}
            }
        };
        let (command, stdin) = (command(stage, argv), case.stdin.clone());
        let running = session.run_inline(command, stdin, told.live(), output, kill);
        // Those before it have their time first.
        let wall = Duration::from_millis(stage.limits.wall_ms) * u32::try_from(self.ahead).unwrap_or(1);
        let exited = match within(Step::Run, wall + STAGE_GRACE, running).await {
            Ok(exited) => exited,
            Err(failure) => return exec_report(&failure).ok_or(failure),
        };
        if exited.killed && exited.exit_code.or(exited.signal).is_none() {
            // Before its turn.
            let cause = stop.reason().map_or(Cause::EarlierFailure, StopReason::cause);
            return Ok(RunReport::not_run(Verdict::Skipped, Some(cause)));
        }
        let (verdict, cause) = judged(&exited, &limits, stop)?;
        stdout.missed(exited.stdout_bytes.saturating_sub(stdout.bytes()));
        stderr.missed(exited.stderr_bytes.saturating_sub(stderr.bytes()));
        let run = report(&exited, verdict, cause, stdout, stderr);
        if run.verdict != Verdict::Accepted {
            return Ok(run);
        }
        let opinion = match judge {
            Judge::Nothing => None,
            Judge::Compares(comparer) => comparer.finish().map(Opinion::differs),
            Judge::Asks { argv, expected, output } => {
                let files = Files { input: case.stdin.clone(), output, expected };
                check(session, stage, argv, files, stop).await?
            }
        };
        Ok(match opinion {
            None => run,
            Some(Opinion { verdict, cause, message }) => {
                RunReport { verdict, cause: Some(cause), message: Some(message), ..run }
            }
        })
    }
}

/// A command of a stage, in a copy of the working tree of its own.
pub(super) fn command(stage: &Stage, argv: Vec<String>) -> Command {
    Command {
        argv,
        env: stage.env.clone(),
        cwd: stage.cwd.clone(),
        limits: stage.limits.exec_limits(),
        user: User::Job,
        ip: stage.ip,
        fresh: true,
    }
}

pub(super) fn judged(
    exited: &Exited,
    limits: &ExecLimits,
    stop: &Stop,
) -> Result<(Verdict, Option<Cause>), StepFailure> {
    verdict::judge(exited, limits, stop.reason()).ok_or(StepFailure {
        step: Step::Run,
        source: SessionError::Protocol("a command ended with neither exit code nor signal"),
    })
}

/// Who says whether output is right, and what it needs to see of it.
enum Judge<'a> {
    Nothing,
    Compares(Comparer),
    Asks { argv: &'a [String], expected: &'a Bytes, output: Vec<Bytes> },
}

impl<'a> Judge<'a> {
    fn new(expect: &'a Expectation) -> Self {
        match expect {
            Expectation::Nothing => Self::Nothing,
            Expectation::Output { expected, how } => Self::Compares(Comparer::new(*how, expected)),
            Expectation::Checker { argv, expected } => Self::Asks { argv, expected, output: Vec::new() },
        }
    }

    fn push(&mut self, piece: Bytes) {
        match self {
            Self::Nothing => {}
            Self::Compares(comparer) => comparer.push(&piece),
            // No more than the stage's output limit.
            Self::Asks { output, .. } => output.push(piece),
        }
    }
}

/// The stage as a whole: its first case that was not accepted, and what all of them used.
fn summary(cases: &[CaseReport]) -> RunReport {
    let first_bad = cases.iter().find(|case| case.run.verdict != Verdict::Accepted);
    let mut run = RunReport::not_run(Verdict::Accepted, None);
    if let Some(case) = first_bad {
        run.verdict = case.run.verdict;
        run.cause = case.run.cause;
        let why = case.run.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        run.message = Some(format!("case `{}`{why}", case.name));
    }
    run.usage = cases.iter().filter_map(|case| case.run.usage).reduce(together);
    run
}

fn together(all: UsageReport, one: UsageReport) -> UsageReport {
    UsageReport {
        wall_ms: all.wall_ms + one.wall_ms,
        user_ms: all.user_ms + one.user_ms,
        system_ms: all.system_ms + one.system_ms,
        memory_peak_bytes: all.memory_peak_bytes.max(one.memory_peak_bytes),
        processes_peak: all.processes_peak.max(one.processes_peak),
        disk_bytes: all.disk_bytes.max(one.disk_bytes),
    }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::{limits::CASES_MAX, result::Millis};

    use super::*;

    #[test]
    fn many_cases_keep_little_each_and_few_a_lot() {
        assert_eq!(capture_bytes(1), CASE_CAPTURE_MAX_BYTES);
        assert_eq!(capture_bytes(64), CASE_CAPTURE_MAX_BYTES);
        assert_eq!(capture_bytes(CASES_MAX), 1048);
        assert!(capture_bytes(CASES_MAX) * CASES_MAX <= CASE_CAPTURES_TOTAL_BYTES);
    }

    fn case(name: &str, verdict: Verdict, wall_us: u64, memory: Option<u64>) -> CaseReport {
        let mut run = RunReport::not_run(verdict, None);
        run.usage = Some(UsageReport {
            wall_ms: Millis::from_micros(wall_us),
            memory_peak_bytes: memory,
            ..UsageReport::default()
        });
        CaseReport { name: name.to_owned(), run }
    }

    #[test]
    fn a_stage_is_its_first_bad_case_and_the_sum_of_all() {
        let mut bad = case("b", Verdict::WrongAnswer, 2000, Some(9));
        bad.run.message = Some("line 1".to_owned());
        let cases =
            [case("a", Verdict::Accepted, 1000, None), bad, case("c", Verdict::TimeLimit, 4000, Some(5))];
        let run = summary(&cases);
        assert_eq!((run.verdict, run.message.as_deref()), (Verdict::WrongAnswer, Some("case `b`: line 1")));
        let usage = run.usage.unwrap();
        assert_eq!((usage.wall_ms.as_micros(), usage.memory_peak_bytes), (7000, Some(9)));
        let good = summary(&cases[..1]);
        assert_eq!((good.verdict, good.message), (Verdict::Accepted, None));
    }
}
