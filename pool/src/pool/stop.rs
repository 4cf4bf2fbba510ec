//! How slots are asked to end.

use tokio::sync::watch;

/// What slots are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// To go on.
    No,
    /// To end when no claim is left.
    Drain,
    /// To end.
    Now,
}

/// Resolves when at least that much was asked. A pool whose last handle is gone asks to drain. Cancel safe.
pub(super) async fn asked(stop: &mut watch::Receiver<Stop>, least: Stop) {
    if stop.wait_for(|now| *now >= least).await.is_err() && least > Stop::Drain {
        std::future::pending().await
    }
}
