//! A hypervisor, an agent and a lease store that live in memory, for tests under a paused clock. They have knobs
//! for what goes wrong, and they watch what the pool does with them. And, in [`process`], a hypervisor whose VMs are
//! processes with the real agent.

mod agent;
mod exec;
mod hypervisor;
mod knobs;
mod leases;
pub mod process;
mod tree;

pub use self::{
    agent::{AgentFaults, WakeAnswer},
    exec::{Asked, Ran, Script},
    hypervisor::{FakeHypervisor, FakeVm, NoAccept, Seen},
    knobs::{Faults, Knobs},
    leases::{LeaseKnobs, MemoryLeases},
};
