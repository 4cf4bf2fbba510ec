//! Everything that crosses a wire in Hearth, and nothing else: no I/O, no async runtime.
//!
//! * [`guest`]: the protocol between the host and the agent inside a VM.
//! * [`job`], [`result`]: the JSON that producers send and receive.
//! * [`manifest`]: what a snapshot says about itself.
//! * [`limits`]: every bound, its unit in its name.

pub mod guest;
#[cfg(feature = "json")]
pub mod job;
pub mod limits;
#[cfg(feature = "json")]
pub mod manifest;
#[cfg(feature = "json")]
pub mod result;
