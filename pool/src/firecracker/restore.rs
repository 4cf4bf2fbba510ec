//! From a snapshot to a VM that runs.

use std::{fs::File, io, sync::Arc, time::Duration};

use hearth_schemas::manifest::{HypervisorKind, Manifest, Transport};
use tokio::time::Instant;

use super::{
    Firecracker, FirecrackerVm, LOG,
    api::{
        ApiError, DeviceId, Fresh, Limits, Loaded, MemoryBackend, NetworkOverride, PartialDrive,
        PartialNetworkInterface, RateLimiter, SnapshotLoad, TokenBucket,
    },
    place::{API_SOCKET, Needs, OWN_LOG, Place, Plan, User, plan},
    serial::SerialPort,
    vsock,
};
use crate::{
    guard::{GuardError, OpenVm},
    hypervisor::{RestoreError, RestoreStep, Restored, Slot},
    lease::Identity,
    net::{Network, network_of},
    snapshot::{MEMORY, ROOT, SCRATCH, STATE, Snapshot},
    vm::{
        clone::{StopOnDrop, clone_file},
        directory::unique_name,
        log::{chain, log_tail},
        reach::Reach,
        seccomp::unfiltered_threads,
    },
};

/// Bounds of the API's calls. An idle host needs a tenth of a second for all of them.
const LIMITS: Limits = Limits {
    setup: Duration::from_secs(20),
    load: Duration::from_secs(20),
    create: Duration::from_secs(300),
};

/// How long the guest's vsock may take to settle where Firecracker does not wait for that.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// A VM that is being made.
struct Making<'a> {
    firecracker: &'a Firecracker,
    snapshot: &'a Snapshot,
    name: &'a str,
    place: Place,
    argv: Vec<String>,
    network: Option<Arc<Network>>,
    reach: Reach,
    steps: Vec<RestoreStep>,
}

impl Firecracker {
    pub(super) async fn restore_slot(
        &self,
        slot: &Slot,
        identity: &Identity,
    ) -> Result<Restored<FirecrackerVm>, RestoreError> {
        let snapshot = self.snapshot(&slot.runtime).map_err(|e| RestoreError::Snapshot(e.to_string()))?;
        serves(&snapshot.manifest)?;
        let (network, network_took) = network_of(&snapshot, self.networks.as_deref()).await?;
        let begun = Instant::now();
        let unique = unique_name(slot, identity);
        let plan = self.plan(&unique, identity, &snapshot.manifest, network.as_deref())?;
        if let (Some(network), Some(owner)) = (&network, plan.owner) {
            network.give(owner)?;
        }
        let name = slot.to_string();
        let open =
            OpenVm { vm: name.clone(), directory: unique, cid: identity.cid, also: plan.directories.clone() };
        let opened = self.guard.open(open).await.map_err(|error| refused(&error, identity))?;
        let place = Place::make(&plan).map_err(host("make the VM's root directory"))?;
        let serial = plan.serial.as_deref().map(SerialPort::make).transpose();
        let serial = serial.map_err(host("make the VM's serial port"))?;
        let mut making = Making {
            firecracker: self,
            snapshot: &snapshot,
            name: &name,
            place,
            argv: plan.argv,
            network,
            reach: Reach::of(&snapshot.manifest, Transport::HybridVsock),
            steps: network_took.into_iter().collect(),
        };
        making.step("open", begun);
        let log = match serial.is_some() {
            true => making.place.file(OWN_LOG),
            false => opened.directory.join(LOG),
        };
        let ended = |how| RestoreError::Vmm(format!("{how}; {}", log_tail(&log)));
        tokio::select! {
            made = making.make() => made?,
            how = self.guard.exited(&name) => return Err(ended(how)),
        }
        let Making { place, network, reach, steps, .. } = making;
        let named = snapshot.manifest.inputs_sha256.clone();
        Ok(Restored {
            vm: FirecrackerVm { name, place, reach, serial, network, snapshot },
            snapshot: named,
            steps,
        })
    }

    fn plan(
        &self,
        unique: &str,
        identity: &Identity,
        manifest: &Manifest,
        network: Option<&Network>,
    ) -> Result<Plan, RestoreError> {
        let machine = &manifest.machine;
        let needs = Needs {
            vcpus: machine.vcpus,
            memory_bytes: machine.vm_memory_mib << 20,
            file_bytes: machine.scratch_mib << 20,
            serial: manifest.serial || manifest.transport == Transport::Serial,
        };
        let config = &self.config;
        plan(
            &config.confinement,
            &config.firecracker,
            &config.jails(),
            unique,
            User::Cid(identity.cid),
            needs,
            network,
        )
        .map_err(|error| RestoreError::Vmm(error.to_string()))
    }
}

