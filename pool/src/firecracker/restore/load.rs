//! From a process without a guest to a guest that runs.

use std::{io, sync::atomic::Ordering, time::Duration};

use hearth_schemas::manifest::{Manifest, Transport};

use super::{Making, host, vmm};
use crate::{
    firecracker::{
        api::{
            ApiError, DeviceId, Devices, Fresh, Loaded, MemoryBackend, NetworkOverride, PartialDrive,
            PartialNetworkInterface, RateLimiter, SnapshotLoad, TokenBucket,
        },
        vsock,
    },
    hypervisor::RestoreError,
    net::Network,
    snapshot::{MEMORY, STATE},
    vm::seccomp::unfiltered_threads,
};

/// How long the guest's vsock may take to settle where Firecracker does not wait for that.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

impl Making<'_> {
    /// The snapshot's state and memory, and the devices' limits. Nothing of the guest has run.
    pub(super) async fn load(&self, fresh: Fresh) -> Result<Loaded, RestoreError> {
        let load = snapshot_load(self.parts.network.as_deref());
        let mut loaded = fresh.load(load).await.map_err(vmm)?;
        self.check_devices(&mut loaded).await?;
        self.limit(&mut loaded).await.map_err(vmm)?;
        Ok(loaded)
    }

    pub(super) async fn settle(&self) -> Result<(), RestoreError> {
        let reach = &self.parts.reach;
        let limit = if reach.has_serial() { SETTLE_LIMIT / 3 } else { SETTLE_LIMIT };
        match vsock::settle(&self.parts.place, limit).await {
            Err(error) if reach.without_vsock(&error) => Ok(()),
            settled => {
                settled.map_err(|error| RestoreError::Vmm(format!("the agent does not answer: {error}")))
            }
        }
    }

    /// A manifest does not go into the digest of the state beside it. Once for each snapshot, since both stay as they are.
    async fn check_devices(&self, loaded: &mut Loaded) -> Result<(), RestoreError> {
        let snapshot = &self.parts.snapshot;
        if snapshot.seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        let devices = loaded.devices().await.map_err(vmm)?;
        contradiction(&snapshot.manifest, &devices).map_err(RestoreError::Snapshot)?;
        snapshot.seen.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Before the first instruction, and after the load: a snapshot remembers what was left of its own limits.
    async fn limit(&self, loaded: &mut Loaded) -> Result<(), ApiError> {
        let rates = &self.firecracker.config.rates;
        if let Some(limiter) = limiter(rates.disk_bytes, rates.disk_operations) {
            for drive_id in [DeviceId::ROOT, DeviceId::SCRATCH] {
                let drive = PartialDrive { drive_id, path_on_host: None, rate_limiter: Some(limiter) };
                loaded.patch_drive(drive).await?;
            }
        }
        let card = limiter(rates.network_bytes, None).filter(|_| self.parts.network.is_some());
        if card.is_some() {
            let (rx_rate_limiter, tx_rate_limiter) = (card, card);
            let card = PartialNetworkInterface { iface_id: DeviceId::CARD, rx_rate_limiter, tx_rate_limiter };
            loaded.patch_network_interface(card).await?;
        }
        Ok(())
    }

    /// The guard's child is Firecracker itself, or the first of a short line of processes that ends with it.
    pub(super) fn check_seccomp(&self, pid: u32) -> Result<(), RestoreError> {
        let looked = last_descendant(pid).and_then(unfiltered_threads);
        let missing = looked.map_err(host("look at Firecracker's threads"))?;
        if missing.is_empty() || self.firecracker.config.insecure_seccomp {
            return Ok(());
        }
        Err(RestoreError::Vmm(format!(
            "Firecracker runs without a system call filter (allow it with insecure.seccomp): {}",
            missing.join(", ")
        )))
    }
}

/// Follows only children to the last process of a line. A process with two is no such line.
fn last_descendant(pid: u32) -> io::Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut children = children.split_ascii_whitespace();
    match (children.next().map(str::parse), children.next()) {
        (None, _) => Ok(pid),
        (Some(Ok(child)), None) => last_descendant(child),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("process {pid} has several children"))),
    }
}

fn limiter(bytes: Option<u64>, operations: Option<u64>) -> Option<RateLimiter> {
    let limiter = RateLimiter {
        bandwidth: bytes.map(TokenBucket::per_second),
        ops: operations.map(TokenBucket::per_second),
    };
    (limiter != RateLimiter::default()).then_some(limiter)
}

/// Paths are relative to the VM's own root, in the snapshot's state as here.
fn snapshot_load(network: Option<&Network>) -> SnapshotLoad {
    // The snapshot remembers the TAP of the bake.
    let card = |network: &Network| NetworkOverride {
        iface_id: DeviceId::CARD,
        host_dev_name: network.tap().to_owned(),
    };
    SnapshotLoad {
        snapshot_path: STATE.to_owned(),
        mem_backend: MemoryBackend::File(MEMORY.to_owned()),
        resume_vm: false,
        network_overrides: network.map(card).into_iter().collect(),
        vsock_override: None,
    }
}

/// A device that the manifest does not speak of would be in every clone: a vsock whose socket nobody expects, which
/// Firecracker binds in each of them.
fn contradiction(manifest: &Manifest, devices: &Devices) -> Result<(), String> {
    let (runtime, transport) = (&manifest.runtime, manifest.transport.as_str());
    let has = match (manifest.transport == Transport::Serial, &devices.vsock) {
        (false, Some(_)) | (true, None) => return Ok(()),
        (true, Some(vsock)) => format!("a vsock device (socket {:?})", vsock.uds_path),
        (false, None) => "no vsock device".to_owned(),
    };
    Err(format!(
        "the snapshot of runtime {runtime} is not what its manifest says: that has transport {transport}, and its state \
         has {has}: run `hearth bake {runtime} --force`"
    ))
}
