//! The cheapest setting that reaches a goal.

use std::{sync::Mutex, sync::PoisonError, thread};

use serde::Serialize;

use super::{
    scenario::{Assumptions, Outcome, Scenario, ScenarioError},
    trace::Trace,
};

/// Parts of the claims that the scaler is told to serve in time, from few to nearly all.
const TARGETS: [f64; 9] = [0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999];
/// Turns that are tried beside those that are set, as multiples of them.
const TURNS: [usize; 3] = [1, 2, 4];

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// How long a job may wait.
    pub wait: std::time::Duration,
    /// The part of all jobs that waits no longer.
    pub part: f64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// What to write into the settings; without one nothing that was tried reaches the goal.
    pub settings: Option<Vec<String>>,
    /// What came of it; without one that reaches the goal, what came nearest.
    pub outcome: Outcome,
    /// How many settings were tried.
    pub tried: usize,
}

/// Tries the settings as they are, every slot filled, and the scaler with several targets, with the turns that are set
/// and with more, and takes what holds the least memory of those that reach the goal. The slots stay as they are.
///
/// # Errors
/// The settings cannot be simulated.
pub fn recommend(
    base: &Scenario,
    trace: &Trace,
    assumed: &Assumptions,
    goal: Goal,
) -> Result<Recommendation, ScenarioError> {
    let candidates = candidates(base, goal);
    let (queue, done) = (Mutex::new(candidates.iter()), Mutex::new(Vec::new()));
    let lock = |error: PoisonError<_>| error.into_inner();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(lock).next();
                    let Some((written, scenario)) = next else { return };
                    let outcome = scenario.run(trace, assumed, goal.wait);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((written, outcome));
                }
            });
        }
    });
    let mut best: Option<(bool, &Vec<String>, Outcome)> = None;
    for (written, outcome) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let outcome = outcome?;
        let reaches = outcome.report.within >= goal.part;
        let better = best.as_ref().is_none_or(|(others, known, other)| match (reaches, *others) {
            (true, true) => {
                let memory = outcome.report.memory_gib_hours.total_cmp(&other.report.memory_gib_hours);
                // Of equals the one that is written in fewer words, whichever thread was first.
                memory.then_with(|| (written.len(), written).cmp(&(known.len(), *known))).is_lt()
            }
            (true, false) => true,
            (false, true) => false,
            (false, false) => outcome.report.within > other.report.within,
        });
        if better {
            best = Some((reaches, written, outcome));
        }
    }
    let tried = candidates.len();
    match best {
        Some((reaches, settings, outcome)) => {
            Ok(Recommendation { settings: reaches.then(|| settings.clone()), outcome, tried })
        }
        // There is always one candidate: the settings as they are.
        None => Ok(Recommendation { settings: None, outcome: base.run(trace, assumed, goal.wait)?, tried }),
    }
}

/// Each with what has to be written for it.
fn candidates(base: &Scenario, goal: Goal) -> Vec<(Vec<String>, Scenario)> {
    let named = |scenario: Scenario| Scenario { name: "recommended".into(), ..scenario };
    let mut all = vec![(Vec::new(), named(base.clone()))];
    for times in TURNS {
        let turns = base.pool.restores_at_once.saturating_mul(times);
        let more = (times > 1).then(|| format!("pool.restores_at_once={turns}"));
        let mut turned = base.clone();
        turned.pool.restores_at_once = turns;
        let mut fixed = turned.clone();
        fixed.pool.scaling = None;
        let write = |lines: Vec<String>| lines.into_iter().chain(more.clone()).collect();
        all.push((write(vec!["pool.mode=fixed".into()]), named(fixed)));
        for target_hit in TARGETS {
            let mut auto = turned.clone();
            let policy = auto.pool.scaling.unwrap_or_default();
            auto.pool.scaling =
                Some(hearth_pool::scale::scaler::Policy { target_hit, target_wait: goal.wait, ..policy });
            let lines = vec![
                "pool.mode=auto".to_owned(),
                format!("pool.target_hit={target_hit}"),
                format!("pool.target_wait_ms={}", goal.wait.as_millis()),
            ];
            all.push((write(lines), named(auto)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use hearth_pool::scale::sim::{LoadShape, Takes, load};

    use super::*;
    use crate::plan::{Named, settings};

    fn run(slots: u32, goal: Goal) -> (Recommendation, Outcome) {
        let second = Duration::from_secs(1);
        let shape = LoadShape::Step { from: 3.0, to: 3.0, at: second };
        let jobs = load(shape, 200 * second, second, 1);
        let trace = Trace { runtimes: vec!["python".into()], jobs, begins: None };
        let all = Takes::always(Duration::from_millis(500));
        let assumed = Assumptions {
            restore: Named { all, some: BTreeMap::new() },
            destroy: Duration::ZERO,
            vm_memory_mib: Named { all: 256, some: BTreeMap::new() },
            cpu_milli: 1000,
            restore_cpu: None,
            seed: 1,
        };
        let base =
            settings("current", &format!("[slots]\npython = {slots}\n[pool]\nrestores_at_once = 8\n"), &[]);
        let base = base.unwrap();
        let current = base.run(&trace, &assumed, goal.wait).unwrap();
        (recommend(&base, &trace, &assumed, goal).unwrap(), current)
    }

    #[test]
    fn the_cheapest_that_reaches_the_goal_is_cheaper_than_filling_every_slot() {
        let (found, current) = run(40, Goal { wait: Duration::from_millis(100), part: 0.95 });
        assert!(found.outcome.report.within >= 0.95, "{:?}", found.settings);
        assert!(found.outcome.report.memory_gib_hours < current.report.memory_gib_hours / 2.0);
        let written = found.settings.unwrap().join(" ");
        assert!(
            written.contains("pool.mode=auto") && written.contains("pool.target_wait_ms=100"),
            "{written}"
        );
    }

    #[test]
    fn what_cannot_be_reached_is_said() {
        let (found, _) = run(2, Goal { wait: Duration::ZERO, part: 0.99 });
        assert_eq!(found.settings, None);
        assert!(found.outcome.report.within < 0.99 && found.tried > 20);
    }
}
