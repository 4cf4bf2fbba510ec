//! Moves the guest protocol's frames over any byte pipe. Both ends use it: the host's session and the guest agent.
//!
//! One task owns the pipe and the [`Mux`](hearth_schemas::guest::mux::Mux); everybody else holds a
//! [`Connection`] or a [`Stream`] and talks to that task over bounded channels. What a peer can make this
//! side hold is bounded by the credit it was given.

mod connection;
mod driver;
mod hello;
mod stream;

pub use connection::{Connection, ConnectionError};
pub use hello::{HelloError, accept, connect};
pub use stream::{Sender, Stream, StreamError, StreamReceiver};
