//! The table of traps names tests that exist.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

use std::path::Path;

#[test]
fn every_trap_has_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(root.join("tests/traps.md")).unwrap();
    let mut traps = 0;
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| trap")) {
        let tests = row.trim_end_matches('|').rsplit(" | ").next().unwrap();
        let words: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!words.is_empty() && words.len() % 2 == 0, "{row}");
        for pair in words.chunks(2) {
            let source =
                std::fs::read_to_string(root.join(pair[0])).unwrap_or_else(|_| panic!("{}", pair[0]));
            assert!(source.contains(&format!("fn {}(", pair[1])), "{} has no {}", pair[0], pair[1]);
        }
        traps += 1;
    }
    assert!(traps > 20, "{traps}");
}
