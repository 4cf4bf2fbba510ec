//! How long to wait before trying again.

use std::time::Duration;

/// Capped exponential backoff with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first delay.
    pub first: Duration,
    /// The longest delay.
    pub cap: Duration,
}

impl Backoff {
    /// The delay after that many failures in a row (the first is 1). `jitter` from 0 to 1 moves it within the
    /// upper half of its range, so that slots that failed together do not try again together.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(doubled).min(self.cap);
        full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn delays_double_up_to_the_cap_and_stay_in_the_upper_half() {
        let backoff = Backoff { first: 100 * MS, cap: 1000 * MS };
        let full = |n| backoff.delay(n, 1.0) / MS.as_millis() as u32;
        assert_eq!(
            [1, 2, 3, 4, 5, 40, u32::MAX].map(full),
            [100, 200, 400, 800, 1000, 1000, 1000].map(|n| n * MS)
        );
        assert_eq!(backoff.delay(2, 0.0), 100 * MS);
        assert_eq!(backoff.delay(0, 1.0), 100 * MS);
    }
}
