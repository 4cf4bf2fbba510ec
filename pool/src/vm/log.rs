//! What a hypervisor said before it failed, for the messages of errors.

use std::{error::Error, path::Path};

const TAIL_BYTES: usize = 2048;

/// The end of a log file, for an error's message; a word about it when there is none.
pub fn log_tail(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) if bytes.is_empty() => "it said nothing".to_owned(),
        Ok(bytes) => {
            let tail = bytes.get(bytes.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
            String::from_utf8_lossy(tail).trim().to_owned()
        }
        Err(error) => format!("its log cannot be read: {error}"),
    }
}

/// An error and what it came from, for an error that carries text only.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
