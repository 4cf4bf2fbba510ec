//! What `hearth top` shows: workers as they say they are, side by side and summed up.
//!
//! `ask` brings what a worker says, `view` makes numbers of two such answers, `draw` makes cells of those. Only `ask` does I/O.

mod ask;
mod draw;
mod exposition;
mod view;

pub use self::{
    ask::{Address, Answer, ask, ask_all},
    draw::{draw, text},
    exposition::{Sample, Samples},
    view::{Rates, Runtime, Since, View, Worker, quantile},
};
