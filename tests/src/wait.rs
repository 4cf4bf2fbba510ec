//! Waiting on a state, with a deadline.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often a state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is something. Panics when there is nothing after `within`.
pub async fn until_some<T>(within: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
    }
}

/// Looks until it is so. Panics when it is not after `within`.
pub async fn until(within: Duration, what: &str, mut look: impl AsyncFnMut() -> bool) {
    until_some(within, what, async || look().await.then_some(())).await;
}

/// Waits until a moment has passed, for states that only time brings about.
pub async fn until_passed(moment: Instant) {
    tokio::time::sleep_until(moment).await;
}
