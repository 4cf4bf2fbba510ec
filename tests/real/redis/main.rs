//! What workers keep in Redis, against real servers: each test has its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod driver;
mod lease_faults;
mod lease_swarm;
mod leases;
mod ledger_faults;
mod ledger_swarm;
mod ledgers;
mod outlived;
