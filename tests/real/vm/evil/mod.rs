//! Programs that mean harm, each with the verdict that it must get. All of one job run in one VM, one stage each, so
//! each finds the agent as the one before has left it; the last stage is harmless and must see nothing of them.

mod eaters;
mod ends;
mod probes;
mod stayers;

use hearth_schemas::result::{Cause, JobResult, RunReport, Status, Verdict};
use hearth_tests::real::Worker;
use serde_json::{Value, json};

/// A program and what must become of it.
pub struct Evil {
    name: &'static str,
    argv: Vec<String>,
    limits: Value,
    stdin: Option<&'static str>,
    verdict: Verdict,
    cause: Option<Cause>,
    /// Exit code or signal, where the verdict leaves that open.
    end: Option<(Option<i32>, Option<i32>)>,
    stdout: Option<String>,
}

impl Evil {
    fn new(name: &'static str, argv: &[&str]) -> Self {
        Self {
            name,
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            limits: json!({"wall_ms": 70_000, "cpu_ms": 70_000}),
            stdin: None,
            verdict: Verdict::Accepted,
            cause: None,
            end: None,
            stdout: None,
        }
    }

    /// A Python program. It must be accepted, unless told otherwise.
    pub fn python(name: &'static str, code: &str) -> Self {
        Self::new(name, &["python3", "-c", code])
    }

    /// A line of shell, likewise.
    pub fn shell(name: &'static str, script: &str) -> Self {
        Self::new(name, &["sh", "-c", script])
    }

    /// Limits instead of generous ones.
    pub fn within(mut self, limits: Value) -> Self {
        if let (Value::Object(own), Value::Object(limits)) = (&mut self.limits, limits) {
            own.extend(limits);
        }
        self
    }

    pub fn reads(self, stdin: &'static str) -> Self {
        Self { stdin: Some(stdin), ..self }
    }

    pub fn gets(self, verdict: Verdict, cause: impl Into<Option<Cause>>) -> Self {
        Self { verdict, cause: cause.into(), ..self }
    }

    pub fn exits(self, code: i32) -> Self {
        let verdict = if code == 0 { Verdict::Accepted } else { Verdict::NonzeroExit };
        Self { verdict, end: Some((Some(code), None)), ..self }
    }

    pub fn dies_of(self, signal: i32) -> Self {
        Self { verdict: Verdict::Signalled, end: Some((None, Some(signal))), ..self }
    }

    pub fn prints(self, stdout: &str) -> Self {
        Self { stdout: Some(stdout.to_owned()), ..self }
    }

    fn stage(&self) -> Value {
        let mut stage = json!({
            "name": self.name, "argv": self.argv, "limits": self.limits, "continue_on_failure": true,
        });
        if let Some(stdin) = self.stdin {
            stage["stdin"] = stdin.into();
        }
        stage
    }

    /// What is not as it must be.
    fn complaint(&self, report: &RunReport) -> Option<String> {
        let end = (report.exit_code, report.signal);
        let same = (report.verdict, report.cause) == (self.verdict, self.cause)
            && self.end.is_none_or(|expected| expected == end)
            && self.stdout.as_ref().is_none_or(|expected| *expected == crate::stdout(report));
        (!same).then(|| {
            let stderr = String::from_utf8_lossy(&report.stderr.content.decode().unwrap()).into_owned();
            format!(
                "{}: {:?} {:?} {end:?} {:?} {stderr}",
                self.name, report.verdict, report.cause, report.stdout
            )
        })
    }
}

/// What the last stage runs: nobody else lives, and the agent let it start.
const HELLO: &str = "import os; print('hello', [p for p in os.listdir('/proc') if p.isdigit()], os.getpid())";

/// Runs these in one VM and holds each to its verdict.
pub async fn unleash(worker: &Worker, programs: &[Evil]) -> JobResult {
    let hello = Evil::python("hello", HELLO);
    let programs: Vec<_> = programs.iter().chain([&hello]).collect();
    let stages: Vec<_> = programs.iter().map(|program| program.stage()).collect();
    let job = json!({"runtime": "python", "deadline_ms": 900_000, "stages": stages});
    let result = worker.run(&job).await.unwrap();
    assert_eq!(result.status, Status::Finished, "{result:#?}");
    let complaints: Vec<_> = programs
        .iter()
        .zip(&result.stages)
        .filter_map(|(program, stage)| program.complaint(&stage.run))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let last = crate::stdout(&result.stages.last().unwrap().run);
    assert_eq!(last, "hello ['2'] 2\n", "the agent answers, and nobody else lives");
    result
}
