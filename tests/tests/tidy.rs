//! Layering and style as tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hearth_tests::workspace;

const CRATES: [&str; 7] = ["schemas", "wire", "pool", "worker", "guest-agent", "bench", "tests"];
/// A file longer than this is more than one room.
const FILE_MAX_LINES: usize = 400;

/// What each crate may know of the others (not counting tests).
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        ("schemas", vec![]),
        ("wire", vec!["schemas"]),
        ("pool", vec!["schemas", "wire"]),
        ("worker", vec!["schemas", "pool"]),
        ("guest-agent", vec!["schemas", "wire"]),
    ])
}

fn manifest(name: &str) -> toml::Table {
    fs::read_to_string(workspace().join(name).join("Cargo.toml")).unwrap().parse().unwrap()
}

fn files(extension: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for name in CRATES {
        walk(&workspace().join(name), extension, &mut found);
    }
    found.sort();
    assert!(found.len() > CRATES.len(), "the walk finds the sources");
    found
}

#[test]
fn crates_depend_only_downwards() {
    for (name, may) in allowed() {
        let manifest = manifest(name);
        let dependencies =
            manifest.get("dependencies").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        for dependency in dependencies.keys().filter_map(|key| key.strip_prefix("hearth-")) {
            assert!(may.contains(&dependency), "{name} may not depend on {dependency}");
        }
    }
}

#[test]
fn what_ships_has_no_fakes_in_it() {
    for package in ["hearth-worker", "hearth-guest-agent"] {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "tree",
            "--offline",
            "--edges",
            "normal,features",
            "--prefix",
            "none",
            "--package",
            package,
        ]);
        let output = cargo.current_dir(workspace()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        assert!(tree.contains("hearth-schemas"), "{tree}");
        for line in tree.lines().filter(|line| line.contains("hearth-") || line.starts_with("fail ")) {
            assert!(!line.contains("\"fakes\"") && !line.contains("failpoints"), "{package}: {line}");
        }
    }
}

#[test]
fn what_crosses_a_wire_knows_no_runtime_and_no_io() {
    let manifest = manifest("schemas");
    for banned in ["tokio", "tracing", "nix", "rustix", "lapin", "redis"] {
        assert!(
            !manifest["dependencies"].as_table().unwrap().contains_key(banned),
            "schemas may not use {banned}"
        );
    }
    for path in files("rs").iter().filter(|path| path.starts_with(workspace().join("schemas/src"))) {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for banned in ["std::fs", "std::net", "std::process", "std::time::Instant"] {
            assert!(!code.contains(banned), "{}: {banned}", path.display());
        }
    }
}

#[test]
fn the_pool_has_never_heard_of_jobs_and_the_worker_never_of_cids() {
    for (name, banned) in [
        ("pool/src", vec!["amqp", "lapin", "JobRequest", "JobResult"]),
        ("worker/src", vec!["guest_cid", "qmp"]),
    ] {
        for path in files("rs").iter().filter(|path| path.starts_with(workspace().join(name))) {
            let text = fs::read_to_string(path).unwrap();
            for word in &banned {
                assert!(!text.contains(word), "{} speaks of {word}", path.display());
            }
        }
    }
}

#[test]
fn nothing_is_measured_but_by_the_table_of_metrics() {
    for path in files("rs").iter().filter(|path| !path.starts_with(workspace().join("worker/src/meters"))) {
        let text = fs::read_to_string(path).unwrap();
        for banned in [concat!("counter", "!("), concat!("gauge", "!("), concat!("histogram", "!(")] {
            assert!(!text.contains(banned), "{}: {banned}: use worker::meters", path.display());
        }
    }
}

#[test]
fn a_file_is_one_room() {
    let long = |path: &PathBuf| {
        let lines = fs::read_to_string(path).unwrap().lines().count();
        (lines > FILE_MAX_LINES).then(|| format!("{} has {lines} lines", path.display()))
    };
    let long: Vec<_> = files("rs").iter().filter_map(long).collect();
    // The protocol's messages are one list, and the mux is one state machine with its tests.
    let excused = ["guest/messages.rs", "guest/mux.rs"];
    let long: Vec<_> = long.iter().filter(|line| !excused.iter().any(|name| line.contains(name))).collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn no_module_is_a_drawer() {
    for path in files("rs") {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            !["utils", "util", "common", "helpers", "manager", "misc"].contains(&stem.as_str()),
            "{}",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_undone_or_ignored() {
    let banned = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ign", "ore"),
        concat!("FIX", "ME"),
    ];
    for path in files("rs") {
        // A test binary may hold the process that its tests start; that is no test of its own.
        let text = fs::read_to_string(&path).unwrap().replace(concat!("#[ign", "ore = \"not a test: "), "");
        for word in banned {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn the_readme_leads_with_its_two_commands_and_ci_runs_the_tests() {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let top: String = readme.lines().take(40).collect::<Vec<_>>().join("\n");
    assert!(top.contains("make run") && top.contains("make test"));
    assert!(fs::read_to_string(workspace().join(".ci/run")).unwrap().contains("make test"));
}
