//! A Firecracker process as its API sees it.

use std::{path::Path, time::Duration};

use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    body::{
        Action, BootSource, Drive, Entropy, Logger, MachineConfig, Metrics, NetworkInterface, PartialDrive,
        PartialNetworkInterface, Serial, SnapshotCreate, SnapshotLoad, VmState, Vsock,
    },
    client::{Client, Limits},
    error::ApiError,
    request::Request,
    version::{Features, Version},
};

/// Pause between two looks for the socket of a process that was just started.
const CONNECT_PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug)]
struct Process {
    client: Client,
    features: Features,
}

impl Process {
    async fn call(&mut self, request: Request) -> Result<(), ApiError> {
        request.check(&self.features)?;
        self.client.call(&request).await.map(drop)
    }
}

/// A process that has no VM yet: it is booted, or a snapshot is loaded into it.
#[derive(Debug)]
pub struct Fresh(Process);

#[derive(Deserialize)]
struct VersionAnswer {
    firecracker_version: String,
}

/// The devices of a VM that a snapshot can have and need not have, as Firecracker lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Devices {
    /// The vsock device.
    pub vsock: Option<VsockDevice>,
}

/// A vsock device as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VsockDevice {
    /// The host's socket, as it was written at the bake.
    pub uds_path: String,
}

impl Fresh {
    /// Connects to a process that listens on `socket` before `limits.setup` is over, and asks for its version.
    /// Refuses releases that are not used.
    pub async fn connect(socket: &Path, limits: Limits) -> Result<Self, ApiError> {
        let deadline = Instant::now() + limits.setup;
        let mut client = loop {
            let error = match Client::connect(socket, limits).await {
                Ok(client) => break client,
                Err(error) => error,
            };
            if timeout_at(deadline, sleep(CONNECT_PAUSE)).await.is_err() {
                return Err(error);
            }
        };
        let answer = client.call(&Request::GetVersion).await?;
        let answer: VersionAnswer = serde_json::from_slice(&answer).map_err(|error| ApiError::Answer {
            request: "GET /version".to_owned(),
            what: error.to_string(),
        })?;
        let features = Features::of(answer.firecracker_version.parse()?)?;
        Ok(Self(Process { client, features }))
    }

    /// What this release understands.
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// Its release.
    pub fn version(&self) -> Version {
        self.0.features.version
    }

    /// Its own log. Before everything else, for what goes wrong then.
    pub async fn logger(&mut self, logger: Logger) -> Result<(), ApiError> {
        self.0.call(Request::PutLogger(logger)).await
    }

    /// Its counters.
    pub async fn metrics(&mut self, metrics: Metrics) -> Result<(), ApiError> {
        self.0.call(Request::PutMetrics(metrics)).await
    }

    /// The serial console's output.
    pub async fn serial(&mut self, serial: Serial) -> Result<(), ApiError> {
        self.0.call(Request::PutSerial(serial)).await
    }

    /// Loads a snapshot. On an error the process ends.
    pub async fn load(mut self, load: SnapshotLoad) -> Result<Loaded, ApiError> {
        self.0.call(Request::LoadSnapshot(load)).await?;
        Ok(Loaded(self.0))
    }

    /// Begins to describe a VM. No snapshot can be loaded from here on.
    pub fn boot(self) -> Booting {
        Booting(self.0)
    }
}

/// A process whose VM is being described.
#[derive(Debug)]
pub struct Booting(Process);

impl Booting {
    /// Processors and memory.
    pub async fn machine(&mut self, machine: MachineConfig) -> Result<(), ApiError> {
        self.0.call(Request::PutMachineConfig(machine)).await
    }

    /// The kernel.
    pub async fn boot_source(&mut self, boot: BootSource) -> Result<(), ApiError> {
        self.0.call(Request::PutBootSource(boot)).await
    }

    /// A disk, in the order in which the guest sees them.
    pub async fn drive(&mut self, drive: Drive) -> Result<(), ApiError> {
        self.0.call(Request::PutDrive(drive)).await
    }

    /// A network card.
    pub async fn network_interface(&mut self, card: NetworkInterface) -> Result<(), ApiError> {
        self.0.call(Request::PutNetworkInterface(card)).await
    }

    /// The vsock device.
    pub async fn vsock(&mut self, vsock: Vsock) -> Result<(), ApiError> {
        self.0.call(Request::PutVsock(vsock)).await
    }

    /// The source of entropy.
    pub async fn entropy(&mut self, entropy: Entropy) -> Result<(), ApiError> {
        self.0.call(Request::PutEntropy(entropy)).await
    }

    /// Boots what was configured.
    pub async fn start(mut self) -> Result<Running, ApiError> {
        self.0.call(Request::PutAction(Action::InstanceStart)).await?;
        Ok(Running(self.0))
    }
}

/// A process with a VM from a snapshot, none of whose instructions have run.
#[derive(Debug)]
pub struct Loaded(Process);

impl Loaded {
    /// Gives a disk another file or other limits. The guest must not have mounted it.
    pub async fn patch_drive(&mut self, drive: PartialDrive) -> Result<(), ApiError> {
        self.0.call(Request::PatchDrive(drive)).await
    }

    /// Gives a card other limits.
    pub async fn patch_network_interface(&mut self, card: PartialNetworkInterface) -> Result<(), ApiError> {
        self.0.call(Request::PatchNetworkInterface(card)).await
    }

    /// What the snapshot's state has brought along. Cancelled or failed, the process is of no use.
    pub async fn devices(&mut self) -> Result<Devices, ApiError> {
        let answer = self.0.client.call(&Request::GetVmConfig).await?;
        serde_json::from_slice(&answer).map_err(|error| ApiError::Answer {
            request: "GET /vm/config".to_owned(),
            what: error.to_string(),
        })
    }

    /// Lets it run: the one resume of its life.
    pub async fn resume(mut self) -> Result<Running, ApiError> {
        self.0.call(Request::PatchVm(VmState::Resumed)).await?;
        Ok(Running(self.0))
    }
}

/// A process whose VM runs.
///
/// It has no pause of its own: 1.16.1 never lets the host reach the guest's vsock again after a bare pause and
/// resume (upstream's issue 6074).
#[derive(Debug)]
pub struct Running(Process);

impl Running {
    /// Pauses the VM and writes its snapshot. The VM stays paused, to be ended.
    pub async fn snapshot(mut self, create: SnapshotCreate) -> Result<(), ApiError> {
        self.0.call(Request::PatchVm(VmState::Paused)).await?;
        self.0.call(Request::CreateSnapshot(create)).await
    }

    /// Writes the counters out.
    pub async fn flush_metrics(&mut self) -> Result<(), ApiError> {
        self.0.call(Request::PutAction(Action::FlushMetrics)).await
    }
}
