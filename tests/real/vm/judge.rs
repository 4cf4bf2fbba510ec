//! A judge's job: compiled once, two hundred cases of every verdict, and nothing of a case is there for the next one.

use hearth_schemas::result::{CaseReport, Cause, Verdict};
use serde_json::{Value, json};

use crate::with_runtime;

const CASES: usize = 200;
/// What a case leaves behind.
const LEAVES: [&str; 7] = ["nothing", "files", "system-v", "posix", "processes", "timers", "sockets"];
/// How a case ends, and what must be said of that. Whoever waits does so for as long as it may, so few do.
const ENDS: [(&str, Verdict, Option<Cause>); 7] = [
    ("accepted", Verdict::Accepted, None),
    ("wrong_answer", Verdict::WrongAnswer, Some(Cause::Mismatch)),
    ("cpu", Verdict::TimeLimit, Some(Cause::Cpu)),
    ("memory_limit", Verdict::MemoryLimit, Some(Cause::Oom)),
    ("nonzero_exit", Verdict::NonzeroExit, None),
    ("signalled", Verdict::Signalled, None),
    ("output_limit", Verdict::OutputLimit, Some(Cause::Stdout)),
];
const IDLE: (&str, Verdict, Option<Cause>) = ("idle", Verdict::TimeLimit, Some(Cause::Idle));
const IDLE_EVERY: usize = 50;

/// The same program sees what is left where nothing is cleared: in one command that runs it again and again.
const CONTROL: &str = "cp main other; for what in system-v processes posix files; do ./other $what accepted; done; ./other nothing accepted";
const CONTROL_SEES: [&str; 7] = [
    "left: /work left",
    "left: /tmp left",
    "left: /dev/shm left",
    "left: process ",
    "left: System V shared memory",
    "left: System V a message queue",
    "left: POSIX shared memory",
];

/// What the case of this number leaves, and how it ends. All pairs come up in the first 49.
fn case(number: usize) -> (&'static str, (&'static str, Verdict, Option<Cause>)) {
    let leaves = LEAVES[(number + number / 7) % LEAVES.len()];
    let end = if number % IDLE_EVERY == IDLE_EVERY - 1 { IDLE } else { ENDS[number % ENDS.len()] };
    (leaves, end)
}

fn request() -> Value {
    let cases = (0..CASES).map(|number| {
        let (leaves, (end, ..)) = case(number);
        json!({"name": number.to_string(), "argv_extra": [leaves, end], "expect": {"stdout": "clean\n"}})
    });
    json!({
        "runtime": "gcc",
        "files": [{"path": "main.c", "text": include_str!("judge.c")}],
        "stages": [
            {"name": "compile", "argv": ["gcc", "-O1", "-o", "main", "main.c"], "limits": {"wall_ms": 60_000}},
            {"name": "run", "argv": ["./main"], "cases": cases.collect::<Vec<_>>(),
             "limits": {"wall_ms": 5000, "cpu_ms": 2500, "memory_mib": 8, "output_kib": 64}, "continue_on_failure": true},
            {"name": "control", "argv": ["sh", "-c", CONTROL], "limits": {"wall_ms": 60_000}},
        ],
    })
}

/// What is wrong with a case's report.
fn complaint(number: usize, report: &CaseReport) -> Option<String> {
    let (leaves, (_, verdict, cause)) = case(number);
    let run = &report.run;
    let stdout = String::from_utf8_lossy(&run.stdout.content.decode().unwrap()).into_owned();
    let used = run.usage.is_some_and(|usage| {
        usage.wall_ms.as_micros() > 0
            && (usage.user_ms + usage.system_ms).as_micros() > 0
            && usage.memory_peak_bytes.is_some_and(|bytes| bytes > 0)
            && usage.processes_peak.is_some_and(|processes| processes > 0)
    });
    let right = (run.verdict, run.cause) == (verdict, cause) && stdout.starts_with("clean\n") && used;
    (!right).then(|| {
        format!(
            "case {number}, which leaves {leaves}: {:?} {:?} {:?} {stdout:?} {:?}",
            run.verdict, run.cause, run.exit_code, run.usage
        )
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_cases_have_their_verdicts_and_leave_nothing() {
    with_runtime("gcc", 1, async |worker| {
        let result = worker.run(&request()).await.unwrap();
        let [compiled, ran, control] = &result.stages[..] else { panic!("{result:#?}") };
        assert_eq!(compiled.run.verdict, Verdict::Accepted, "{compiled:#?}");
        assert_eq!(ran.cases.len(), CASES);
        let complaints = ran.cases.iter().enumerate();
        let complaints: Vec<_> =
            complaints.filter_map(|(number, report)| complaint(number, report)).collect();
        assert!(complaints.is_empty(), "{} of {CASES}: {complaints:#?}", complaints.len());
        let seen = crate::stdout(&control.run);
        for left in CONTROL_SEES {
            assert!(seen.contains(left), "{left} is not seen where it is: {seen}");
        }
        let run_ms = result.timings.run_ms.unwrap();
        eprintln!("measured {CASES} cases: {run_ms:?}");
    })
    .await;
}
