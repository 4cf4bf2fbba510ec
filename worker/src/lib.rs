//! The service: jobs in, results out. Knows nothing of CIDs or hypervisors.

pub mod admin;
pub mod admit;
pub mod amqp;
mod attempt;
mod begin;
mod crash;
pub mod dispose;
pub mod embedded;
mod execute;
mod finish;
pub mod handle;
pub mod intake;
pub mod ledger;
pub mod live;
pub mod local;
pub mod meters;
pub mod objects;
pub mod reaper;
pub mod route;
pub mod run;
pub mod seams;
pub mod service;
pub mod settings;
mod stop;
mod tar;
mod tenants;
mod verdict;
