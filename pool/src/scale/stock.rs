//! How many VMs to keep warm for a demand.
//!
//! A VM serves one claim, and every claim orders the next VM, so a runtime's pool is a base stock with one-for-one
//! replenishment. By Palm's theorem (1938) the orders that are under way form an M/G/∞ queue whose occupancy depends on
//! the restore time's mean alone; a claim finds a VM exactly when fewer orders than the stock are under way. So the
//! stock for a hit ratio is a quantile of the demand during one restore: mean plus some times the square root, which is
//! square-root staffing. A claim that may wait `w` has that long less of a restore to cover. Where only some VMs can be
//! restored at once, orders queue for a turn; Erlang's C formula says how often, and Kingman's exponent how far.
//!
//! The same curve says what one more VM is worth: the probability that it is missed, which falls with every VM. That is
//! what lets [`super::share`] divide a budget by marginal analysis (C. C. Sherbrooke, METRIC, 1968).

use super::arrivals::Arrivals;

/// Restores that are under way and what bounds them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Supply {
    /// Mean time from a turn to Ready, in seconds.
    pub lead: f64,
    /// Its squared coefficient of variation.
    pub lead_cv2: f64,
    /// VMs that can be restored at once, by all runtimes together.
    pub turns: u32,
    /// Of those, the mean number that other runtimes use.
    pub used_by_others: f64,
    /// How long a claim may wait, in seconds.
    pub wait: f64,
}

/// The highest utilisation of the turns that is still taken for a queue that ends.
const UTILISATION_MAX: f64 = 0.98;
/// A probability that is not worth a calculation.
const NEGLIGIBLE: f64 = 1e-6;
/// How far ahead a queue for turns is foreseen, in seconds. Near saturation it would grow for minutes; by then more is
/// known.
const HORIZON: f64 = 10.0;

/// How likely that many orders are under way, those aside that a claim can wait for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// How likely a claim waits too long without any stock: 1, or less when it may wait for a whole restore.
    some: f64,
    /// From 1: how likely at least that many are.
    tail: Vec<f64>,
}

impl Curve {
    /// For these claims, up to `most` VMs.
    pub fn new(arrivals: &Arrivals, supply: &Supply, most: u32) -> Self {
        let window = (supply.lead - supply.wait).max(0.0);
        let (mut some, mut tail) = (if window > 0.0 { 1.0 } else { 0.0 }, vec![0.0; most as usize]);
        for regime in arrivals.regimes().iter().filter(|regime| regime.weight > NEGLIGIBLE) {
            let mean = regime.rate() * window;
            // Of the count itself, and of the rate that is not known exactly.
            let variance = mean * arrivals.dispersion() + mean * mean / regime.shape;
            let queue = Queue::new(regime.rate(), arrivals.dispersion(), supply);
            some += regime.weight * queue.chance;
            add_tail(&mut tail, regime.weight, mean, variance, &queue);
        }
        Self { some: f64::min(some, 1.0), tail }
    }

    /// The smallest stock with which at most this part of the claims waits too long, and at most as many as the curve has.
    pub fn stock(&self, may_wait: f64) -> u32 {
        let short = std::iter::once(&self.some).chain(&self.tail);
        let short = short.take_while(|missed| **missed > may_wait).count();
        u32::try_from(short.min(self.tail.len())).unwrap_or(u32::MAX)
    }

    /// How likely the n-th VM is missed, n from 1.
    pub fn worth(&self, n: u32) -> f64 {
        let at = usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
        self.tail.get(at).copied().unwrap_or(0.0)
    }
}

/// Orders of one runtime that wait for a turn: `P(more than x) = chance * exp(-decay * x)`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Queue {
    chance: f64,
    decay: f64,
}

impl Queue {
    fn new(rate: f64, dispersion: f64, supply: &Supply) -> Self {
        let own = rate * supply.lead;
        let load = own + supply.used_by_others;
        let turns = f64::from(supply.turns.max(1));
        let used = (load / turns).min(UTILISATION_MAX);
        let spread = dispersion + supply.lead_cv2;
        // In equilibrium; and what a random walk without drift reaches within the horizon.
        let walk = f64::sqrt(std::f64::consts::FRAC_2_PI * spread * load / supply.lead.max(1e-3) * HORIZON);
        let decay = f64::max(2.0 * (1.0 - used) / spread, 1.0 / walk.max(1e-9));
        // What a claim may wait, the queue may be long: it moves at turns / lead.
        let patience = if supply.lead > 0.0 { supply.wait * turns / supply.lead } else { 0.0 };
        let chance = erlang_c(supply.turns.max(1), used * turns) * f64::exp(-decay * patience);
        // Of the queue, this runtime's part.
        let part = if load > 0.0 { (own / load).max(1e-6) } else { 1e-6 };
        Self { chance, decay: decay / part }
    }
}

/// Adds `weight * P(D + Q >= n)`: D is the demand, of that mean and variance, and Q the queue.
fn add_tail(tail: &mut [f64], weight: f64, mean: f64, variance: f64, queue: &Queue) {
    let fade = f64::exp(-queue.decay);
    let (mut below, mut queued) = (0.0, 0.0);
    let mut count = Count::new(mean, variance);
    for missed in tail {
        let exactly = count.next();
        below += exactly;
        // Of D < n: that the queue makes up the rest.
        queued = fade * (queued + queue.chance * exactly);
        let chance = ((1.0 - below).max(0.0) + queued).min(1.0);
        *missed += weight * chance;
        if chance < NEGLIGIBLE {
            return;
        }
    }
}

