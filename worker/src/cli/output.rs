//! Standard output: data only, and a reader that goes away is no panic.

use std::io::{self, Write};

use serde::Serialize;

use super::exit::{Exit, Failure};

/// How JSON is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Indented.
    Pretty,
    /// On one line.
    Compact,
}

/// Prints a value as JSON with a line end.
pub fn json(value: &impl Serialize, style: Style) -> Result<(), Failure> {
    let text = match style {
        Style::Pretty => serde_json::to_string_pretty(value),
        Style::Compact => serde_json::to_string(value),
    };
    line(&text.map_err(|error| Failure::from_error(Exit::Internal, &error))?)
}

/// Prints text with a line end.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { stdout.write_all(b"\n") })
        .and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        // `hearth … | head` has had what it wanted.
        io::ErrorKind::BrokenPipe => Failure::new(Exit::Output, ""),
        _ => Failure::new(Exit::Output, format!("standard output: {error}")),
    })
}
