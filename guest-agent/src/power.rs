//! Getting ready for a snapshot, and the end.

use hearth_schemas::guest::messages::FaultKind;
use rustix::system::RebootCommand;

use crate::{
    agent::{Agent, Place},
    fault::Refusal,
    group::GroupError,
    wake::{self, WakeError},
};

/// Why the guest is not ready for a snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuiesceError {
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Settle(#[from] WakeError),
}

impl Refusal for QuiesceError {
    fn kind(&self) -> FaultKind {
        FaultKind::Internal
    }
}

/// Ends what warming up left behind, forgets its files, mounts the scratch disk, writes caches out. Page caches stay: they are
/// what a warm-up is for. After the wake it only writes caches out.
pub(crate) async fn quiesce(agent: &Agent) -> Result<(), QuiesceError> {
    if !agent.awake() {
        agent.groups().kill_all().await?;
        if matches!(agent.place(), Place::Guest { .. }) {
            wake::settle(agent).await?;
            agent.groups().prepare()?;
        }
    }
    rustix::fs::sync();
    Ok(())
}

/// Ends the machine. Returns only if the kernel refuses.
pub(crate) fn off() {
    rustix::fs::sync();
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
}
