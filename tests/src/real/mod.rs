//! Real VMs for tests and `bench`: what this machine needs for them, snapshots, and a whole worker in this process.

mod collector;
mod gains;
mod leftovers;
mod machine;
mod worker;

pub use self::{
    collector::Collector,
    gains::Held,
    leftovers::Leftovers,
    machine::{Machine, hearth, program},
    worker::Worker,
};
