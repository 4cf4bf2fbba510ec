//! What VMs have in common, whichever hypervisor makes them.

pub mod clone;
pub mod directory;
pub mod hybrid_vsock;
pub mod log;
pub mod reach;
pub mod seccomp;
pub mod serial;
pub mod warm_up;
