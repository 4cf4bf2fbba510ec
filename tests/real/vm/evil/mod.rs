//! Programs that mean harm, each with the verdict that it must get. Many run in one VM, one after another, so each
//! finds the agent as the one before has left it; the last one is harmless and must see nothing of them.

mod answers;
mod arena;
mod bombs;
mod eaters;
mod ends;
mod native;
mod probes;
mod scripts;
mod stayers;

pub use arena::{Arena, Round, in_arena};
use hearth_schemas::result::{Cause, RunReport, Verdict};
use serde_json::{Value, json};

/// A program and what must become of it.
pub struct Evil {
    name: &'static str,
    argv: Vec<String>,
    limits: Value,
    stdin: Option<&'static str>,
    ip: bool,
    verdict: Verdict,
    cause: Option<Cause>,
    /// Exit code or signal, where the verdict leaves that open.
    end: Option<(Option<i32>, Option<i32>)>,
    stdout: Option<Vec<u8>>,
    /// How much it writes to stdout.
    bytes: Option<u64>,
    any_cause: bool,
}

impl Evil {
    /// A command. It must be accepted, unless told otherwise.
    pub fn new(name: &'static str, argv: &[&str]) -> Self {
        Self {
            name,
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            limits: json!({"wall_ms": 70_000, "cpu_ms": 70_000}),
            stdin: None,
            ip: false,
            verdict: Verdict::Accepted,
            cause: None,
            end: None,
            stdout: None,
            bytes: None,
            any_cause: false,
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

    pub fn prints(self, stdout: impl AsRef<[u8]>) -> Self {
        Self { stdout: Some(stdout.as_ref().to_vec()), ..self }
    }

    /// How many bytes it writes to stdout, where those are many.
    pub fn writes(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    /// It depends on the machine's speed which of two causes comes first.
    pub fn of_any_cause(self) -> Self {
        Self { any_cause: true, ..self }
    }

    /// It may use IP.
    pub fn with_ip(self) -> Self {
        Self { ip: true, ..self }
    }

    /// What is not as it must be.
    fn complaint(&self, report: &RunReport) -> Option<String> {
        let end = (report.exit_code, report.signal);
        let same = report.verdict == self.verdict
            && (self.any_cause || report.cause == self.cause)
            && self.end.is_none_or(|expected| expected == end)
            && self.bytes.is_none_or(|expected| expected == report.stdout.bytes)
            && self
                .stdout
                .as_ref()
                .is_none_or(|expected| *expected == report.stdout.content.decode().unwrap());
        (!same).then(|| {
            let stderr = String::from_utf8_lossy(&report.stderr.content.decode().unwrap()).into_owned();
            format!(
                "{}: {:?} {:?} {end:?} {:?} {stderr}",
                self.name, report.verdict, report.cause, report.stdout
            )
        })
    }
}

/// What runs last in each VM: nobody else lives, and the agent lets it start.
const HELLO: &str = "cd /proc && echo hello [0-9]* $$";

/// Runs these one after another in one VM and holds each to its verdict; after each the agent answers and the host has
/// gained nothing.
pub async fn unleash(arena: &Arena, programs: &[Evil]) -> Vec<RunReport> {
    unleash_after(arena, None, programs).await
}

/// The same in a VM where `first`, which means no harm, has run.
pub async fn unleash_after(arena: &Arena, first: Option<&Evil>, programs: &[Evil]) -> Vec<RunReport> {
    let mut round = arena.round().await;
    if let Some(first) = first {
        round.prepare(first).await;
    }
    let (mut reports, mut complaints) = (Vec::new(), Vec::new());
    for program in programs {
        let (report, wrong) = round.face(program).await;
        reports.push(report);
        complaints.extend(wrong);
    }
    let hello = round.exec(&Evil::shell("hello", HELLO)).await;
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert_eq!(crate::stdout(&hello), "hello 2 2\n", "the agent answers, and nobody else lives: {hello:#?}");
    round.end().await;
    reports
}
