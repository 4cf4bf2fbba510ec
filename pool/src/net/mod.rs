//! Networks of VMs: what a job may reach, and nothing else.
//!
//! Each VM with a card has a network namespace. In it are the TAP of the card, one end of a veth pair whose other end is
//! the host's, and the rules: everything is dropped that the job's policy does not allow. The namespace has no name:
//! it lives as long as this process has it open or a process of the VM is in it, and everything in it goes with it,
//! however that came to its end. So there is nothing for the guard or reclaim to remove.
//!
//! Inside, every network looks the same, so one snapshot fits them all.

mod blocked;
mod links;
mod namespace;
mod network;
mod nft;
mod policy;
mod ready;
mod resolver;
mod rules;
mod tap;
mod vm;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
};

use ipnet::Ipv4Net;

pub(crate) use self::vm::{network_of, remove_network};
pub use self::{
    blocked::{is_blocked, never_allowed},
    namespace::Namespace,
    network::Network,
    policy::{Policy, PolicyError, Target},
    ready::Networks,
};

/// Where a guest finds its router and its resolver. This and the next are of the block that RFC 7335 sets aside for use
/// within one host.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
/// What every guest calls itself.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// Of the network that these two are.
pub const PREFIX_BITS: u8 = 30;
/// What a card is called in a snapshot.
pub const CARD: &str = "card";
/// A card's address. Nobody but its own router ever sees it.
pub const CARD_MAC: &str = "06:00:c0:00:00:02";
/// What the names of Hearth's links begin with, on the host as in namespaces.
pub(crate) const LINK_PREFIX: &str = "hth";
/// What the pool's key of a runtime with a card ends with, as no runtime's name does.
pub const VARIANT: &str = "+net";

/// The pool's key for VMs of a runtime that have a card.
pub fn with_card(runtime: &str) -> String {
    format!("{runtime}{VARIANT}")
}

/// The runtime of a pool's key, and whether its VMs have a card.
pub fn runtime_of(key: &str) -> (&str, bool) {
    key.strip_suffix(VARIANT).map_or((key, false), |runtime| (runtime, true))
}

/// How networks are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Where the links between host and namespaces have their addresses, four each. Nothing else on the host uses them.
    pub links: Ipv4Net,
    /// Who resolves names for us.
    pub upstream: Vec<SocketAddr>,
    /// Bytes that a VM may send and receive together; then it has no network.
    pub bytes_max: u64,
    /// Connections of a VM at once.
    pub connections_max: u32,
    /// Further ranges that no job reaches unless it names them.
    pub blocked: Vec<Ipv4Net>,
    /// Addresses of the host itself, each with a TCP port, that a job reaches if it names them. The rest of the host nobody
    /// reaches.
    pub host_services: Vec<SocketAddrV4>,
    /// Networks that are made ahead of need.
    pub ahead: usize,
    /// `nft`.
    pub nft: PathBuf,
}

impl NetworkConfig {
    /// The servers that this host itself asks (`/etc/resolv.conf`).
    pub fn upstream_of_host() -> io::Result<Vec<SocketAddr>> {
        Ok(network::servers(&std::fs::read_to_string("/etc/resolv.conf")?))
    }

    /// The defaults: links where RFC 2544 has its benchmarks.
    pub fn new(upstream: Vec<SocketAddr>) -> Self {
        Self {
            links: Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
            upstream,
            bytes_max: 1 << 30,
            connections_max: 64,
            blocked: Vec::new(),
            host_services: Vec::new(),
            ahead: 2,
            nft: "nft".into(),
        }
    }
}

/// Why there is no network, or it is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The host refused.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// All addresses of [`NetworkConfig::links`] are in use.
    #[error("all links of {0} are in use: give network.links a larger range")]
    NoLink(Ipv4Net),
    /// The VM is gone, and its network with it.
    #[error("the VM has no network")]
    Gone,
}

pub(crate) fn host(what: &'static str) -> impl Fn(io::Error) -> NetworkError {
    move |source| NetworkError::Host { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_whether_its_vms_have_a_card() {
        assert_eq!(runtime_of(&with_card("python")), ("python", true));
        assert_eq!(runtime_of("python"), ("python", false));
        assert!(!hearth_schemas::job::is_name(&with_card("python")), "no runtime is called so");
    }
}
