//! The pool in virtual time: the same gate, lanes and scaler over slots whose VMs are numbers. A million jobs take
//! seconds, and the same seed gives the same run.

mod clairvoyant;
mod load;
mod tally;
mod world;

pub use self::{
    load::{Job, LoadShape, load},
    tally::{Point, Report},
    world::{Keep, SimRuntime, Takes, World, simulate},
};
