//! How many VMs each runtime keeps warm, and which is restored next. Nothing here waits, reads a clock or owns a task: the
//! pool drives it in real time, and [`sim`] in virtual time.
//!
//! * [`arrivals`]: what claims will come.
//! * [`stock`]: how many warm VMs that takes.
//! * [`pattern`]: whether a runtime that is hardly used keeps one.
//! * [`share`]: what a budget leaves for each runtime.
//! * [`scaler`]: these four, from observations to targets.
//! * [`gate`]: which slot may begin a restore.
//! * [`lanes`]: which claim is served next.
//! * [`sim`]: the same rules in virtual time.

pub mod arrivals;
pub mod gate;
pub mod lanes;
pub mod pattern;
pub mod scaler;
pub mod share;
pub mod sim;
pub mod stock;
