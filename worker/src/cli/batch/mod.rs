//! Many jobs, one per line, and their results, one per line: what `hearth submit` and `hearth run` share.

mod done;
mod lines;
mod results;
mod tally;

pub use self::{
    done::Done,
    lines::{Line, count, read},
    results::Results,
    tally::Tally,
};
