//! The serial channel as a byte pipe.

mod line;
mod tty;

pub(crate) use line::{Line, LineState};
pub(crate) use tty::Tty;
