//! Runs the real binary with directories of its own.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

/// Runs it without input.
pub fn hearth(arguments: &[&str]) -> Output {
    hearth_with(arguments, b"")
}

/// Runs it with `input` on its standard input.
pub fn hearth_with(arguments: &[&str], input: &[u8]) -> Output {
    let state = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(arguments)
        .env("HEARTH_DATA", state.path().join("data"))
        .env("HEARTH_RUN", state.path().join("run"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input closes it.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    assert!(!state.path().join("run/vms").exists(), "no VM was taken");
    output
}

/// Its standard output.
pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// Its standard error.
pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// It ended with this code, and only stdout has something.
pub fn assert_data(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

/// It ended with this code, and only stderr has something.
pub fn assert_complaint(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
}
