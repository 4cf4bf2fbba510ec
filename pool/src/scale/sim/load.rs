//! Jobs to simulate: made up here, or read from a trace elsewhere.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::pool::Lane;

/// One job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// When it claims a VM, since the beginning.
    pub at: Duration,
    /// Of which runtime, by its number.
    pub runtime: usize,
    /// How long it has the VM.
    pub takes: Duration,
    /// Its lane.
    pub lane: Lane,
}

/// How the rate of a made-up load changes. Rates are claims per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LoadShape {
    /// One rate, and from an instant on another.
    Step {
        /// Before.
        from: f64,
        /// After.
        to: f64,
        /// When.
        at: Duration,
    },
    /// Two rates in turn, each for a time.
    OnOff {
        /// The high one.
        high: f64,
        /// The low one.
        low: f64,
        /// How long each lasts.
        each: Duration,
    },
    /// A sine from `low` to `high` and back, as a day has it.
    Diurnal {
        /// At night.
        low: f64,
        /// At noon.
        high: f64,
        /// How long a day is.
        day: Duration,
    },
}

impl LoadShape {
    fn rate(&self, at: f64) -> f64 {
        match *self {
            Self::Step { from, to, at: step } if at < step.as_secs_f64() => from.min(to.max(from)),
            Self::Step { to, .. } => to,
            Self::OnOff { high, low, each } => match (at / each.as_secs_f64()) as u64 % 2 {
                0 => low,
                _ => high,
            },
            Self::Diurnal { low, high, day } => {
                let turn = std::f64::consts::TAU * at / day.as_secs_f64();
                low + (high - low) * (1.0 - turn.cos()) / 2.0
            }
        }
    }

    fn highest(&self) -> f64 {
        match *self {
            Self::Step { from, to, .. } => from.max(to),
            Self::OnOff { high, low, .. } | Self::Diurnal { high, low, .. } => high.max(low),
        }
    }
}

/// Poisson arrivals of one runtime, whose service times are exponential with this mean. In order.
pub fn load(shape: LoadShape, lasts: Duration, service: Duration, seed: u64) -> Vec<Job> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (highest, end) = (shape.highest(), lasts.as_secs_f64());
    let mut exponential = move |mean: f64| -mean * f64::ln(1.0 - rng.random::<f64>());
    let (mut at, mut jobs) = (0.0, Vec::new());
    let mut coin = SmallRng::seed_from_u64(seed ^ 0x5eed);
    loop {
        // By thinning: arrivals of the highest rate, of which the part that the rate of the moment is stays.
        at += exponential(1.0 / highest);
        if at >= end {
            return jobs;
        }
        let takes = Duration::from_secs_f64(exponential(service.as_secs_f64()));
        if coin.random::<f64>() * highest < shape.rate(at) {
            jobs.push(Job { at: Duration::from_secs_f64(at), runtime: 0, takes, lane: Lane::Normal });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_has_its_rates_and_is_the_same_for_the_same_seed() {
        let shape = LoadShape::Step { from: 14.0, to: 56.0, at: Duration::from_secs(100) };
        let jobs = load(shape, Duration::from_secs(200), Duration::from_secs(1), 1);
        let before = jobs.iter().filter(|job| job.at < Duration::from_secs(100)).count();
        assert!((1250..1550).contains(&before) && (5200..6000).contains(&(jobs.len() - before)), "{before}");
        let mean = jobs.iter().map(|job| job.takes.as_secs_f64()).sum::<f64>() / jobs.len() as f64;
        assert!((0.95..1.05).contains(&mean), "{mean}");
        assert!(jobs.is_sorted_by_key(|job| job.at));
        assert_eq!(jobs, load(shape, Duration::from_secs(200), Duration::from_secs(1), 1));
        assert_ne!(jobs, load(shape, Duration::from_secs(200), Duration::from_secs(1), 2));
    }
}
