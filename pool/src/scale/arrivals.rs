//! What claims will come: the rate at which they arrive, how sure that is, and how bursty they are.
//!
//! Bayesian online change-point detection (R. P. Adams and D. J. C. MacKay, 2007) with Gamma-Poisson regimes. Every
//! regime says since when the rate has been constant; each observation weighs them anew, and adds one that begins with
//! it. What is asked of it is a quantile of the demand in the near future, so a step counts before it is certain: a
//! regime of four times the rate matters as soon as its weight reaches the share of claims that may wait. No threshold
//! has to be tuned for that, and in a steady state old regimes make the estimate sharp.

use std::time::Duration;

/// Mean time between changes of the rate that is assumed.
const CHANGE_EVERY: Duration = Duration::from_secs(120);
/// Regimes that are kept: the heaviest.
const REGIMES_MAX: usize = 16;
/// A regime lighter than this is forgotten.
const WEIGHT_MIN: f64 = 1e-6;
/// A new regime's rate is expected around this many times the present one, with an exponential spread.
const CHANGE_FACTOR: f64 = 2.0;
/// A new regime weighs no more than this many seconds without a claim, so that one that begins after a silence learns fast.
const FRESH_SECONDS_MAX: f64 = 20.0;
/// The rate, in claims per second, below which nothing is expected to arrive: one an hour.
const RATE_MIN: f64 = 1.0 / 3600.0;
/// What the memory of a regime is bounded to, so that a slow drift is followed.
const MEMORY: Duration = Duration::from_secs(300);
/// Over how many windows with claims the burstiness is averaged.
const BURST_WINDOWS: f64 = 200.0;
/// The index of dispersion is believed up to here; beyond it, it is a change.
const DISPERSION_MAX: f64 = 16.0;

/// One belief: the rate has been constant for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regime {
    /// How much it is believed; all weights sum up to 1.
    pub weight: f64,
    /// Claims seen, in effect; the shape of the Gamma distribution of the rate.
    pub shape: f64,
    /// Seconds seen, in effect; its inverse scale.
    pub seconds: f64,
}

impl Regime {
    /// Claims per second.
    pub fn rate(&self) -> f64 {
        self.shape / self.seconds
    }
}

/// The claims of one runtime.
#[derive(Clone, Debug)]
pub struct Arrivals {
    regimes: Vec<Regime>,
    dispersion: f64,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self::new(0.0)
    }
}

impl Arrivals {
    /// With a first guess of the rate, in claims per second; 0 when there is none.
    pub fn new(guess: f64) -> Self {
        let regime = Regime { weight: 1.0, shape: 1.0, seconds: 1.0 / guess.max(RATE_MIN) };
        Self { regimes: vec![regime], dispersion: 1.0 }
    }

    /// That many claims arrived in the time since the last call.
    pub fn observe(&mut self, claims: u32, during: Duration) {
        let seconds = during.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        self.burstiness(claims, seconds);
        let change = -f64::exp_m1(-seconds / CHANGE_EVERY.as_secs_f64());
        let expected = 1.0 / (CHANGE_FACTOR * self.rate());
        let fresh = Regime { weight: change, shape: 1.0, seconds: expected.min(FRESH_SECONDS_MAX) };
        for regime in &mut self.regimes {
            regime.weight *= 1.0 - change;
        }
        self.regimes.push(fresh);
        let scale = 1.0 / self.dispersion;
        let (memory, mut total) = (MEMORY.as_secs_f64(), 0.0);
        for regime in &mut self.regimes {
            regime.weight *= f64::exp(log_likelihood(regime, claims, seconds) * scale);
            regime.shape += f64::from(claims) * scale;
            regime.seconds += seconds * scale;
            if regime.seconds > memory {
                regime.shape *= memory / regime.seconds;
                regime.seconds = memory;
            }
            total += regime.weight;
        }
        self.settle(total);
    }

    /// Drops what is light and makes the weights sum up to 1.
    fn settle(&mut self, total: f64) {
        if !(total.is_finite() && total > f64::MIN_POSITIVE) {
            // Nothing explains what was seen: begin anew from the regime that began last.
            if let Some(last) = self.regimes.pop() {
                self.regimes = vec![Regime { weight: 1.0, ..last }];
            }
            return;
        }
        self.regimes.retain(|regime| regime.weight > WEIGHT_MIN * total);
        if self.regimes.len() > REGIMES_MAX {
            self.regimes.sort_by(|a, b| b.weight.total_cmp(&a.weight));
            self.regimes.truncate(REGIMES_MAX);
        }
        let total: f64 = self.regimes.iter().map(|regime| regime.weight).sum();
        self.regimes.iter_mut().for_each(|regime| regime.weight /= total);
    }

