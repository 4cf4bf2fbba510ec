//! The cases of a stage: the same command on other inputs, and what each must print.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use hearth_schemas::{
    guest::GIVEN_DIR,
    job::{CaseRequest, Checker, Expect, FloatTolerance, Match},
    limits::CASES_MAX,
    result::Refusal,
};

use super::{Stage, command, invalid, name};
use crate::compare::Comparison;

/// What a checker gets, in the order in which its last arguments name it: what the case read, what it printed, and what
/// was expected.
pub const CHECKER_FILES: [&str; 3] = ["input", "output", "answer"];

/// One run of a stage's command.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Unique in its stage.
    pub name: String,
    /// Arguments after those of the stage.
    pub argv_extra: Vec<String>,
    /// What it reads on standard input.
    pub stdin: Bytes,
    /// What makes it accepted, besides exit code 0.
    pub expect: Expectation,
}

/// What makes a case accepted, besides exit code 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Expectation {
    /// Nothing.
    Nothing,
    /// What it prints to standard output.
    Output {
        /// The expected output.
        expected: Bytes,
        /// How it is compared.
        how: Comparison,
    },
    /// What a program of the job's own says of it.
    Checker {
        /// The command and its arguments, those that name its files included.
        argv: Vec<String>,
        /// For the checker; empty when the job gives none.
        expected: Bytes,
    },
}

impl Expectation {
    /// How many commands a case with it runs at most.
    fn commands(&self) -> u64 {
        match self {
            Self::Nothing | Self::Output { .. } => 1,
            Self::Checker { .. } => 2,
        }
    }
}

impl Stage {
    /// How long it may run at most, in milliseconds: once for each case and each checker.
    pub fn wall_ms(&self) -> u64 {
        let commands: u64 = self.cases.iter().map(|case| case.expect.commands()).sum();
        self.limits.wall_ms.saturating_mul(commands.max(1))
    }
}

/// Checks the cases of one stage.
pub(super) fn cases(
    requests: Vec<CaseRequest>,
    stage: usize,
    argv: &[String],
    env: &BTreeMap<String, String>,
    stdin: &Bytes,
) -> Result<Vec<Case>, Refusal> {
    let mut names = HashMap::new();
    let mut cases = Vec::with_capacity(requests.len().min(CASES_MAX));
    for (index, request) in requests.into_iter().enumerate() {
        let at = format!("stages[{stage}].cases[{index}]");
        name(format!("{at}.name"), &request.name)?;
        if let Some(first) = names.insert(request.name.clone(), index) {
            let message = format!("`{}` is the name of cases[{first}]; allowed is a name once", request.name);
            return Err(invalid(format!("{at}.name"), message));
        }
        let field = format!("{at}.argv_extra");
        command::arguments(&request.argv_extra, &field)?;
        command::size(argv.iter().chain(&request.argv_extra), env, &field)?;
        cases.push(Case {
            name: request.name,
            argv_extra: request.argv_extra,
            stdin: match request.stdin {
                Some(own) => command::input(own, &format!("{at}.stdin"))?,
                None => stdin.clone(),
            },
            expect: expectation(request.expect, env, &format!("{at}.expect"))?,
        });
    }
    Ok(cases)
}

/// Checks the cases of all stages together.
pub(super) fn all(stages: &[Stage]) -> Result<(), Refusal> {
    let mut sum = 0;
    for (index, stage) in stages.iter().enumerate() {
        sum += stage.cases.len();
        if sum > CASES_MAX {
            let message =
                format!("{sum} cases up to here; allowed are 0 to {CASES_MAX} for all stages together");
            return Err(invalid(format!("stages[{index}].cases"), message));
        }
    }
    Ok(())
}

fn expectation(
    expect: Option<Expect>,
    env: &BTreeMap<String, String>,
    at: &str,
) -> Result<Expectation, Refusal> {
    let Some(Expect { stdout, how }) = expect else { return Ok(Expectation::Nothing) };
    let how = match how {
        Match::None => return Ok(Expectation::Nothing),
        Match::Checker(Checker { mut argv }) => {
            let field = format!("{at}.match.checker.argv");
            command::argv(&argv, &field)?;
            argv.extend(CHECKER_FILES.map(|name| format!("{GIVEN_DIR}/{name}")));
            command::size(&argv, env, &field)?;
            return Ok(Expectation::Checker { argv, expected: stdout.unwrap_or_default().into() });
        }
        Match::Exact => Comparison::Exact,
        Match::Trim => Comparison::Trim,
        Match::Tokens => Comparison::Tokens,
        Match::Float(tolerance) => Comparison::Float(within_reason(tolerance, at)?),
    };
    let expected = stdout.ok_or_else(|| {
        let message = "is missing; every `match` but `none` and `checker` compares with it";
        invalid(format!("{at}.stdout"), message)
    })?;
    Ok(Expectation::Output { expected: Bytes::from(expected), how })
}

fn within_reason(tolerance: FloatTolerance, at: &str) -> Result<FloatTolerance, Refusal> {
    for (member, value) in [("abs", tolerance.abs), ("rel", tolerance.rel)] {
        if !value.is_finite() || value < 0.0 {
            let message = format!("{value} is out of range; allowed is 0 or more");
            return Err(invalid(format!("{at}.match.float.{member}"), message));
        }
    }
    Ok(tolerance)
}
