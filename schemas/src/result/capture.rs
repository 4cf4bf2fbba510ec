//! What a command wrote to a stream: all of it when it is short, its head and tail when it is long.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Payload;
use crate::limits::{CAPTURE_HEAD_BYTES, CAPTURE_TAIL_BYTES};

/// What was written to a stream. When `tail` is present, `truncated_bytes` are missing between the content and it;
/// when it is absent, they are missing at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Captured {
    /// The start of the stream; all of it when nothing is missing.
    #[serde(flatten)]
    pub content: Payload,
    /// The end of the stream, when something in the middle is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<Payload>,
    /// Bytes that were written, kept or not.
    pub bytes: u64,
    /// Bytes that were written and are not here.
    pub truncated_bytes: u64,
}

impl Captured {
    /// The same with at most this many bytes of the start and of the end; `None` when it has no more than that.
    #[must_use]
    pub fn cut(&self, head_max: usize, tail_max: usize) -> Option<Captured> {
        let mut head = self.content.decode().unwrap_or_default();
        let mut tail = self.tail.as_ref().and_then(|tail| tail.decode().ok()).unwrap_or_default();
        if self.tail.is_none() && head.len() <= head_max.saturating_add(tail_max)
            || self.tail.is_some() && head.len() <= head_max && tail.len() <= tail_max
        {
            return None;
        }
        // What is missing at the end has no end to be kept.
        if self.tail.is_none() && self.truncated_bytes == 0 {
            tail = head.split_off(head_max.min(head.len()));
        }
        head.truncate(head_max);
        trim_end(&mut head);
        tail.drain(..tail.len().saturating_sub(tail_max));
        trim_start(&mut tail);
        let truncated_bytes = self.bytes.saturating_sub((head.len() + tail.len()) as u64);
        let tail = (!tail.is_empty()).then(|| Payload::from(tail));
        Some(Captured { content: Payload::from(head), tail, bytes: self.bytes, truncated_bytes })
    }
}

/// Collects a stream in bounded memory.
#[derive(Clone, Debug)]
pub struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_max: usize,
    tail_max: usize,
    bytes: u64,
    dropped: bool,
}

impl Default for Capture {
    fn default() -> Self {
        Capture::new(CAPTURE_HEAD_BYTES, CAPTURE_TAIL_BYTES)
    }
}

impl Capture {
    /// Keeps at most this many bytes of the start and of the end.
    pub fn new(head_max: usize, tail_max: usize) -> Self {
        Capture { head: Vec::new(), tail: VecDeque::new(), head_max, tail_max, bytes: 0, dropped: false }
    }

    /// The next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        let room = self.head_max.saturating_sub(self.head.len()).min(bytes.len());
        let (head, rest) = bytes.split_at(room);
        self.head.extend_from_slice(head);
        let last = rest.len().saturating_sub(self.tail_max);
        let (_, rest) = rest.split_at(last);
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_max);
        self.dropped |= last > 0 || excess > 0;
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// Tells of bytes that were written after everything pushed, and dropped before they came here.
    pub fn missed(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Bytes that were written so far, kept or not.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is kept, cut at characters so that text stays text.
    pub fn finish(self) -> Captured {
        let Capture { mut head, tail, bytes, dropped, .. } = self;
        let mut tail = Vec::from(tail);
        if dropped {
            trim_end(&mut head);
            trim_start(&mut tail);
        } else {
            head.append(&mut tail);
            if bytes > head.len() as u64 {
                trim_end(&mut head);
            }
        }
        let truncated_bytes = bytes.saturating_sub((head.len() + tail.len()) as u64);
        let tail = dropped.then(|| Payload::from(tail));
        Captured { content: Payload::from(head), tail, bytes, truncated_bytes }
    }
}

/// Removes a character that the cut left without its end. Bytes that are no text at all stay as they are.
fn trim_end(bytes: &mut Vec<u8>) {
    if let Err(error) = std::str::from_utf8(bytes)
        && error.error_len().is_none()
    {
        bytes.truncate(error.valid_up_to());
    }
}