    /// Pearson's estimate of variance over mean, against the regime that is believed most.
    fn burstiness(&mut self, claims: u32, seconds: f64) {
        let best = self.regimes.iter().max_by(|a, b| a.weight.total_cmp(&b.weight));
        let Some(best) = best.filter(|best| best.seconds > 10.0 * seconds) else { return };
        let mean = best.rate() * seconds;
        let off = f64::from(claims) - mean;
        // A window counts by what could be expected in it, so that empty ones say little.
        let share = mean.min(1.0) / BURST_WINDOWS;
        let seen = (off * off / mean).min(2.0 * DISPERSION_MAX);
        self.dispersion = (self.dispersion + share * (seen - self.dispersion)).clamp(1.0, DISPERSION_MAX);
    }

    /// Claims per second, averaged over what is believed.
    pub fn rate(&self) -> f64 {
        let rate = self.regimes.iter().map(|regime| regime.weight * regime.rate()).sum::<f64>();
        rate.max(RATE_MIN)
    }

    /// Variance over mean of the claims in a short window; 1 when they are independent.
    pub fn dispersion(&self) -> f64 {
        self.dispersion
    }

    /// What is believed.
    pub fn regimes(&self) -> &[Regime] {
        &self.regimes
    }
}

/// Of a count under a regime: the negative binomial that a Gamma rate makes of a Poisson count.
fn log_likelihood(regime: &Regime, claims: u32, seconds: f64) -> f64 {
    let grown = regime.seconds + seconds;
    let mut log = regime.shape * f64::ln(regime.seconds / grown);
    let next = seconds / grown;
    let mut product = 1.0;
    for n in 0..claims {
        let n = f64::from(n);
        product *= (regime.shape + n) / (n + 1.0) * next;
        if !(1e-200..1e200).contains(&product) {
            log += f64::ln(product);
            product = 1.0;
        }
    }
    log + f64::ln(product)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIN: Duration = Duration::from_millis(100);

    /// Counts whose mean is `rate` times the bin, evenly.
    fn feed(arrivals: &mut Arrivals, rate: f64, seconds: f64) {
        let mut owed = 0.0;
        for _ in 0..(seconds * 10.0) as u32 {
            owed += rate / 10.0;
            arrivals.observe(owed as u32, BIN);
            owed = owed.fract();
        }
    }

    #[test]
    fn a_steady_rate_is_learnt_and_stays() {
        let mut arrivals = Arrivals::default();
        feed(&mut arrivals, 14.0, 60.0);
        assert!((13.0..15.0).contains(&arrivals.rate()), "{}", arrivals.rate());
        assert!(arrivals.dispersion() < 1.5, "{}", arrivals.dispersion());
    }

    #[test]
    fn a_step_is_believed_within_half_a_second_and_a_fall_within_two() {
        let mut arrivals = Arrivals::default();
        feed(&mut arrivals, 14.0, 120.0);
        feed(&mut arrivals, 56.0, 0.5);
        assert!(arrivals.rate() > 40.0, "{}", arrivals.rate());
        feed(&mut arrivals, 56.0, 60.0);
        feed(&mut arrivals, 14.0, 2.0);
        assert!(arrivals.rate() < 20.0, "{}", arrivals.rate());
    }

    #[test]
    fn silence_brings_the_rate_down_and_weights_stay_sound() {
        let mut arrivals = Arrivals::new(5.0);
        feed(&mut arrivals, 5.0, 30.0);
        for _ in 0..6000 {
            arrivals.observe(0, BIN);
        }
        assert!(arrivals.rate() < 0.02, "{}", arrivals.rate());
        arrivals.observe(100_000, BIN);
        let total: f64 = arrivals.regimes().iter().map(|regime| regime.weight).sum();
        assert!((total - 1.0).abs() < 1e-9 && arrivals.rate().is_finite(), "{arrivals:?}");
    }

    #[test]
    fn what_comes_after_a_long_silence_is_learnt_within_a_minute() {
        let mut arrivals = Arrivals::default();
        for _ in 0..600 {
            arrivals.observe(0, Duration::from_secs(1));
        }
        feed(&mut arrivals, 1.5, 60.0);
        assert!((1.0..2.0).contains(&arrivals.rate()), "{}", arrivals.rate());
    }

    #[test]
    fn batches_are_bursty() {
        let mut arrivals = Arrivals::default();
        for second in 0..300 {
            for bin in 0..10 {
                arrivals.observe(if bin == second % 7 { 10 } else { 0 }, BIN);
            }
        }
        assert!(arrivals.dispersion() > 3.0, "{}", arrivals.dispersion());
    }
}
