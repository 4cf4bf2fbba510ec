//! Everything that is ever sent.

use serde_json::Value;

use super::{
    body::{
        Action, BootSource, Drive, Entropy, Logger, MachineConfig, Metrics, NetworkInterface, PartialDrive,
        PartialNetworkInterface, Serial, SnapshotCreate, SnapshotLoad, VmState, Vsock,
    },
    version::{Features, Version},
};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `GET /version`.
    GetVersion,
    /// `GET /vm/config`.
    GetVmConfig,
    /// `PUT /machine-config`.
    PutMachineConfig(MachineConfig),
    /// `PUT /boot-source`.
    PutBootSource(BootSource),
    /// `PUT /drives/{id}`.
    PutDrive(Drive),
    /// `PATCH /drives/{id}`.
    PatchDrive(PartialDrive),
    /// `PUT /network-interfaces/{id}`.
    PutNetworkInterface(NetworkInterface),
    /// `PATCH /network-interfaces/{id}`.
    PatchNetworkInterface(PartialNetworkInterface),
    /// `PUT /vsock`.
    PutVsock(Vsock),
    /// `PUT /entropy`.
    PutEntropy(Entropy),
    /// `PUT /logger`.
    PutLogger(Logger),
    /// `PUT /metrics`.
    PutMetrics(Metrics),
    /// `PUT /serial`.
    PutSerial(Serial),
    /// `PUT /actions`.
    PutAction(Action),
    /// `PATCH /vm`.
    PatchVm(VmState),
    /// `PUT /snapshot/create`.
    CreateSnapshot(SnapshotCreate),
    /// `PUT /snapshot/load`.
    LoadSnapshot(SnapshotLoad),
}

/// A field that this release does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} needs Firecracker 1.16 or later, and this is {version}")]
pub struct Gated {
    /// The field.
    pub field: &'static str,
    /// The release.
    pub version: Version,
}

impl Request {
    /// Method and path, for a request line and for messages.
    pub fn line(&self) -> (&'static str, String) {
        let fixed = |method, path: &str| (method, path.to_owned());
        match self {
            Self::GetVersion => fixed("GET", "/version"),
            Self::GetVmConfig => fixed("GET", "/vm/config"),
            Self::PutMachineConfig(_) => fixed("PUT", "/machine-config"),
            Self::PutBootSource(_) => fixed("PUT", "/boot-source"),
            Self::PutDrive(drive) => ("PUT", format!("/drives/{}", drive.drive_id)),
            Self::PatchDrive(drive) => ("PATCH", format!("/drives/{}", drive.drive_id)),
            Self::PutNetworkInterface(card) => ("PUT", format!("/network-interfaces/{}", card.iface_id)),
            Self::PatchNetworkInterface(card) => ("PATCH", format!("/network-interfaces/{}", card.iface_id)),
            Self::PutVsock(_) => fixed("PUT", "/vsock"),
            Self::PutEntropy(_) => fixed("PUT", "/entropy"),
            Self::PutLogger(_) => fixed("PUT", "/logger"),
            Self::PutMetrics(_) => fixed("PUT", "/metrics"),
            Self::PutSerial(_) => fixed("PUT", "/serial"),
            Self::PutAction(_) => fixed("PUT", "/actions"),
            Self::PatchVm(_) => fixed("PATCH", "/vm"),
            Self::CreateSnapshot(_) => fixed("PUT", "/snapshot/create"),
            Self::LoadSnapshot(_) => fixed("PUT", "/snapshot/load"),
        }
    }

    /// The body, if it has one.
    pub fn body(&self) -> serde_json::Result<Option<Value>> {
        match self {
            Self::GetVersion | Self::GetVmConfig => return Ok(None),
            Self::PutMachineConfig(body) => serde_json::to_value(body),
            Self::PutBootSource(body) => serde_json::to_value(body),
            Self::PutDrive(body) => serde_json::to_value(body),
            Self::PatchDrive(body) => serde_json::to_value(body),
            Self::PutNetworkInterface(body) => serde_json::to_value(body),
            Self::PatchNetworkInterface(body) => serde_json::to_value(body),
            Self::PutVsock(body) => serde_json::to_value(body),
            Self::PutEntropy(body) => serde_json::to_value(body),
            Self::PutLogger(body) => serde_json::to_value(body),
            Self::PutMetrics(body) => serde_json::to_value(body),
            Self::PutSerial(body) => serde_json::to_value(body),
            Self::PutAction(body) => serde_json::to_value(body),
            Self::PatchVm(body) => serde_json::to_value(body),
            Self::CreateSnapshot(body) => serde_json::to_value(body),
            Self::LoadSnapshot(body) => serde_json::to_value(body),
        }
        .map(Some)
    }

    /// Refuses what this release does not know: it would refuse too, and a refused load ends the process.
    pub fn check(&self, features: &Features) -> Result<(), Gated> {
        let field = match self {
            Self::LoadSnapshot(load) if load.vsock_override.is_some() && !features.vsock_override => {
                "vsock_override"
            }
            Self::PutSerial(serial) if serial.rate_limiter.is_some() && !features.serial_rate_limiter => {
                "the serial console's rate_limiter"
            }
            Self::PutNetworkInterface(card) if card.mtu.is_some() && !features.mtu => "mtu",
            _ => return Ok(()),
        };
        Err(Gated { field, version: features.version })
    }
}
