//! How long things take, against floors measured in the same run.

#![cfg(feature = "host")]

pub mod by_hand;
pub mod cases;
pub mod floor;
pub mod pools;
pub mod restores;
pub mod series;
pub mod service;
pub mod sessions;
pub mod transfers;
pub mod wire;

/// What a run is told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Pairs of samples of each series.
    pub samples: usize,
    /// Only series whose names contain this.
    pub only: Option<String>,
    /// The runtime whose snapshot is restored.
    pub runtime: String,
}

impl Plan {
    /// Whether any of these series is wanted.
    pub fn wants(&self, names: &[&str]) -> bool {
        self.only.as_ref().is_none_or(|only| names.iter().any(|name| name.contains(only.as_str())))
    }
}
