//! Comparison of words, and of numbers that may differ a little.

use bytes::Bytes;
use hearth_schemas::job::FloatTolerance;

use super::{
    is_space,
    spot::{SHOWN_BYTES, quoted},
};

/// A longer word is not taken as a number.
const NUMBER_MAX_BYTES: usize = 1024;

/// Output that is compared word by word.
#[derive(Debug)]
pub(super) struct Words {
    expected: Bytes,
    tolerance: Option<FloatTolerance>,
    /// What is expected begins here, after the words that were matched.
    at: usize,
    /// The word that is being collected; of a long one no more than is needed to see that it differs.
    word: Vec<u8>,
    /// Where that is in the output, from 1.
    line: u64,
    token: u64,
    difference: Option<String>,
}

impl Words {
    pub(super) fn new(expected: Bytes, tolerance: Option<FloatTolerance>) -> Self {
        Self { expected, tolerance, at: 0, word: Vec::new(), line: 1, token: 1, difference: None }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        if self.difference.is_some() {
            return;
        }
        for run in piece.chunk_by(|a, b| is_space(*a) == is_space(*b)) {
            if run.first().is_some_and(|first| is_space(*first)) {
                self.end_of_word();
                let lines = run.iter().filter(|byte| **byte == b'\n').count() as u64;
                if lines > 0 {
                    (self.line, self.token) = (self.line + lines, 1);
                }
            } else {
                let most = self.next().len().max(NUMBER_MAX_BYTES) + 1;
                self.word.extend(run.iter().take(most.saturating_sub(self.word.len())));
            }
        }
    }

    /// The expected word; empty after the last.
    fn next(&self) -> &[u8] {
        let rest = self.expected.get(self.at..).unwrap_or_default();
        rest.split(|byte| is_space(*byte)).find(|word| !word.is_empty()).unwrap_or_default()
    }

    fn end_of_word(&mut self) {
        if self.word.is_empty() || self.difference.is_some() {
            return;
        }
        let word = std::mem::take(&mut self.word);
        let expected = self.next();
        if expected.is_empty() || !same(expected, &word, self.tolerance) {
            let expected = if expected.is_empty() { "the end".to_owned() } else { quoted(expected) };
            self.difference = Some(self.at_this_token(&expected, &quoted(&word)));
            return;
        }
        let rest = self.expected.get(self.at..).unwrap_or_default();
        let spaces = rest.iter().take_while(|byte| is_space(**byte)).count();
        self.at += spaces + expected.len();
        self.token += 1;
    }

    fn at_this_token(&self, expected: &str, got: &str) -> String {
        format!("line {}, token {}: expected {expected}, got {got}", self.line, self.token)
    }

    pub(super) fn finish(mut self) -> Option<String> {
        self.end_of_word();
        if self.difference.is_none() && !self.next().is_empty() {
            self.difference = Some(self.at_this_token(&quoted(self.next()), "the end"));
        }
        self.difference
    }
}

/// Whether a word is as good as the expected one.
fn same(expected: &[u8], got: &[u8], tolerance: Option<FloatTolerance>) -> bool {
    expected == got
        || tolerance.is_some_and(|tolerance| {
            number(expected).zip(number(got)).is_some_and(|(expected, got)| close(expected, got, tolerance))
        })
}

/// A decimal number with an optional exponent, or an infinity or NaN as printf writes them.
fn number(word: &[u8]) -> Option<f64> {
    let short = word.get(..NUMBER_MAX_BYTES.min(word.len()))?;
    if short.len() < word.len() { None } else { std::str::from_utf8(short).ok()?.parse().ok() }
}

/// NaN is close to NaN, an infinity to itself, and neither to anything else.
fn close(expected: f64, got: f64, tolerance: FloatTolerance) -> bool {
    if !expected.is_finite() || !got.is_finite() {
        return expected.is_nan() && got.is_nan() || expected == got;
    }
    let difference = (got - expected).abs();
    difference <= tolerance.abs || difference <= tolerance.rel * expected.abs()
}

const _: () = assert!(SHOWN_BYTES < NUMBER_MAX_BYTES, "what is shown was collected");
