//! Whether a runtime that is hardly used keeps a warm VM.
//!
//! The hybrid histogram of M. Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020): idle times between claims are
//! counted by the minute. When they are regular, the VM may go once a claim has passed and comes back shortly before the next is
//! expected; it stays until nearly all claims of the past would have come. When they are not, or there are too few, a
//! fixed time decides.

use std::time::Duration;

/// Width of a bin.
const BIN: Duration = Duration::from_secs(60);
/// Bins; idle times beyond them are not foreseen.
const BINS: usize = 240;
/// Idle times before the histogram is believed.
const IDLE_TIMES_MIN: u32 = 10;
/// It is believed when the counts of its bins have at least this coefficient of variation: a few bins stand out.
const VARIATION_MIN: f64 = 2.0;
/// Of the idle times, the part before the VM comes back, and the part until it goes.
const HEAD: f64 = 0.05;
/// See [`HEAD`].
const TAIL: f64 = 0.99;
/// How much earlier it comes and later it goes.
const MARGIN: f64 = 0.10;
/// A pause shorter than this is not worth a restore.
const PAUSE_MIN: Duration = Duration::from_secs(120);

/// The idle times of one runtime.
#[derive(Clone, Debug)]
pub struct Pattern {
    counts: Vec<u32>,
    total: u32,
    beyond: u32,
    last: Option<Duration>,
}

impl Default for Pattern {
    fn default() -> Self {
        Self { counts: vec![0; BINS], total: 0, beyond: 0, last: None }
    }
}

/// When a VM is warm, as idle time since the last claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// From here on.
    pub from: Duration,
    /// Until here.
    pub until: Duration,
}

impl Pattern {
    /// A claim came. Instants are durations since whenever the clock began.
    pub fn claimed(&mut self, now: Duration) {
        if let Some(last) = self.last.replace(now) {
            let idle = now.saturating_sub(last);
            let bin = usize::try_from(idle.as_secs() / BIN.as_secs()).unwrap_or(usize::MAX);
            match self.counts.get_mut(bin) {
                // Claims within a minute are a rate, not a pattern.
                Some(_) if bin == 0 => {}
                Some(count) => {
                    *count += 1;
                    self.total += 1;
                }
                None => self.beyond += 1,
            }
        }
    }

    /// Whether a VM is kept warm now for a runtime that needs none by its rate.
    pub fn warm(&self, now: Duration, keep_alive: Duration) -> bool {
        let Some(last) = self.last else { return false };
        let idle = now.saturating_sub(last);
        match self.windows() {
            Some(windows) => idle <= BIN || (windows.from..=windows.until).contains(&idle),
            None => idle <= keep_alive,
        }
    }

    /// What the histogram says, when it is believed.
    pub fn windows(&self) -> Option<Windows> {
        if self.total < IDLE_TIMES_MIN || self.beyond > self.total {
            return None;
        }
        let mean = f64::from(self.total) / BINS as f64;
        let squares: f64 = self.counts.iter().map(|count| (f64::from(*count) - mean).powi(2)).sum();
        if (squares / BINS as f64).sqrt() / mean < VARIATION_MIN {
            return None;
        }
        let from = BIN.mul_f64(self.quantile(HEAD) as f64).mul_f64(1.0 - MARGIN);
        let until = BIN.mul_f64(self.quantile(TAIL) as f64 + 1.0).mul_f64(1.0 + MARGIN);
        Some(Windows { from: if from < PAUSE_MIN { Duration::ZERO } else { from }, until })
    }

    /// The bin in which that part of the idle times is reached.
    fn quantile(&self, part: f64) -> usize {
        let wanted = part * f64::from(self.total);
        let mut seen = 0.0;
        let reached = self.counts.iter().position(|count| {
            seen += f64::from(*count);
            seen >= wanted && *count > 0
        });
        reached.unwrap_or(BINS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const KEEP: Duration = Duration::from_secs(600);

    fn every(minutes: &[u32]) -> (Pattern, Duration) {
        let (mut pattern, mut now) = (Pattern::default(), Duration::ZERO);
        pattern.claimed(now);
        for idle in minutes {
            now += *idle * MINUTE;
            pattern.claimed(now);
        }
        (pattern, now)
    }

    #[test]
    fn a_regular_runtime_is_warm_around_its_time_only() {
        let (pattern, last) = every(&[30; 12]);
        let warm = |minutes: u32| pattern.warm(last + minutes * MINUTE, KEEP);
        assert!(warm(1), "right after a claim");
        assert!(!warm(10) && !warm(25), "{:?}", pattern.windows());
        assert!(warm(27) && warm(30) && warm(33), "{:?}", pattern.windows());
        assert!(!warm(40));
    }

    #[test]
    fn without_a_pattern_a_fixed_time_decides() {
        let (few, last) = every(&[30; 3]);
        assert!(few.warm(last + 9 * MINUTE, KEEP) && !few.warm(last + 11 * MINUTE, KEEP));
        let anything: Vec<u32> = (1..240).step_by(2).collect();
        let (none, last) = every(&anything);
        assert_eq!(none.windows(), None);
        assert!(!none.warm(last + 11 * MINUTE, KEEP));
        assert!(!Pattern::default().warm(MINUTE, KEEP), "never claimed");
    }

    #[test]
    fn what_comes_every_few_minutes_is_not_interrupted() {
        let (pattern, last) = every(&[2; 20]);
        assert_eq!(pattern.windows().map(|windows| windows.from), Some(Duration::ZERO));
        assert!(pattern.warm(last + MINUTE, KEEP));
    }
}
