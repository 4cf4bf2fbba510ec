//! What this host can do: [`gather`] looks, [`findings`] judges. Looking decides nothing, judging touches nothing.

mod address;
mod amqp;
pub mod facts;
pub mod findings;
pub mod gather;
mod network;
mod redis;
mod vms;
