//! The guest protocol: numbered streams with credit over one byte pipe.
//!
//! A connection opens with [`PRELUDE`] from both sides, then a [`messages::Hello`] and its reply on stream 0.
//! After that the host opens streams; each carries control messages (prost) and raw data, in order, and never
//! more than the receiver gave credit for. The same bytes go over vsock, a serial port or a socket pair.

pub mod frame;
pub mod live;
pub mod messages;
pub mod mux;

/// What each side sends before its first frame, so that the other can find the start of a session on a line
/// that carried something else before (a serial port).
pub const PRELUDE: [u8; 8] = *b"\0HEARTH\n";

/// The protocol versions that this build speaks. Agents are frozen inside snapshots, so a host keeps old ones.
pub const VERSION_MIN: u32 = 1;
/// See [`VERSION_MIN`].
pub const VERSION_MAX: u32 = 1;

/// The vsock port on which the agent listens. Below 1024, so that only root can bind it in the guest
/// (`LAST_RESERVED_PORT` of net/vmw_vsock/af_vsock.c).
pub const AGENT_PORT: u32 = 1000;

/// The vsock CID of the host, and the only peer that the agent serves.
pub const HOST_CID: u32 = 2;

/// Where a command finds the files that only it is given.
pub const GIVEN_DIR: &str = "/mnt";

/// Picks the version for a session: the highest that both sides speak.
///
/// Returns `None` when the ranges do not overlap.
pub fn negotiate(peer_min: u32, peer_max: u32) -> Option<u32> {
    let version = peer_max.min(VERSION_MAX);
    (version >= peer_min.max(VERSION_MIN)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation_takes_the_highest_common_version_or_none() {
        assert_eq!(negotiate(1, 1), Some(1));
        assert_eq!(negotiate(1, 9), Some(VERSION_MAX));
        assert_eq!(negotiate(VERSION_MAX + 1, VERSION_MAX + 2), None);
        assert_eq!(negotiate(0, 0), None);
        assert_eq!(negotiate(3, 1), None, "an inverted range has nothing in it");
    }
}
