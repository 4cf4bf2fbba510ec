//! The table of traps names tests that exist.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

use std::{collections::BTreeMap, path::Path};

#[test]
fn every_trap_has_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(root.join("tests/traps.md")).unwrap();
    // By the part of the table that they are in.
    let (mut traps, mut part) = (BTreeMap::<&str, u32>::new(), "");
    for row in table.lines() {
        part = row.strip_prefix("## ").unwrap_or(part);
        if !row.starts_with("| ") || row.starts_with("| trap") {
            continue;
        }
        let tests = row.trim_end_matches('|').rsplit(" | ").next().unwrap();
        let words: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!words.is_empty() && words.len() % 2 == 0, "{row}");
        for pair in words.chunks(2) {
            let source =
                std::fs::read_to_string(root.join(pair[0])).unwrap_or_else(|_| panic!("{}", pair[0]));
            assert!(source.contains(&format!("fn {}(", pair[1])), "{} has no {}", pair[0], pair[1]);
        }
        *traps.entry(part).or_default() += 1;
    }
    assert!(traps["RabbitMQ and Redis"] > 20 && traps["Firecracker"] > 10, "{traps:?}");
}
