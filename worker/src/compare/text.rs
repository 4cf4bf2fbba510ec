//! Comparison of text, byte for byte, with or without the white space that ends lines.

use bytes::Bytes;

use super::{
    is_space,
    spot::{SHOWN_BYTES, quoted},
};

/// Bytes of the line that are shown before the first difference.
const BEFORE_BYTES: usize = 16;

/// Output that is compared byte for byte.
#[derive(Debug)]
pub(super) struct Text {
    expected: Bytes,
    /// How much of it was matched.
    at: usize,
    trims: bool,
    /// White space that counts only if something follows it in its line, or in a later one.
    held: Vec<u8>,
    /// The first of the output that differs; collected a little further, so that it can be shown.
    other: Option<Vec<u8>>,
}

impl Text {
    pub(super) fn exact(expected: Bytes) -> Self {
        Self { expected, at: 0, trims: false, held: Vec::new(), other: None }
    }

    pub(super) fn trimmed(expected: &[u8]) -> Self {
        let expected = Bytes::from(trim(expected));
        Self { expected, at: 0, trims: true, held: Vec::new(), other: None }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        if !self.trims {
            return self.compare(piece);
        }
        for run in piece.chunk_by(|a, b| is_space(*a) == is_space(*b)) {
            if run.first().is_some_and(|first| is_space(*first)) {
                run.iter().for_each(|space| self.hold(*space));
            } else {
                let held = std::mem::take(&mut self.held);
                self.compare(&held);
                self.compare(run);
            }
        }
    }

    /// Keeps a space back. What came before in its line did not count after all when the line ends.
    fn hold(&mut self, space: u8) {
        if space == b'\n' {
            let line_start = self.held.iter().rposition(|held| *held == b'\n').map_or(0, |at| at + 1);
            self.held.truncate(line_start);
        }
        // More than is expected to follow differs, however much more it is.
        if self.held.len() <= self.expected.len().saturating_sub(self.at) + SHOWN_BYTES {
            self.held.push(space);
        }
    }

    fn compare(&mut self, piece: &[u8]) {
        if let Some(other) = &mut self.other {
            let room = SHOWN_BYTES.saturating_sub(other.len());
            other.extend(piece.iter().take(room));
            return;
        }
        let rest = self.expected.get(self.at..).unwrap_or_default();
        let same = if rest.starts_with(piece) {
            piece.len()
        } else {
            rest.iter().zip(piece).take_while(|(a, b)| a == b).count()
        };
        self.at += same;
        let (_, other) = piece.split_at(same);
        if !other.is_empty() {
            self.other = Some(other.iter().take(SHOWN_BYTES).copied().collect());
        }
    }

    pub(super) fn finish(self) -> Option<String> {
        let (before, rest) = self.expected.split_at_checked(self.at)?;
        if self.other.is_none() && rest.is_empty() {
            return None;
        }
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = 1 + before.len() - line_start;
        let shared = before.get(line_start.max(before.len().saturating_sub(BEFORE_BYTES))..);
        let shared = shared.unwrap_or_default();
        let shown = |rest: &[u8]| quoted(&[shared, first_line(rest)].concat());
        let expected = if rest.is_empty() { "the end".to_owned() } else { shown(rest) };
        let got = self.other.as_deref().map_or_else(|| "the end".to_owned(), shown);
        Some(format!("line {line}, column {column}: expected {expected}, got {got}"))
    }
}

/// Up to the end of its line, which is shown when that is where the difference is.
fn first_line(rest: &[u8]) -> &[u8] {
    match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => rest.get(..end.max(1)).unwrap_or(rest),
        None => rest,
    }
}

/// Without what does not count.
fn trim(text: &[u8]) -> Vec<u8> {
    let mut trimmed = Vec::with_capacity(text.len());
    for line in text.split(|byte| *byte == b'\n') {
        let end = line.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
        trimmed.extend_from_slice(line.get(..end).unwrap_or_default());
        trimmed.push(b'\n');
    }
    let end = trimmed.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
    trimmed.truncate(end);
    trimmed
}