/// Removes the end of a character that the cut left without its start. Bytes that are no text at all stay.
fn trim_start(bytes: &mut Vec<u8>) {
    let continuation = bytes.iter().take(3).take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000).count();
    let (_, rest) = bytes.split_at(continuation);
    let is_text = match std::str::from_utf8(rest) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    if is_text {
        bytes.drain(..continuation);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Payload {
        Payload::Text(text.to_owned())
    }

    #[test]
    fn short_streams_are_kept_whole() {
        let mut capture = Capture::new(4, 4);
        capture.push(b"abc");
        capture.push(b"defgh");
        let captured = capture.finish();
        assert_eq!(
            captured,
            Captured { content: text("abcdefgh"), tail: None, bytes: 8, truncated_bytes: 0 }
        );
    }

    #[test]
    fn long_streams_keep_both_ends() {
        let mut capture = Capture::new(4, 4);
        capture.push(b"abcdefghi");
        let captured = capture.finish();
        let expected =
            Captured { content: text("abcd"), tail: Some(text("fghi")), bytes: 9, truncated_bytes: 1 };
        assert_eq!(captured, expected);
    }

    #[test]
    fn cuts_fall_between_characters() {
        let mut capture = Capture::new(4, 4);
        capture.push("aä€xyz€ä".as_bytes());
        let captured = capture.finish();
        assert_eq!(captured.content, text("aä"));
        assert_eq!(captured.tail, Some(text("ä")));
        assert_eq!(captured.truncated_bytes, captured.bytes - 5);
    }

    #[test]
    fn bytes_that_are_no_text_come_in_base64() {
        let mut capture = Capture::default();
        capture.push(&[0xff, 0x00, 0xfe]);
        let captured = capture.finish();
        assert_eq!(captured.content, Payload::Base64("/wD+".to_owned()));
        assert_eq!(captured.content.decode().unwrap(), [0xff, 0x00, 0xfe]);
    }

    #[test]
    fn what_never_arrived_is_counted() {
        let mut capture = Capture::default();
        capture.push("ab€".as_bytes().split_at(4).0);
        capture.missed(10);
        let captured = capture.finish();
        assert_eq!(captured, Captured { content: text("ab"), tail: None, bytes: 14, truncated_bytes: 12 });
    }

    proptest! {
        #[test]
        fn what_is_cut_again_is_as_if_it_had_been_cut_at_once(
            stream in proptest::collection::vec(any::<u8>(), 0..64),
            first in 0..24_usize,
            then in 0..24_usize,
        ) {
            let mut capture = Capture::new(first, first);
            capture.push(&stream);
            let captured = capture.finish();
            let cut = captured.cut(then, then).unwrap_or_else(|| captured.clone());
            let content = cut.content.decode().unwrap();
            let tail = cut.tail.as_ref().map(|tail| tail.decode().unwrap()).unwrap_or_default();
            prop_assert!(stream.starts_with(&content) && stream.ends_with(&tail));
            prop_assert!(content.len() + tail.len() <= 2 * then);
            prop_assert_eq!(cut.bytes, stream.len() as u64);
            prop_assert_eq!(cut.truncated_bytes, (stream.len() - content.len() - tail.len()) as u64);
            prop_assert_eq!(cut.cut(then, then), None);
        }

        #[test]
        fn both_ends_are_those_of_the_stream(
            stream in proptest::collection::vec(any::<u8>(), 0..64),
            chunk in 1..16_usize,
            head_max in 0..16_usize,
            tail_max in 0..16_usize,
        ) {
            let mut capture = Capture::new(head_max, tail_max);
            for piece in stream.chunks(chunk) {
                capture.push(piece);
                prop_assert!(capture.head.len() <= head_max && capture.tail.len() <= tail_max);
            }
            let captured = capture.finish();
            let content = captured.content.decode().unwrap();
            let tail = captured.tail.as_ref().map(|tail| tail.decode().unwrap()).unwrap_or_default();
            prop_assert!(stream.starts_with(&content) && stream.ends_with(&tail));
            prop_assert_eq!(captured.bytes, stream.len() as u64);
            prop_assert_eq!(captured.truncated_bytes, (stream.len() - content.len() - tail.len()) as u64);
            // A cut costs at most the rest of one character at each side.
            prop_assert!(captured.truncated_bytes as usize <= (stream.len() + 6).saturating_sub(head_max + tail_max));
        }

        #[test]
        fn text_stays_text(stream in "\\PC{0,64}", head_max in 0..16_usize, tail_max in 0..16_usize) {
            let mut capture = Capture::new(head_max, tail_max);
            capture.push(stream.as_bytes());
            let captured = capture.finish();
            prop_assert!(matches!(captured.content, Payload::Text(_)));
            prop_assert!(matches!(captured.tail, None | Some(Payload::Text(_))));
        }
    }
}
