//! The commands that Hearth uses, as QEMU's schema (qapi/*.json) has them.

use serde::{Deserialize, Serialize};

use super::Command;

/// The answer to a command that only says it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Empty {}

macro_rules! commands {
    ($($name:literal $command:ty => $returns:ty;)*) => {
        $(impl Command for $command {
            const NAME: &'static str = $name;
            type Return = $returns;
        })*
    };
}

commands! {
    "qmp_capabilities" Capabilities => Empty;
    "query-version" QueryVersion => Version;
    "query-status" QueryStatus => Status;
    "stop" Stop => Empty;
    "cont" Cont => Empty;
    "quit" Quit => Empty;
    "migrate-set-capabilities" SetCapabilities => Empty;
    "migrate" Migrate => Empty;
    "migrate-incoming" MigrateIncoming => Empty;
    "query-migrate" QueryMigrate => Migration;
    "chardev-add" ChardevAdd => serde_json::Value;
    "device_add" DeviceAdd => Empty;
    "x-query-virtio-status" QueryVirtioStatus => VirtioStatus;
}

/// Leaves negotiation mode.
#[derive(Debug, Serialize)]
pub struct Capabilities {}

/// Asks for QEMU's version.
#[derive(Debug, Serialize)]
pub struct QueryVersion {}

/// QEMU's version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// Three numbers.
    pub qemu: VersionTriple,
    /// The distributor's addition, or nothing.
    pub package: String,
}

/// Three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct VersionTriple {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Micro.
    pub micro: u32,
}

/// Asks whether the guest runs.
#[derive(Debug, Serialize)]
pub struct QueryStatus {}

/// Whether the guest runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// It does.
    pub running: bool,
    /// `running`, `paused`, `inmigrate`, `postmigrate`, …
    pub status: String,
}

/// Stops the guest's processors.
#[derive(Debug, Serialize)]
pub struct Stop {}

/// Lets them run.
#[derive(Debug, Serialize)]
pub struct Cont {}

/// Ends QEMU.
#[derive(Debug, Serialize)]
pub struct Quit {}

/// Switches capabilities of migration on or off.
#[derive(Debug, Serialize)]
pub struct SetCapabilities {
    /// Which.
    pub capabilities: Vec<Capability>,
}

/// A capability of migration.
#[derive(Debug, Serialize)]
pub struct Capability {
    /// Its name.
    pub capability: &'static str,
    /// On or off.
    pub state: bool,
}

/// Sends the state.
#[derive(Debug, Serialize)]
pub struct Migrate {
    /// Where to: `file:PATH`.
    pub uri: String,
}

/// Takes the state. QEMU was started with `-incoming defer`.
#[derive(Debug, Serialize)]
pub struct MigrateIncoming {
    /// Where from: `file:PATH`.
    pub uri: String,
}

/// Asks how the migration goes.
#[derive(Debug, Serialize)]
pub struct QueryMigrate {}

/// How the migration goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Migration {
    /// Absent before there is one.
    #[serde(default)]
    pub status: Option<String>,
    /// Why it failed.
    #[serde(default, rename = "error-desc")]
    pub error_desc: Option<String>,
}

/// Adds a character device that connects to a Unix socket.
#[derive(Debug, Serialize)]
pub struct ChardevAdd {
    /// Its name.
    pub id: &'static str,
    /// What is behind it.
    pub backend: ChardevBackend,
}

/// What is behind a character device.
#[derive(Debug, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum ChardevBackend {
    /// A socket.
    Socket {
        /// Where.
        addr: SocketAddress,
        /// Whether QEMU listens.
        server: bool,
    },
}

/// Where a socket is.
#[derive(Debug, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum SocketAddress {
    /// In the file system.
    Unix {
        /// Relative to QEMU's working directory.
        path: String,
    },
}

/// Plugs a device.
#[derive(Debug, Serialize)]
#[serde(tag = "driver")]
pub enum DeviceAdd {
    /// vsock by a daemon.
    #[serde(rename = "vhost-user-vsock-pci")]
    VhostUserVsock {
        /// Its name.
        id: &'static str,
        /// The character device to the daemon.
        chardev: &'static str,
        /// Slot on the bus.
        addr: &'static str,
    },
    /// vsock by the host's kernel.
    #[serde(rename = "vhost-vsock-pci")]
    VhostVsock {
        /// Its name.
        id: &'static str,
        /// The guest's CID.
        #[serde(rename = "guest-cid")]
        guest_cid: u32,
        /// Slot on the bus.
        addr: &'static str,
    },
}

/// Asks what the guest's driver has told a virtio device.
#[derive(Debug, Serialize)]
pub struct QueryVirtioStatus {
    /// The device in QEMU's object tree.
    pub path: &'static str,
}

/// A virtio device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VirtioStatus {
    /// Bits of its status register.
    pub status: VirtioDeviceStatus,
}

/// Bits of a status register.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VirtioDeviceStatus {
    /// Each as `VIRTIO_CONFIG_S_…: explanation`.
    pub statuses: Vec<String>,
}

impl VirtioStatus {
    /// Whether the guest's driver has set the device up.
    pub fn driver_ok(&self) -> bool {
        self.status.statuses.iter().any(|status| status.starts_with("VIRTIO_CONFIG_S_DRIVER_OK"))
    }
}
