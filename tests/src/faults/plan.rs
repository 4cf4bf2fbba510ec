//! What is done to whom and when: a pure function of a seed.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// For how long jobs are sent, at least.
    pub lasts: Duration,
    /// How many jobs are sent, at least.
    pub jobs: u64,
    /// How many workers there are.
    pub workers: usize,
    /// Workers killed while they hold a job.
    pub busy_kills: usize,
    /// Workers killed whatever they do.
    pub other_kills: usize,
    /// How often the broker is killed and started again.
    pub broker_restarts: usize,
    /// How often Redis is.
    pub redis_restarts: usize,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This worker is killed as soon as it holds a job, or another one that does.
    KillBusy(usize),
    /// This worker is killed.
    Kill(usize),
    /// The broker is killed and started again.
    Broker,
    /// Redis is.
    Redis,
}

/// A fault and its time, counted from the first job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When.
    pub at: Duration,
    /// What.
    pub fault: Fault,
}

/// Everything that is done, in order.
pub fn plan(seed: u64, shape: &Shape) -> Vec<Planned> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut faults = Vec::new();
    let worker = |rng: &mut SmallRng| rng.random_range(0..shape.workers.max(1));
    let kills: Vec<_> = shuffled(shape.busy_kills, shape.other_kills, &mut rng)
        .into_iter()
        .map(|busy| if busy { Fault::KillBusy(worker(&mut rng)) } else { Fault::Kill(worker(&mut rng)) })
        .collect();
    let broker = vec![Fault::Broker; shape.broker_restarts];
    let redis = vec![Fault::Redis; shape.redis_restarts];
    for kind in [kills, broker, redis] {
        // Each in its share of the time, somewhere in the middle of it, so that none is near the end.
        let share = shape.lasts / u32::try_from(kind.len().max(1)).unwrap_or(u32::MAX);
        for (n, fault) in (0..).zip(kind) {
            faults.push(Planned { at: share * n + share.mul_f64(rng.random_range(0.1..0.8)), fault });
        }
    }
    faults.sort_by_key(|planned| planned.at);
    faults
}

/// As many `true` and `false`, in some order.
fn shuffled(yes: usize, no: usize, rng: &mut SmallRng) -> Vec<bool> {
    let (mut yes, mut no) = (yes, no);
    let mut order = Vec::new();
    while yes + no > 0 {
        let next = rng.random_range(0..yes + no) < yes;
        *(if next { &mut yes } else { &mut no }) -= 1;
        order.push(next);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan() {
        let shape = Shape {
            lasts: Duration::from_secs(180),
            jobs: 0,
            workers: 3,
            busy_kills: 42,
            other_kills: 20,
            broker_restarts: 2,
            redis_restarts: 2,
        };
        for seed in 0..50 {
            let planned = plan(seed, &shape);
            assert_eq!(planned, plan(seed, &shape));
            assert_ne!(planned, plan(seed + 1, &shape));
            let count = |of: fn(&Fault) -> bool| planned.iter().filter(|planned| of(&planned.fault)).count();
            assert_eq!(count(|fault| matches!(fault, Fault::KillBusy(0..3))), 42);
            assert_eq!(count(|fault| matches!(fault, Fault::Kill(0..3))), 20);
            assert_eq!(count(|fault| *fault == Fault::Broker), 2);
            assert_eq!(count(|fault| *fault == Fault::Redis), 2);
            assert!(planned.iter().all(|planned| planned.at < shape.lasts));
            assert!(planned.is_sorted_by_key(|planned| planned.at));
        }
    }
}
