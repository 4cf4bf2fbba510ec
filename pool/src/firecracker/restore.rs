//! From a snapshot to a VM that runs.

mod load;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hearth_schemas::manifest::{HypervisorKind, Manifest, Transport};
use tokio::time::Instant;

use super::{
    Firecracker, FirecrackerVm, LOG,
    api::{ApiError, Fresh, Limits},
    place::{API_SOCKET, Needs, OWN_LOG, Place, Plan, User, plan},
    serial::SerialPort,
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
    },
};

/// Bounds of the API's calls. An idle host needs a tenth of a second for all of them.
const LIMITS: Limits = Limits {
    setup: Duration::from_secs(20),
    load: Duration::from_secs(20),
    create: Duration::from_secs(300),
};

/// A VM that is being made: what there is of it.
#[derive(Debug)]
struct Parts {
    snapshot: Arc<Snapshot>,
    name: String,
    place: Place,
    argv: Vec<String>,
    /// The control group that the process is born in.
    group: Option<PathBuf>,
    /// What the process says, for faults.
    log: PathBuf,
    serial: Option<SerialPort>,
    network: Option<Arc<Network>>,
    reach: Reach,
    steps: Vec<RestoreStep>,
}

/// And who makes it.
struct Making<'a> {
    firecracker: &'a Firecracker,
    parts: Parts,
}

/// Firecracker in its jail with the snapshot's files beside it, of which it has read nothing yet.
#[derive(Debug)]
pub struct DormantFirecracker {
    parts: Parts,
    fresh: Fresh,
    pid: u32,
}

impl DormantFirecracker {
    /// What it will restore.
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.parts.snapshot
    }

    /// What the guard calls it.
    pub(super) fn name(&self) -> &str {
        &self.parts.name
    }
}

impl Firecracker {
    pub(super) async fn restore_slot(
        &self,
        slot: &Slot,
        identity: &Identity,
    ) -> Result<Restored<FirecrackerVm>, RestoreError> {
        let mut making = self.begin(slot, identity).await?;
        let (name, log) = making.parts.told_by();
        let made = async {
            let (fresh, pid) = making.start().await?;
            making.finish(fresh, pid).await
        };
        self.unless_it_ends(&name, &log, made).await?;
        Ok(making.restored())
    }

    pub(super) async fn start_slot(
        &self,
        slot: &Slot,
        identity: &Identity,
    ) -> Result<DormantFirecracker, RestoreError> {
        let mut making = self.begin(slot, identity).await?;
        let (name, log) = making.parts.told_by();
        let (fresh, pid) = self.unless_it_ends(&name, &log, making.start()).await?;
        // What was done ahead is no part of the restore that follows.
        let parts = Parts { steps: Vec::new(), ..making.parts };
        Ok(DormantFirecracker { parts, fresh, pid })
    }

    pub(super) async fn load_dormant(
        &self,
        dormant: DormantFirecracker,
    ) -> Result<Restored<FirecrackerVm>, RestoreError> {
        let DormantFirecracker { parts, fresh, pid } = dormant;
        let (name, log) = parts.told_by();
        let mut making = Making { firecracker: self, parts };
        self.unless_it_ends(&name, &log, making.finish(fresh, pid)).await?;
        Ok(making.restored())
    }

    /// Does a part of a restore, as long as Firecracker lives.
    async fn unless_it_ends<T>(
        &self,
        name: &str,
        log: &Path,
        part: impl Future<Output = Result<T, RestoreError>>,
    ) -> Result<T, RestoreError> {
        tokio::select! {
            // One that is gone already says more by its end than by what it closed.
            biased;
            how = self.guard.exited(name) => Err(RestoreError::Vmm(format!("{how}; {}", log_tail(log)))),
            made = part => made,
        }
    }

