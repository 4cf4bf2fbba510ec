//! The client of Firecracker's API: HTTP/1.1 with JSON bodies over a Unix socket, one socket per VM.
//!
//! [`Fresh`], [`Booting`], [`Loaded`] and [`Running`] are the states of a Firecracker process in which a call makes sense, so that what
//! Firecracker refuses (a load after anything was configured) and what its releases get wrong (a bare pause and
//! resume) cannot be written down. What crosses the socket is in [`Request`], and is checked against Firecracker's own
//! description of its API by a test.

mod body;
mod client;
mod error;
mod request;
mod states;
mod version;

pub use body::{
    Action, BootSource, DeviceId, Drive, Entropy, Logger, MachineConfig, MemoryBackend, Metrics,
    NetworkInterface, NetworkOverride, PartialDrive, PartialNetworkInterface, RateLimiter, Serial,
    SnapshotCreate, SnapshotLoad, SnapshotType, TokenBucket, VmState, Vsock, VsockOverride,
};
pub use client::Limits;
pub use error::ApiError;
pub use request::{Gated, Request};
pub use states::{Booting, Devices, Fresh, Loaded, Running, VsockDevice};
pub use version::{Features, Unsupported, Version, VersionError};