/// The probabilities of 0, 1, 2 …: negative binomial, or Poisson when the variance is no larger than the mean.
struct Count {
    /// Of the next one: its probability, as a logarithm while that is too small to be a number.
    log: f64,
    plain: f64,
    at: f64,
    mean: f64,
    shape: Option<f64>,
}

impl Count {
    fn new(mean: f64, variance: f64) -> Self {
        let over = variance - mean;
        let shape = (over > 1e-9 * mean.max(1e-9)).then(|| mean * mean / over);
        let log = match shape {
            Some(shape) => shape * f64::ln(shape / (shape + mean)),
            None => -mean,
        };
        Self { log, plain: f64::exp(log), at: 0.0, mean, shape }
    }

    fn next(&mut self) -> f64 {
        let probability = self.plain;
        let step = match self.shape {
            Some(shape) => (shape + self.at) / (self.at + 1.0) * self.mean / (shape + self.mean),
            None => self.mean / (self.at + 1.0),
        };
        self.at += 1.0;
        if self.plain > 1e-250 || step < 1.0 {
            self.plain *= step;
        } else {
            self.log += f64::ln(step);
            self.plain = f64::exp(self.log);
        }
        probability
    }
}

/// The probability that an order waits for one of `servers`, when `load` of them are used on average.
pub fn erlang_c(servers: u32, load: f64) -> f64 {
    let count = f64::from(servers);
    if load >= count {
        return 1.0;
    }
    // Erlang's B by its recursion, then C from B.
    let blocked = (1..=servers).fold(1.0, |blocked, n| load * blocked / (f64::from(n) + load * blocked));
    blocked / (1.0 - load / count * (1.0 - blocked))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn steady(rate: f64) -> Arrivals {
        let mut arrivals = Arrivals::new(rate);
        let mut owed = 0.0;
        for _ in 0..3000 {
            owed += rate / 10.0;
            arrivals.observe(owed as u32, Duration::from_millis(100));
            owed = f64::fract(owed);
        }
        arrivals
    }

    fn supply(turns: u32) -> Supply {
        Supply { lead: 0.5, lead_cv2: 0.0, turns, used_by_others: 0.0, wait: 0.0 }
    }

    #[test]
    fn erlang_c_is_as_in_the_tables() {
        for (servers, load, expected) in
            [(1, 0.5, 0.5), (2, 1.0, 1.0 / 3.0), (10, 8.0, 0.4092), (5, 4.0, 0.5541)]
        {
            let got = erlang_c(servers, load);
            assert!((got - expected).abs() < 0.003, "{servers} {load}: {got}");
        }
        assert_eq!(erlang_c(4, 7.0), 1.0);
    }

    #[test]
    fn a_count_sums_up_to_one_and_has_its_mean() {
        for (mean, variance) in [(7.0, 7.0), (7.0, 20.0), (0.01, 0.01), (300.0, 400.0), (0.0, 0.0)] {
            let mut count = Count::new(mean, variance);
            let (mut total, mut sum) = (0.0, 0.0);
            for n in 0..2000 {
                let probability = count.next();
                total += probability;
                sum += probability * f64::from(n);
            }
            assert!(
                (total - 1.0).abs() < 1e-6 && (sum - mean).abs() < 1e-4 * (1.0 + mean),
                "{mean}: {total} {sum}"
            );
        }
    }

    #[test]
    fn the_stock_is_the_quantile_of_the_demand_during_a_restore() {
        // Poisson of mean 7: P(>= 15) = 0.57 %, P(>= 14) = 1.28 %.
        let stock = Curve::new(&steady(14.0), &supply(100), 200).stock(0.01);
        assert!((14..=17).contains(&stock), "{stock}");
        let sure = Curve::new(&steady(14.0), &supply(100), 200).stock(0.0001);
        assert!(sure > stock + 3, "{sure}");
    }

    #[test]
    fn few_turns_need_more_stock_and_too_few_all_of_it() {
        let (free, tight) =
            (Curve::new(&steady(14.0), &supply(100), 500), Curve::new(&steady(14.0), &supply(8), 500));
        assert!(tight.stock(0.01) > free.stock(0.01) + 4, "{} {}", tight.stock(0.01), free.stock(0.01));
        let hopeless = Curve::new(&steady(14.0), &supply(4), 100).stock(0.01);
        assert!(hopeless > 2 * tight.stock(0.01), "{hopeless}");
    }

    #[test]
    fn who_may_wait_for_a_restore_needs_one_warm_vm_at_most() {
        let patient = Supply { wait: 1.0, ..supply(100) };
        assert!(Curve::new(&steady(14.0), &patient, 100).stock(0.01) <= 1);
        let half = Supply { wait: 0.25, ..supply(100) };
        let stock = Curve::new(&steady(14.0), &half, 100).stock(0.01);
        assert!((8..=10).contains(&stock), "{stock}");
    }

    #[test]
    fn each_further_vm_is_worth_less() {
        let curve = Curve::new(&steady(14.0), &supply(8), 100);
        for n in 1..99 {
            assert!(curve.worth(n) >= curve.worth(n + 1), "{n}");
        }
        assert_eq!(curve.worth(1000), 0.0);
    }
}
