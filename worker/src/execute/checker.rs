//! A program of the job's own that says whether a case is right. It runs as the job does, in a copy of the working tree
//! of its own, and its files are in no other command's reach.

use std::time::Duration;

use bytes::Bytes;
use hearth_pool::session::{Channel, Session, SessionError};
use hearth_schemas::{
    guest::messages::FaultKind,
    result::{Capture, Captured, Cause, Step, Verdict},
};

use super::{
    StepFailure,
    cases::{command, judged},
    stage::STAGE_GRACE,
    within,
};
use crate::{
    admit::{CHECKER_FILES, Stage},
    stop::Stop,
};

/// How long a checker's files may take to reach it: the largest at 2 MiB/s.
const FILES_LIMIT: Duration = Duration::from_secs(60);
/// How much of what a checker says is told.
const SAID_BYTES: usize = 512;
/// The exit code that says that an answer is wrong.
const WRONG: i32 = 1;

/// What a checker is given.
pub(super) struct Files<'a> {
    /// What the case read.
    pub(super) input: Bytes,
    /// What it printed, whole.
    pub(super) output: Vec<Bytes>,
    /// What was expected.
    pub(super) expected: &'a Bytes,
}

/// Why a case that ended well is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opinion {
    pub(super) verdict: Verdict,
    pub(super) cause: Cause,
    pub(super) message: String,
}

impl Opinion {
    pub(super) fn differs(message: String) -> Self {
        Self { verdict: Verdict::WrongAnswer, cause: Cause::Mismatch, message }
    }

    fn failed(how: &str) -> Self {
        let message = format!("the checker {how}");
        Self { verdict: Verdict::FileError, cause: Cause::CheckerFailed, message }
    }
}

/// Asks a checker. `None`: it accepts.
pub(super) async fn check(
    session: &Session,
    stage: &Stage,
    argv: &[String],
    files: Files<'_>,
    stop: &Stop,
) -> Result<Option<Opinion>, StepFailure> {
    let Files { input, output, expected } = files;
    let contents = [vec![input], output, vec![expected.clone()]];
    let given = CHECKER_FILES.map(str::to_owned).into_iter().zip(contents).collect();
    let (mut stdout, mut stderr) = (Capture::new(SAID_BYTES, 0), Capture::new(SAID_BYTES, 0));
    let running = async {
        let running = session.exec_given(command(stage, argv.to_vec()), false, given).await?;
        let said = |channel, data: Bytes| match channel {
            Channel::Stdout => stdout.push(&data),
            Channel::Stderr => stderr.push(&data),
        };
        let kill = async {
            stop.stopped().await;
        };
        running.finish(Bytes::new(), said, kill).await
    };
    let wall = Duration::from_millis(stage.limits.wall_ms);
    let exited = match within(Step::Run, wall + FILES_LIMIT + STAGE_GRACE, running).await {
        Ok(exited) => exited,
        Err(failure) => return could_not(&failure).map(Some).ok_or(failure),
    };
    let (verdict, cause) = judged(&exited, &stage.limits.exec_limits(), stop)?;
    let said = said(&stdout.finish(), &stderr.finish());
    Ok(opinion(verdict, cause, exited.exit_code, exited.signal, &said))
}

/// A checker that cannot be run, or has no room for its files, is the job's doing.
fn could_not(failure: &StepFailure) -> Option<Opinion> {
    let SessionError::Fault { kind, message } = &failure.source else { return None };
    let theirs = matches!(kind, FaultKind::Exec | FaultKind::Path | FaultKind::NoSpace);
    theirs.then(|| Opinion::failed(&format!("could not run: {message}")))
}

/// What its end means.
fn opinion(
    verdict: Verdict,
    cause: Option<Cause>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    said: &str,
) -> Option<Opinion> {
    let cut = matches!(cause, Some(Cause::Cancelled | Cause::Deadline));
    Some(match (verdict, exit_code, signal) {
        (Verdict::Accepted, ..) => return None,
        // Neither right nor wrong: the job ended before the checker.
        (Verdict::Signalled, ..) if cut => {
            Opinion { verdict, cause: cause?, message: "the checker was stopped".to_owned() }
        }
        (Verdict::NonzeroExit, Some(WRONG), _) => {
            let message = if said.is_empty() { "the checker did not accept it" } else { said };
            Opinion { verdict: Verdict::WrongAnswer, cause: Cause::Checker, message: message.to_owned() }
        }
        (Verdict::NonzeroExit, Some(code), _) => Opinion::failed(&format!("exited with {code}: {said}")),
        (Verdict::Signalled, _, Some(signal)) => {
            Opinion::failed(&format!("was ended by signal {signal}: {said}"))
        }
        (limit, ..) => Opinion::failed(&format!("ran into its {limit}")),
    })
}

/// What it wrote, on one line: to standard error as testlib does, else to standard output.
fn said(stdout: &Captured, stderr: &Captured) -> String {
    let text = |captured: &Captured| {
        let bytes = captured.content.decode().unwrap_or_default();
        String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let stderr = text(stderr);
    let all = if stderr.is_empty() { text(stdout) } else { stderr };
    all.chars().filter(|c| !c.is_control()).take(SAID_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checker_accepts_refuses_or_fails() {
        let of = |verdict, code, signal| opinion(verdict, None, code, signal, "said so");
        assert_eq!(of(Verdict::Accepted, Some(0), None), None);
        let wrong = of(Verdict::NonzeroExit, Some(1), None).unwrap();
        assert_eq!((wrong.verdict, wrong.cause), (Verdict::WrongAnswer, Cause::Checker));
        assert_eq!(wrong.message, "said so");
        for (opinion, part) in [
            (of(Verdict::NonzeroExit, Some(2), None), "exited with 2: said so"),
            (of(Verdict::Signalled, None, Some(11)), "signal 11"),
            (of(Verdict::TimeLimit, None, Some(9)), "time_limit"),
            (of(Verdict::MemoryLimit, None, Some(9)), "memory_limit"),
        ] {
            let opinion = opinion.unwrap();
            assert_eq!((opinion.verdict, opinion.cause), (Verdict::FileError, Cause::CheckerFailed));
            assert!(opinion.message.contains(part), "{opinion:?}");
        }
        let cancelled = opinion(Verdict::Signalled, Some(Cause::Cancelled), None, Some(9), "").unwrap();
        assert_eq!((cancelled.verdict, cancelled.cause), (Verdict::Signalled, Cause::Cancelled));
    }

    #[test]
    fn what_it_said_is_one_short_line() {
        let captured = |bytes: &[u8]| {
            let mut capture = Capture::new(SAID_BYTES, 0);
            capture.push(bytes);
            capture.finish()
        };
        let long = captured(&[b'x'; 5000]);
        assert_eq!(
            said(
                &captured(b"out"),
                &captured(
                    b"wrong
  at 3
"
                )
            ),
            "wrong at 3"
        );
        assert_eq!(
            said(
                &captured(
                    b"out
"
                ),
                &captured(
                    b"
"
                )
            ),
            "out"
        );
        assert_eq!(said(&long, &captured(b"")).len(), SAID_BYTES);
    }
}
