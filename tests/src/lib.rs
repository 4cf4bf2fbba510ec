//! The harness: what several test files share.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness is part of the tests"
)]

pub mod agreement;
pub mod beliefs;
pub mod broker;
pub mod examples;
pub mod faults;
pub mod lease_rules;
pub mod ledger_rules;
pub mod objects;
pub mod process;
pub mod real;
pub mod redis;
pub mod wait;

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}
