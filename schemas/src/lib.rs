//! Everything that crosses a wire in Hearth, and nothing else: no I/O, no async runtime.
//!
//! * [`guest`]: the protocol between the host and the agent inside a VM.
//! * [`job`], [`result`], [`event`]: the JSON that producers send and receive.
//! * [`backlog`]: what waits for whoever watches a job.
//! * [`manifest`]: what a snapshot says about itself.
//! * [`limits`]: every bound, its unit in its name.
//! * [`paths`]: which paths and patterns stay inside a job's working tree.
//! * [`reference`]: names of objects outside of a message.

pub mod backlog;
#[cfg(feature = "json")]
pub mod event;
pub mod guest;
#[cfg(feature = "json")]
pub mod job;
#[cfg(feature = "json")]
mod json_schemas;
pub mod limits;
#[cfg(feature = "json")]
pub mod manifest;
pub mod paths;
pub mod reference;
#[cfg(feature = "json")]
pub mod result;

#[cfg(feature = "json")]
pub use json_schemas::json_schemas;
