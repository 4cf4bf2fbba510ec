//! Frames: a 12-byte little-endian header (`stream: u32`, `kind: u8`, three zero bytes, `len: u32`) and `len` bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::FRAME_MAX_BYTES;

/// Length of every frame's header.
pub const HEADER_BYTES: usize = 12;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One prost message.
    Control = 1,
    /// Raw bytes.
    Data = 2,
    /// A `u32` (little endian): how many more units the peer may send on this stream. Itself costs nothing.
    Credit = 3,
    /// The sender sends no more on this stream. Empty.
    End = 4,
    /// The sender forgets the stream, and what it had queued on it. Empty.
    Reset = 5,
    /// The host opens the stream. One byte: the direction (0 both, 1 host to agent, 2 agent to host).
    Open = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Control, Self::Data, Self::Credit, Self::End, Self::Reset, Self::Open]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The stream it belongs to; 0 is the connection itself.
    pub stream: u32,
    /// What the payload is.
    pub kind: Kind,
    /// At most [`FRAME_MAX_BYTES`].
    pub payload: Bytes,
}

/// Bytes that no well-behaved peer sends. The connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that this version does not know.
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
    /// The three bytes after the kind are reserved.
    #[error("reserved header bytes are not zero")]
    Reserved,
    /// A length that no frame of this kind may have.
    #[error("a {kind:?} frame of {len} bytes is not allowed")]
    Length {
        /// Its kind.
        kind: Kind,
        /// Its announced length.
        len: u32,
    },
}

/// Appends one frame to `out`.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    debug_assert!(frame.payload.len() <= FRAME_MAX_BYTES, "callers split what they send");
    out.reserve(HEADER_BYTES + frame.payload.len());
    out.put_u32_le(frame.stream);
    out.put_u8(frame.kind as u8);
    out.put_bytes(0, 3);
    out.put_u32_le(frame.payload.len() as u32);
    out.put_slice(&frame.payload);
}

/// Takes one frame off the front of `buffer`, or returns `None` until all of it has arrived.
///
/// Never reads a length it has not checked, so `buffer` need not grow beyond one frame of the largest size.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(mut header) = buffer.get(..HEADER_BYTES) else { return Ok(None) };
    let stream = header.get_u32_le();
    let kind_byte = header.get_u8();
    let kind = Kind::from_byte(kind_byte).ok_or(FrameError::UnknownKind(kind_byte))?;
    if header.get_uint_le(3) != 0 {
        return Err(FrameError::Reserved);
    }
    let len = header.get_u32_le();
    let allowed = match kind {
        Kind::Control | Kind::Data => len as usize <= FRAME_MAX_BYTES,
        Kind::Credit => len == 4,
        Kind::End | Kind::Reset => len == 0,
        Kind::Open => len == 1,
    };
    if !allowed {
        return Err(FrameError::Length { kind, len });
    }
    if buffer.len() < HEADER_BYTES + len as usize {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    Ok(Some(Frame { stream, kind, payload: buffer.split_to(len as usize).freeze() }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_decode_to_a_frame_or_an_error_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }

        #[test]
        fn what_was_encoded_is_decoded_however_it_was_cut(
            stream in any::<u32>(), data in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..212
        ) {
            let frame = Frame { stream, kind: Kind::Data, payload: data.into() };
            let mut whole = BytesMut::new();
            encode(&frame, &mut whole);
            let cut = cut.min(whole.len());
            let mut buffer = BytesMut::from(&whole[..cut]);
            if cut < whole.len() {
                prop_assert_eq!(decode(&mut buffer), Ok(None));
                buffer.extend_from_slice(&whole[cut..]);
            }
            prop_assert_eq!(decode(&mut buffer), Ok(Some(frame)));
            prop_assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_arrive() {
        let mut buffer = BytesMut::new();
        buffer.put_u32_le(1);
        buffer.put_u8(Kind::Data as u8);
        buffer.put_bytes(0, 3);
        buffer.put_u32_le(FRAME_MAX_BYTES as u32 + 1);
        assert!(matches!(decode(&mut buffer), Err(FrameError::Length { .. })));
    }
}
