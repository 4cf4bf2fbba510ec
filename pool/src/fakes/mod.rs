//! A hypervisor, an agent and a lease store that live in memory, for tests under a paused clock. They have knobs
//! for what goes wrong, and they watch what the pool does with them.

mod agent;
mod exec;
mod hypervisor;
mod knobs;
mod leases;
mod tree;

pub use self::{
    agent::{AgentFaults, WakeAnswer},
    exec::{Asked, Ran, Script},
    hypervisor::{FakeHypervisor, FakeVm, NoAccept, Seen},
    knobs::{Faults, Knobs},
    leases::{LeaseKnobs, MemoryLeases},
};
