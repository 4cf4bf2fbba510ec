//! What a snapshot says about itself: enough to refuse it on a host where it would not run as it was baked.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::LimitsRequest;

/// The only version of the manifest that exists.
pub const MANIFEST_VERSION: u32 = 1;

/// `manifest.json` of a snapshot directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this contract: 1.
    pub manifest_version: u32,
    /// The runtime that was baked.
    pub runtime: String,
    /// SHA-256 over everything the bake depends on (recipe, agent, kernel, tools): the snapshot's name, and what
    /// makes a second bake with nothing changed do nothing.
    pub inputs_sha256: String,
    /// Seconds since 1970 at the end of the bake.
    pub baked_unix_s: u64,
    /// Which hypervisor wrote the state.
    pub hypervisor: HypervisorKind,
    /// Its version as it prints it.
    pub hypervisor_version: String,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// The host that baked it; compared only as far as the accelerator depends on it.
    pub host: Host,
    /// The channel over which the agent is reached after a restore.
    pub transport: Transport,
    /// Whether the agent is at the serial port, too: it is reached there where its vsock does not answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub serial: bool,
    /// Highest protocol version of the agent inside.
    pub protocol_version: u32,
    /// The machine the state belongs to.
    pub machine: Machine,
    /// What the `code` shorthand runs.
    pub entry: Entry,
    /// The same for other languages, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub languages: BTreeMap<String, Entry>,
    /// Every file that a restore reads, by name.
    pub files: Vec<SnapshotFile>,
}

/// A hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HypervisorKind {
    /// QEMU, from the distribution's packages.
    Qemu,
    /// Firecracker.
    Firecracker,
}

/// What runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The host's processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// A channel between host and agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// `vhost-device-vsock`: a Unix socket on the host, memory shared with the daemon.
    VhostUserVsock,
    /// The kernel's vhost-vsock: AF_VSOCK on the host, the CID global on it.
    VhostVsock,
    /// Firecracker's Unix socket.
    HybridVsock,
    /// The serial port.
    Serial,
}

impl Transport {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VhostUserVsock => "vhost_user_vsock",
            Self::VhostVsock => "vhost_vsock",
            Self::HybridVsock => "hybrid_vsock",
            Self::Serial => "serial",
        }
    }
}

/// The host that baked a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// `vendor_id` of /proc/cpuinfo.
    pub cpu_vendor: String,
    /// `model name` of /proc/cpuinfo.
    pub cpu_model: String,
    /// SHA-256 of the sorted `flags` of /proc/cpuinfo.
    pub cpu_flags_sha256: String,
    /// `uname -r`.
    pub kernel: String,
}

/// The virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub vm_memory_mib: u64,
    /// Size of the scratch disk in MiB.
    pub scratch_mib: u64,
    /// `uname -r` of the guest.
    pub kernel: String,
    /// Whether it has a network card.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub card: bool,
}

/// How a runtime runs the `code` shorthand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What the language is called, where a job may name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The file that the code is written to, relative to the working tree.
    pub file: String,
    /// What goes before, as a stage of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile: Option<Compile>,
    /// The command that runs it.
    pub argv: Vec<String>,
}

impl Entry {
    /// One that only runs.
    pub fn new(file: impl Into<String>, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        Self { language: None, file: file.into(), compile: None, argv }
    }
}

/// How a runtime compiles the `code` shorthand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compile {
    /// The command that compiles.
    pub argv: Vec<String>,
    /// What it may use: a job's own limits are meant for the program. Disk and files are the job's unless given here.
    #[serde(default, skip_serializing_if = "LimitsRequest::is_empty")]
    pub limits: LimitsRequest,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFile {
    /// Its name inside the snapshot directory.
    pub name: String,
    /// Its apparent size.
    pub size_bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}
