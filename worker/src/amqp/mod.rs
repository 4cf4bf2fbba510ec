//! RabbitMQ: where jobs come from and results go when there is more than one process.

pub mod client;
pub mod control;
pub mod dead;
pub mod declare;
pub mod events;
pub mod first_start;
pub mod headers;
pub mod link;
pub mod names;
pub mod permissions;
pub mod publisher;
pub mod reply;
pub mod sink;
pub mod source;
pub mod spool;
pub mod topology;
