//! Which wakes are accepted. Pure.

use hearth_schemas::{
    guest::messages::{FaultKind, Identity, Wake},
    limits::{CID_FIRST, WAKE_ENTROPY_MIN_BYTES, WAKE_NONCE_BYTES},
};
use rustix::io::Errno;

use super::entropy::ENTROPY_MAX_BYTES;
use crate::{fault::Refusal, group::GroupError, quota::QuotaError};

/// 2020-01-01 and 2200-01-01: a clock outside of this is a mistake, and would be believed by everything.
const NOW_RANGE_NS: std::ops::Range<u64> = 1_577_836_800_000_000_000..7_258_118_400_000_000_000;
/// Longest host name (RFC 1123 label).
const HOSTNAME_MAX_BYTES: usize = 63;

/// Why a machine was not woken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WakeError {
    #[error("entropy has {0} bytes, not {WAKE_ENTROPY_MIN_BYTES} to {ENTROPY_MAX_BYTES}")]
    Entropy(usize),
    #[error("now_unix_ns {0} is not between 2020 and 2200")]
    Clock(u64),
    #[error("hostname {0:?} is not [a-z0-9-]{{1,63}}")]
    Hostname(String),
    #[error("identity is missing")]
    NoIdentity,
    #[error("identity.cid {0} is below {CID_FIRST}")]
    Cid(u32),
    #[error("nonce has {0} bytes, not {WAKE_NONCE_BYTES} or none")]
    Nonce(usize),
    #[error("network.prefix_bits {0} is not 1 to 30")]
    Prefix(u32),
    #[error("network: this guest has no card")]
    NoCard,
    #[error("network: the card is set to another one already")]
    OtherNetwork,
    #[error("identity.token {offered} is below {held}, which this guest already holds")]
    StaleToken { offered: u64, held: u64 },
    #[error("identity: token {0} is held with another cid or port")]
    SameToken(u64),
    #[error("{what} failed")]
    Step { what: &'static str, source: Errno },
    #[error("{what} failed")]
    File { what: &'static str, source: std::io::Error },
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Quota(#[from] QuotaError),
}

impl WakeError {
    pub(super) fn step(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Step { what, source }
    }

    pub(super) fn file(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { what, source }
    }
}

impl Refusal for WakeError {
    fn kind(&self) -> FaultKind {
        match self {
            Self::Step { .. } | Self::File { .. } | Self::Group(_) | Self::Quota(_) => FaultKind::Internal,
            _ => FaultKind::Unsupported,
        }
    }
}

/// Whether a wake brings something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The first, or one with a higher token.
    New,
    /// One that was done before; the host may not have heard the answer.
    Repeat,
}

/// Checks every field. Returns the identity.
pub(super) fn check(wake: &Wake) -> Result<Identity, WakeError> {
    if !(WAKE_ENTROPY_MIN_BYTES..=ENTROPY_MAX_BYTES).contains(&wake.entropy.len()) {
        return Err(WakeError::Entropy(wake.entropy.len()));
    }
    if !NOW_RANGE_NS.contains(&wake.now_unix_ns) {
        return Err(WakeError::Clock(wake.now_unix_ns));
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=HOSTNAME_MAX_BYTES).contains(&wake.hostname.len()) || !wake.hostname.bytes().all(plain) {
        return Err(WakeError::Hostname(wake.hostname.clone()));
    }
    if !matches!(wake.nonce.len(), 0 | WAKE_NONCE_BYTES) {
        return Err(WakeError::Nonce(wake.nonce.len()));
    }
    if let Some(network) = wake.network.as_ref().filter(|network| !(1..=30).contains(&network.prefix_bits)) {
        return Err(WakeError::Prefix(network.prefix_bits));
    }
    let identity = wake.identity.clone().ok_or(WakeError::NoIdentity)?;
    if identity.cid < CID_FIRST { Err(WakeError::Cid(identity.cid)) } else { Ok(identity) }
}

/// A token never goes down, and one token is one identity.
pub(super) fn turn(held: Option<&Identity>, offered: &Identity) -> Result<Turn, WakeError> {
    match held {
        None => Ok(Turn::New),
        Some(held) if offered.token > held.token => Ok(Turn::New),
        Some(held) if offered.token < held.token => {
            Err(WakeError::StaleToken { offered: offered.token, held: held.token })
        }
        Some(held) if held == offered => Ok(Turn::Repeat),
        Some(held) => Err(WakeError::SameToken(held.token)),
    }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::guest::messages::Network;

    use super::*;

    fn good() -> Wake {
        Wake {
            now_unix_ns: 1_800_000_000_000_000_000,
            entropy: vec![7; 64],
            hostname: "hearth-3".into(),
            identity: Some(Identity { cid: 3, port: 9000, token: 5 }),
            nonce: vec![],
            network: None,
        }
    }

    #[test]
    fn each_field_is_refused_by_its_name() {
        assert!(check(&good()).is_ok());
        let message = |change: fn(&mut Wake)| {
            let mut wake = good();
            change(&mut wake);
            check(&wake).unwrap_err().to_string()
        };
        assert!(message(|wake| wake.entropy.truncate(31)).starts_with("entropy"));
        assert!(message(|wake| wake.entropy.resize(4096, 0)).starts_with("entropy"));
        assert!(message(|wake| wake.now_unix_ns = 0).starts_with("now_unix_ns"));
        assert!(message(|wake| wake.hostname = "a.b".into()).starts_with("hostname"));
        assert!(message(|wake| wake.hostname = "a".repeat(64)).starts_with("hostname"));
        assert!(message(|wake| wake.hostname.clear()).starts_with("hostname"));
        assert!(message(|wake| wake.identity = None).starts_with("identity"));
        assert!(message(|wake| wake.identity.as_mut().unwrap().cid = 2).starts_with("identity.cid"));
        assert!(message(|wake| wake.nonce = vec![1]).starts_with("nonce"));
        assert!(message(|wake| wake.network = Some(Network::default())).starts_with("network.prefix_bits"));
    }

    #[test]
    fn a_token_never_goes_down() {
        let of = |cid, token| Identity { cid, port: 1, token };
        assert!(matches!(turn(None, &of(3, 0)), Ok(Turn::New)));
        assert!(matches!(turn(Some(&of(3, 5)), &of(4, 6)), Ok(Turn::New)));
        assert!(matches!(turn(Some(&of(3, 5)), &of(3, 5)), Ok(Turn::Repeat)));
        assert!(matches!(turn(Some(&of(3, 5)), &of(4, 5)), Err(WakeError::SameToken(5))));
        assert!(matches!(turn(Some(&of(3, 5)), &of(3, 4)), Err(WakeError::StaleToken { .. })));
    }
}
