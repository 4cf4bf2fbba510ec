//! Cases of a stage in one VM, by a whole worker, against the bare price of as many processes in the same kind of guest.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hearth_pool::phase::Phase;
use hearth_schemas::result::{JobResult, RunReport, Verdict};
use hearth_tests::real::{Machine, Worker};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Plan, by_hand::ByHand, series::Report, sessions::guest};

/// One case, with everything around it, over one vfork, exec and wait.
const CASE: &str = "a case of true";
/// One case that reads its input and whose output is compared, over one whose output is not.
const JUDGED: &str = "a judged case, over unjudged";
/// The series of this module.
pub const NAMES: [&str; 2] = [CASE, JUDGED];

/// Cases of a job: many, so that what is around them counts for little.
const CASES: u32 = 200;
/// The first pair finds cold caches.
const DISCARDED: usize = 1;

/// Ours, floor, ours, floor, …
///
/// # Errors
/// A VM failed, or a case was not what it had to be.
pub async fn run(
    plan: &Plan,
    machine: &Machine,
    by_hand: &ByHand,
    server: &Path,
    report: &mut Report,
) -> Result<()> {
    let worker = Worker::open(machine, &[(&plan.runtime, 1)]).await?;
    let (vm, session, mut raw) = guest(by_hand, server).await?;
    for sample in 0..plan.samples + DISCARDED {
        let mut pair = Report::default();
        if plan.wants(&[CASE]) {
            pair.ours(CASE, each(&worker, plan, "/bin/true", &json!({})).await?);
            ready(&worker, plan).await?;
            let began = Instant::now();
            raw.spawns(CASES).await?;
            pair.floor(CASE, began.elapsed() / CASES);
        }
        if plan.wants(&[JUDGED]) {
            let judged = json!({"stdin": "1 2\n3\n", "expect": {"stdout": "1 2\n3\n", "match": "tokens"}});
            pair.ours(JUDGED, each(&worker, plan, "/bin/cat", &judged).await?);
            pair.floor(JUDGED, each(&worker, plan, "/bin/cat", &json!({"stdin": "1 2\n3\n"})).await?);
        }
        if sample >= DISCARDED {
            report.take(pair);
        }
    }
    drop(session);
    vm.end().await?;
    worker.close().await
}

/// Waits until the worker has restored its next VM, so that nothing runs beside what comes.
async fn ready(worker: &Worker, plan: &Plan) -> Result<()> {
    let mut phases = worker.local().pool().phases();
    phases.wait_for(|phases| phases.count(&plan.runtime, Phase::Ready) == 1).await?;
    Ok(())
}

/// How long each case of a job took. Every one must be accepted, with what it used.
async fn each(worker: &Worker, plan: &Plan, argv: &str, case: &Value) -> Result<Duration> {
    ready(worker, plan).await?;
    let cases: Vec<_> = (0..CASES).map(|number| with_name(case, number)).collect();
    let limits = json!({"wall_ms": 5000, "memory_mib": 64, "processes": 8});
    let stage = json!({"name": "run", "argv": [argv], "limits": limits, "cases": cases});
    let job = json!({"runtime": plan.runtime, "stages": [stage]});
    let result: JobResult = worker.run(&job).await?;
    let [stage] = result.stages.as_slice() else { anyhow::bail!("{result:#?}") };
    let good = |run: &RunReport| run.verdict == Verdict::Accepted && run.usage.is_some();
    ensure!(stage.cases.len() == CASES as usize, "{} cases", stage.cases.len());
    ensure!(stage.cases.iter().all(|case| good(&case.run)), "{:#?}", stage.run);
    let took = result.timings.run_ms.context("a result that does not say how long it ran")?;
    Ok(Duration::from_micros(took.as_micros()) / CASES)
}

fn with_name(case: &Value, number: u32) -> Value {
    let mut case = case.as_object().cloned().unwrap_or_default();
    case.insert("name".into(), number.to_string().into());
    case.into()
}
