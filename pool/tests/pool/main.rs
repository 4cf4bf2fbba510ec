//! The pool over fakes, under a paused clock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod cancel;
mod close;
mod conservation;
mod dormant;
mod greeting;
mod leases;
mod life;
mod rig;
mod scaling;
mod threads;
mod trouble;
mod turnover;