    /// The network, the lock and the directories.
    async fn begin(&self, slot: &Slot, identity: &Identity) -> Result<Making<'_>, RestoreError> {
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
        let log = match serial.is_some() {
            true => place.file(OWN_LOG),
            false => opened.directory.join(LOG),
        };
        let parts = Parts {
            reach: Reach::of(&snapshot.manifest, Transport::HybridVsock),
            snapshot,
            name,
            place,
            argv: plan.argv,
            group: plan.group.map(|group| group.path),
            log,
            serial,
            network,
            steps: network_took.into_iter().collect(),
        };
        let mut making = Making { firecracker: self, parts };
        making.step("open", begun);
        Ok(making)
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

impl Parts {
    /// By which name and in which file its end is told.
    fn told_by(&self) -> (String, PathBuf) {
        (self.name.clone(), self.log.clone())
    }
}

impl Making<'_> {
    fn step(&mut self, name: &'static str, begun: Instant) {
        self.parts.steps.push(RestoreStep { name, took: begun.elapsed() });
    }

    fn restored(self) -> Restored<FirecrackerVm> {
        let Parts { snapshot, name, place, serial, network, reach, steps, .. } = self.parts;
        let named = snapshot.manifest.inputs_sha256.clone();
        let vm = FirecrackerVm { name, place, reach, serial, network, snapshot };
        Restored { vm, snapshot: named, steps }
    }

    /// The process and its files: all that needs no guest.
    async fn start(&mut self) -> Result<(Fresh, u32), RestoreError> {
        let snapshot = &self.parts.snapshot;
        for (file, name) in [(snapshot.state(), STATE), (snapshot.memory(), MEMORY), (snapshot.root(), ROOT)]
        {
            self.parts.place.link(&file, name).map_err(host("link the snapshot's files"))?;
        }
        let begun = Instant::now();
        // Firecracker needs a moment to come up, and does not look at the disk meanwhile.
        let ((cloned, clone_took), started) =
            tokio::join!(async { (self.clone_scratch().await, begun.elapsed()) }, self.spawn());
        cloned?;
        let started = started?;
        self.parts.steps.push(RestoreStep { name: "clone", took: clone_took });
        self.step("start", begun);
        Ok(started)
    }

    /// What follows once the process is there: the guest.
    async fn finish(&mut self, fresh: Fresh, pid: u32) -> Result<(), RestoreError> {
        let begun = Instant::now();
        let held = fresh.features().vsock_held;
        let loaded = self.load(fresh).await?;
        self.step("load", begun);

        let begun = Instant::now();
        loaded.resume().await.map_err(vmm)?;
        self.check_seccomp(pid)?;
        self.step("resume", begun);

        if !held && self.parts.reach.has_vsock() {
            let begun = Instant::now();
            self.settle().await?;
            self.step("settle", begun);
        }
        Ok(())
    }

    async fn clone_scratch(&self) -> Result<(), RestoreError> {
        let (from, to) = (self.parts.snapshot.scratch(), self.parts.place.file(SCRATCH));
        let stop = StopOnDrop::default();
        let flag = stop.flag();
        let cloned = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let target = File::options().read(true).write(true).create_new(true).open(to)?;
            clone_file(&File::open(from)?, &target, &flag).map(drop)
        });
        let cloned = cloned.await.unwrap_or_else(|error| Err(error.into()));
        cloned.and_then(|()| self.parts.place.give(SCRATCH)).map_err(host("copy the scratch disk"))
    }

    async fn spawn(&self) -> Result<(Fresh, u32), RestoreError> {
        let (guard, parts) = (&self.firecracker.guard, &self.parts);
        let pid = guard.spawn_in(&parts.name, parts.argv.clone(), LOG, parts.group.clone()).await;
        let pid = pid.map_err(|error| RestoreError::Vmm(error.to_string()))?;
        let fresh = Fresh::connect(&parts.place.socket(API_SOCKET), LIMITS).await.map_err(vmm)?;
        Ok((fresh, pid))
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
