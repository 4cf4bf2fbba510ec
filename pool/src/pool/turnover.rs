//! A runtime that was baked again: who sees it, and when VMs of the old snapshot go.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::admission::Admission;
use crate::hypervisor::Hypervisor;

/// How often it is looked; of each runtime at most one old VM goes each time.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// What restores of each runtime come from now.
pub(crate) struct Currents(Vec<(String, watch::Sender<Option<String>>)>);

impl Currents {
    pub(super) fn new<H: Hypervisor>(hypervisor: &H, runtimes: impl Iterator<Item = String>) -> Arc<Self> {
        let now = |runtime: String| {
            let current = hypervisor.current(&runtime);
            (runtime, watch::Sender::new(current))
        };
        Arc::new(Self(runtimes.map(now).collect()))
    }

    /// Of one runtime, by its number.
    pub(super) fn of(&self, runtime: usize) -> watch::Receiver<Option<String>> {
        let nothing = || watch::channel(None).1;
        self.0.get(runtime).map_or_else(nothing, |(_, current)| current.subscribe())
    }

    /// Looks until `over`.
    pub(super) async fn run<H: Hypervisor>(
        self: Arc<Self>,
        hypervisor: Arc<H>,
        admission: Arc<Admission>,
        over: impl Future<Output = ()>,
    ) {
        tokio::pin!(over);
        loop {
            tokio::select! {
                biased;
                () = &mut over => return,
                () = sleep(LOOK) => {}
            }
            for (runtime, current) in &self.0 {
                let now = hypervisor.current(runtime);
                // None at all is no newer one.
                if now.is_some()
                    && current.send_if_modified(|known| {
                        *known != now && {
                            *known = now;
                            true
                        }
                    })
                {
                    tracing::info!(
                        runtime,
                        snapshot = current.borrow().as_deref(),
                        "a new snapshot takes over"
                    );
                }
            }
            admission.turn_over();
        }
    }
}

/// Whether a VM is of another snapshot than what restores come from now.
pub(super) fn is_outdated(current: Option<&str>, came_from: Option<&str>) -> bool {
    matches!((current, came_from), (Some(current), Some(from)) if current != from)
}

#[cfg(test)]
mod tests {
    use super::is_outdated;

    #[test]
    fn only_another_name_is_newer() {
        assert!(is_outdated(Some("b"), Some("a")));
        for (current, from) in [(Some("a"), Some("a")), (None, Some("a")), (Some("a"), None), (None, None)] {
            assert!(!is_outdated(current, from), "{current:?} {from:?}");
        }
    }
}
