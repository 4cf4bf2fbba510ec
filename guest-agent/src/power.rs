//! Getting ready for a snapshot, and the end.

use std::path::Path;

use hearth_schemas::guest::messages::FaultKind;
use rustix::{io::Errno, system::RebootCommand};

use crate::{
    agent::{Agent, Place},
    boot,
    fault::Refusal,
    group::GroupError,
    tree::Tree,
};

/// Why the guest is not ready for a snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuiesceError {
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("cannot empty the early working tree")]
    Tree(#[source] Errno),
}

impl Refusal for QuiesceError {
    fn kind(&self) -> FaultKind {
        FaultKind::Internal
    }
}

/// Ends what warming up left behind, forgets its files, writes caches out. Page caches stay: they are what a
/// warm-up is for. After the wake it only writes caches out.
pub(crate) async fn quiesce(agent: &Agent) -> Result<(), QuiesceError> {
    if !agent.awake() {
        agent.groups().kill_all().await?;
        if matches!(agent.place(), Place::Guest { .. }) {
            boot::drop_early_tree();
            boot::mount_early_tree().map_err(QuiesceError::Tree)?;
            let tree = Tree::open(Path::new(boot::WORK), Some(boot::job_ids()));
            agent.set_tree(tree.map_err(QuiesceError::Tree)?);
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
