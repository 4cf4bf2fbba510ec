//! Real VMs for tests and `bench`: what this machine needs for them, snapshots, and a whole worker in this process.

mod gains;
mod leftovers;
mod machine;
mod worker;

pub use self::{
    gains::Held,
    leftovers::Leftovers,
    machine::{Machine, hearth, program},
    worker::Worker,
};
