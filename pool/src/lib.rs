//! Warm microVMs: leases, slots, hypervisors, sessions, baking. Knows nothing of jobs or queues.

#[cfg(feature = "fakes")]
pub mod fakes;
pub mod firecracker;
pub mod guard;
pub mod hypervisor;
pub mod image;
pub mod kvm;
pub mod lease;
pub mod live;
pub mod net;
pub mod phase;
pub mod pool;
pub mod qemu;
pub mod rates;
pub mod reclaim;
pub mod redis_server;
pub mod runtime;
pub mod scale;
pub mod session;
pub mod snapshot;
mod vm;
