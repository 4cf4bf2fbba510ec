//! What every hypervisor does with networks.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Network, NetworkError, Networks};
use crate::{
    hypervisor::{DestroyError, RestoreError, RestoreStep, Slot},
    snapshot::Snapshot,
    vm::log::chain,
};

/// A network for a VM of this snapshot, if that has a card, and how long it took to get one.
pub(crate) async fn network_of(
    snapshot: &Snapshot,
    networks: Option<&Networks>,
) -> Result<(Option<Arc<Network>>, Option<RestoreStep>), RestoreError> {
    if !snapshot.manifest.machine.card {
        return Ok((None, None));
    }
    let begun = Instant::now();
    let network = match networks {
        Some(networks) => networks.take().await?,
        None => return Err(RestoreError::Network(NetworkError::Gone)),
    };
    Ok((Some(network), Some(RestoreStep { name: "network", took: begun.elapsed() })))
}

/// Removes the network of a VM that has ended.
pub(crate) async fn remove_network(network: &Network, slot: &Slot) -> Result<(), DestroyError> {
    let removed = network.remove().await;
    removed.map_err(|error| DestroyError { slot: slot.clone(), what: chain(&error) })
}
