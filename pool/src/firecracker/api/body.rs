//! What requests carry. Field names and ranges are those of Firecracker's OpenAPI description.

use std::{borrow::Cow, fmt};

use serde::Serialize;

/// Names a device within its VM: `[A-Za-z0-9_]`, 1 to 64 bytes, so that it is safe in a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct DeviceId(Cow<'static, str>);

impl DeviceId {
    /// The root disk.
    pub const ROOT: Self = Self(Cow::Borrowed("root"));
    /// The scratch disk.
    pub const SCRATCH: Self = Self(Cow::Borrowed("scratch"));
    /// The network card.
    pub const CARD: Self = Self(Cow::Borrowed(crate::net::CARD));

    /// The name, unless it has a character or a length that is not allowed.
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let fits = (1..=64).contains(&name.len()) && name.bytes().all(allowed);
        fits.then(|| Self(Cow::Owned(name.to_owned())))
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The VM's processors and memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineConfig {
    /// Virtual processors, 1 to 32; with `smt` 1 or an even number.
    pub vcpu_count: u32,
    /// Memory in MiB.
    pub mem_size_mib: u64,
    /// Whether processors are pairs of threads.
    pub smt: bool,
}

/// The kernel and how it is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BootSource {
    /// An ELF kernel.
    pub kernel_image_path: String,
    /// Its initramfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<String>,
    /// Its whole command line. Firecracker's default has `nomodule`, hence always given.
    pub boot_args: String,
}

/// A token bucket. All zero: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    /// Tokens it holds: bytes or operations.
    pub size: u64,
    /// Further tokens at the start, in `size`'s unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
    /// Milliseconds until it is full again.
    pub refill_time: u64,
}

impl TokenBucket {
    /// So many a second, and as many at once after a rest.
    pub const fn per_second(tokens: u64) -> Self {
        Self { size: tokens, one_time_burst: None, refill_time: 1000 }
    }
}

/// Bytes and operations per time, each with its own bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RateLimiter {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Its name.
    pub drive_id: DeviceId,
    /// A raw image. Remembered by snapshots as it is written here.
    pub path_on_host: String,
    /// Whether Firecracker adds it to the kernel's command line as root.
    pub is_root_device: bool,
    /// Opened and offered for reading only.
    pub is_read_only: bool,
    /// Its limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// A change of a disk. Another file only while the guest has not mounted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartialDrive {
    /// Which.
    pub drive_id: DeviceId,
    /// The new file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_on_host: Option<String>,
    /// The new limits; snapshots remember the old ones and how much of them was left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    /// Its name.
    pub iface_id: DeviceId,
    /// The TAP, at most 15 bytes.
    pub host_dev_name: String,
    /// `aa:bb:cc:dd:ee:ff`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_mac: Option<String>,
    /// What the guest may receive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// What it may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
    /// 68 to 65535. From 1.16 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// A change of a card's limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartialNetworkInterface {
    /// Which.
    pub iface_id: DeviceId,
    /// What the guest may receive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// What it may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// The vsock device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vsock {
    /// 3 and up. It stays in the snapshot: every clone has the same.
    pub guest_cid: u32,
    /// The host's socket, at most 107 bytes with the suffix `_PORT`. Relative: to Firecracker's working directory.
    pub uds_path: String,
}

/// The guest's source of entropy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Entropy {
    /// Its limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// Where Firecracker's own log goes. Not part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Logger {
    /// A file that exists, or a named pipe.
    pub log_path: String,
    /// `Error`, `Warning`, `Info`, `Debug`, `Trace` or `Off`.
    pub level: &'static str,
    /// Each line says its level.
    pub show_level: bool,
}

/// Where Firecracker's counters go. Not part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// A file that exists, or a named pipe.
    pub metrics_path: String,
}

/// The serial console's output. Not part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Serial {
    /// A file that exists, or a named pipe.
    pub serial_out_path: String,
    /// Bytes over the limit are dropped. From 1.16 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<TokenBucket>,
}

/// An action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action_type")]
pub enum Action {
    /// Boots the VM.
    InstanceStart,
    /// Writes the counters out.
    FlushMetrics,
}

/// Running or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state")]
pub enum VmState {
    /// Its processors stand still.
    Paused,
    /// They run.
    Resumed,
}

/// How much a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SnapshotType {
    /// All of the memory.
    Full,
}

/// Writing a snapshot of a paused VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotCreate {
    /// How much.
    pub snapshot_type: SnapshotType,
    /// Takes the state of processors and devices.
    pub snapshot_path: String,
    /// Takes the memory.
    pub mem_file_path: String,
}

/// Where a restored VM's memory comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "backend_type", content = "backend_path")]
pub enum MemoryBackend {
    /// A file, mapped privately: clones share its clean pages, and it must never change.
    File(String),
}

/// Another TAP for a card of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkOverride {
    /// The card.
    pub iface_id: DeviceId,
    /// Its TAP.
    pub host_dev_name: String,
}

/// Another socket for the vsock device of the snapshot. From 1.16 on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VsockOverride {
    /// The socket, which must not exist.
    pub uds_path: String,
}

/// Loading a snapshot into a process that has nothing configured. A refused load ends that process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotLoad {
    /// The state of processors and devices.
    pub snapshot_path: String,
    /// The memory.
    pub mem_backend: MemoryBackend,
    /// Whether it runs at once. Never here: limits and disks are changed before the first instruction.
    pub resume_vm: bool,
    /// Other TAPs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_overrides: Vec<NetworkOverride>,
    /// Another vsock socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_override: Option<VsockOverride>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_is_safe_in_a_url() {
        assert_eq!(DeviceId::new("eth0").unwrap().to_string(), "eth0");
        for odd in ["", "a/b", "a b", "..", "a?x", &"x".repeat(65)] {
            assert!(DeviceId::new(odd).is_none(), "{odd}");
        }
    }
}
