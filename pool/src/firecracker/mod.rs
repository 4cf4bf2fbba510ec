//! Firecracker: the hypervisor for production.

pub mod api;
