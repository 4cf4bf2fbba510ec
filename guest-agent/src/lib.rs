//! The agent inside a VM: it is PID 1 there, makes a restored clone its own machine, moves its files and runs
//! its commands. What it is asked comes over `hearth_wire`; what it may be asked is `hearth_schemas::guest`.
//!
//! * [`boot`]: the life of PID 1, from the initramfs to the serving loop.
//! * [`serve`]: who may talk to the agent, and on what.
//!
//! On a host, for tests, the same code serves a Unix socket and leaves the machine alone.

pub mod args;
pub mod boot;
pub mod console;
#[cfg(feature = "fakes")]
pub mod process;
pub mod serve;

mod agent;
mod cells;
mod copies;
mod exec;
mod fault;
mod group;
mod jail;
mod live;
mod pipe;
mod power;
mod quota;
mod reaper;
mod session;
mod tree;
mod wake;
