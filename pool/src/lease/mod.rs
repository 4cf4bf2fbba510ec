//! The right to use an identity until an instant.

pub(crate) mod keeper;
pub mod local;
pub mod redis;
pub(crate) mod table;

use std::time::Duration;

use tokio::time::Instant;

pub use self::table::Ranges;

/// What a VM may call itself. Names of host objects are made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// vsock CID, 3 and up.
    pub cid: u32,
    /// The host port that the guest may dial.
    pub port: u16,
    /// Fencing token: grows with every lease of the same CID or port.
    pub token: u64,
}

/// A lease that this process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is leased.
    pub identity: Identity,
    /// Until when, by this process's clock, taken before the request was sent.
    pub expires: Instant,
}

/// Why no lease was given.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Every CID or port is taken.
    #[error("every {what} is leased; the soonest may be free in {retry_after:?}")]
    Exhausted {
        /// `CID` or `port`.
        what: &'static str,
        /// A hint.
        retry_after: Duration,
    },
    /// The store has lost its data or never had any: whoever holds a lease must be able to register it again first.
    #[error(
        "the lease store's data is new; holders have {retry_after:?} left to register their leases again"
    )]
    Settling {
        /// Ask again then.
        retry_after: Duration,
    },
    /// The store cannot be reached or read.
    #[error("lease store: {what}")]
    Unavailable {
        /// What failed.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What became of one lease in a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It now lasts until this instant.
    Until(Instant),
    /// It had expired or belongs to somebody else: stop using it.
    Lost,
}

/// What became of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The identity is free.
    Released,
    /// It was no longer ours; nothing was changed.
    NotHeld,
}

/// Where leases are kept.
pub trait LeaseStore: Send + Sync + 'static {
    /// Leases one CID and one port. `request` is unique to the attempt: the same one again after a lost answer
    /// returns the same lease. Not cancel safe: a lease may be left to expire.
    fn acquire(&self, request: &str) -> impl Future<Output = Result<Lease, LeaseError>> + Send;

    /// Renews leases in one batch; the answers are in the order asked.
    fn renew(&self, identities: &[Identity])
    -> impl Future<Output = Result<Vec<Renewal>, LeaseError>> + Send;

    /// Gives a lease back. Only after its VM is gone.
    fn release(&self, identity: &Identity) -> impl Future<Output = Result<Release, LeaseError>> + Send;
}
