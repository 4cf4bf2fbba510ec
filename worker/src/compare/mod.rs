//! Compares what a case printed with what was expected, as it comes: nothing of the output is kept but what a
//! sentence about the first difference needs. Pure.

mod spot;
mod text;
mod words;

use bytes::Bytes;
use hearth_schemas::job::FloatTolerance;
use text::Text;
use words::Words;

/// How output is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Comparison {
    /// Byte for byte.
    Exact,
    /// White space at the end of each line, and empty lines at the end, do not count.
    Trim,
    /// Sequences of words, whatever ASCII white space is between them.
    Tokens,
    /// As tokens, but words that are both numbers may differ a little.
    Float(FloatTolerance),
}

/// Output that is being compared.
#[derive(Debug)]
pub struct Comparer(Kind);

#[derive(Debug)]
enum Kind {
    Text(Text),
    Words(Words),
}

impl Comparer {
    /// Begins with an empty output.
    pub fn new(how: Comparison, expected: &Bytes) -> Self {
        Self(match how {
            Comparison::Exact => Kind::Text(Text::exact(expected.clone())),
            Comparison::Trim => Kind::Text(Text::trimmed(expected)),
            Comparison::Tokens => Kind::Words(Words::new(expected.clone(), None)),
            Comparison::Float(tolerance) => Kind::Words(Words::new(expected.clone(), Some(tolerance))),
        })
    }

    /// The next piece of the output.
    pub fn push(&mut self, piece: &[u8]) {
        match &mut self.0 {
            Kind::Text(text) => text.push(piece),
            Kind::Words(words) => words.push(piece),
        }
    }

    /// After the last piece: `None` when the output is as expected, else where and how it first differs, in a
    /// sentence of bounded length.
    pub fn finish(self) -> Option<String> {
        match self.0 {
            Kind::Text(text) => text.finish(),
            Kind::Words(words) => words.finish(),
        }
    }
}

/// What separates words, and does not count at the end of a line.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests;
