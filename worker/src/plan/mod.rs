//! What other settings would have done to a load: a trace through the pool's own rules in virtual time.

mod plot;
pub mod prometheus;
mod recommend;
mod scenario;
mod table;
mod trace;

pub use self::{
    plot::{PlotError, plot},
    recommend::{Goal, Recommendation, recommend},
    scenario::{Assumptions, Named, Outcome, Scenario, ScenarioError, settings},
    table::table,
    trace::{Trace, TraceError, TraceFormat, read_trace},
};
