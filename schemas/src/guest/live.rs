//! The live connection: the guest dials the port that its VM has leased, and sends copies of output there.
//!
//! It opens with the nonce of the wake; the host answers nothing. Then come frames: data, [`LiveLost`] as control where
//! data is missing, and an end for each stream. Nothing has credit: the sender drops what does not go out.

use prost::Message;

/// How much of a stream is missing here.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LiveLost {
    /// Bytes.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
    /// Pieces in which they came.
    #[prost(uint64, tag = "2")]
    pub chunks: u64,
}

/// The number of a frame's stream: standard output of the command that the host calls `live` (1 to 2³⁰), or its standard
/// error.
pub fn stream_of(live: u32, is_stderr: bool) -> u32 {
    live.wrapping_mul(2).wrapping_add(is_stderr.into())
}

/// What a stream's number says: `live`, and whether it is standard error. `None` for numbers that no command has.
pub fn command_of(stream: u32) -> Option<(u32, bool)> {
    (stream >= 2).then_some((stream / 2, stream % 2 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_of_each_command_has_a_number() {
        for live in [1, 2, 1 << 30] {
            for is_stderr in [false, true] {
                assert_eq!(command_of(stream_of(live, is_stderr)), Some((live, is_stderr)));
            }
        }
        assert_eq!((command_of(0), command_of(1)), (None, None));
    }
}