impl Making<'_> {
    fn step(&mut self, name: &'static str, begun: Instant) {
        self.steps.push(RestoreStep { name, took: begun.elapsed() });
    }

    async fn make(&mut self) -> Result<(), RestoreError> {
        for (file, name) in
            [(self.snapshot.state(), STATE), (self.snapshot.memory(), MEMORY), (self.snapshot.root(), ROOT)]
        {
            self.place.link(&file, name).map_err(host("link the snapshot's files"))?;
        }
        let begun = Instant::now();
        // Firecracker needs a moment to come up, and does not look at the disk meanwhile.
        let ((cloned, clone_took), started) =
            tokio::join!(async { (self.clone_scratch().await, begun.elapsed()) }, self.start());
        cloned?;
        let (fresh, pid) = started?;
        self.steps.push(RestoreStep { name: "clone", took: clone_took });
        self.step("start", begun);

        let begun = Instant::now();
        let held = fresh.features().vsock_held;
        let mut loaded = fresh.load(snapshot_load(self.network.as_deref())).await.map_err(vmm)?;
        self.limit(&mut loaded).await.map_err(vmm)?;
        self.step("load", begun);

        let begun = Instant::now();
        loaded.resume().await.map_err(vmm)?;
        self.check_seccomp(pid)?;
        self.step("resume", begun);

        if !held && self.reach.has_vsock() {
            let begun = Instant::now();
            let limit = if self.reach.has_serial() { SETTLE_LIMIT / 3 } else { SETTLE_LIMIT };
            match vsock::settle(&self.place, limit).await {
                Err(error) if self.reach.without_vsock(&error) => {}
                settled => {
                    let what = |error| RestoreError::Vmm(format!("the agent does not answer: {error}"));
                    settled.map_err(what)?;
                }
            }
            self.step("settle", begun);
        }
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
        let card = limiter(rates.network_bytes, None).filter(|_| self.network.is_some());
        if card.is_some() {
            let (rx_rate_limiter, tx_rate_limiter) = (card, card);
            let card = PartialNetworkInterface { iface_id: DeviceId::CARD, rx_rate_limiter, tx_rate_limiter };
            loaded.patch_network_interface(card).await?;
        }
        Ok(())
    }

    async fn clone_scratch(&self) -> Result<(), RestoreError> {
        let (from, to) = (self.snapshot.scratch(), self.place.file(SCRATCH));
        let stop = StopOnDrop::default();
        let flag = stop.flag();
        let cloned = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let target = File::options().read(true).write(true).create_new(true).open(to)?;
            clone_file(&File::open(from)?, &target, &flag).map(drop)
        });
        let cloned = cloned.await.unwrap_or_else(|error| Err(error.into()));
        cloned.and_then(|()| self.place.give(SCRATCH)).map_err(host("copy the scratch disk"))
    }

    async fn start(&self) -> Result<(Fresh, u32), RestoreError> {
        let guard = &self.firecracker.guard;
        let pid = guard.spawn(self.name, self.argv.clone(), LOG).await;
        let pid = pid.map_err(|error| RestoreError::Vmm(error.to_string()))?;
        let fresh = Fresh::connect(&self.place.socket(API_SOCKET), LIMITS).await.map_err(vmm)?;
        Ok((fresh, pid))
    }

    /// The guard's child is Firecracker itself, or the first of a short line of processes that ends with it.
    fn check_seccomp(&self, pid: u32) -> Result<(), RestoreError> {
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

fn serves(manifest: &Manifest) -> Result<(), RestoreError> {
    let runtime = &manifest.runtime;
    if manifest.hypervisor != HypervisorKind::Firecracker {
        return Err(RestoreError::Snapshot(format!("{runtime} is not a snapshot of Firecracker")));
    }
    if !matches!(manifest.transport, Transport::HybridVsock | Transport::Serial) {
        let transport = manifest.transport;
        let what = format!(
            "{runtime} is reached over {transport:?}, which Firecracker has not: run `hearth bake {runtime}`"
        );
        return Err(RestoreError::Snapshot(what));
    }
    Ok(())
}

fn refused(error: &GuardError, identity: &Identity) -> RestoreError {
    match error {
        GuardError::IdentityBusy => RestoreError::IdentityBusy { cid: identity.cid },
        other => RestoreError::Vmm(other.to_string()),
    }
}

fn host(what: &'static str) -> impl Fn(io::Error) -> RestoreError {
    move |source| RestoreError::Host { what: what.to_owned(), source }
}

fn vmm(error: ApiError) -> RestoreError {
    RestoreError::Vmm(chain(&error))
}
