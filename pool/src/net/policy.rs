//! What a job may reach, from the words that it uses for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
};

use ipnet::{Ipv4Net, Ipv6Net};

use super::blocked::{names_blocked, never_allowed};

/// Longest name (RFC 1035), and its longest label, in bytes.
const NAME_MAX_BYTES: usize = 253;
const LABEL_MAX_BYTES: usize = 63;

/// Addresses, and a TCP port of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The addresses.
    pub range: Ipv4Net,
    /// The port.
    pub port: u16,
}

impl Target {
    /// Whether it lies within a blocked range: then it is reached although it is blocked.
    pub fn names_blocked(&self) -> bool {
        names_blocked(self.range)
    }

    /// Whether it is this one address and port.
    pub fn is(&self, service: SocketAddrV4) -> bool {
        self.range == Ipv4Net::from(*service.ip()) && self.port == service.port()
    }
}

/// What may be reached by TCP. Everything else may not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// By address.
    pub targets: BTreeSet<Target>,
    /// By name, in lower case and without the last dot, with the ports.
    pub names: BTreeMap<String, BTreeSet<u16>>,
}

/// What is wrong with an entry, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No port, or none that there is.
    #[error(
        "{0:?} does not end with a port; allowed is `name:port`, `address:port` or `address/prefix:port`"
    )]
    Port(String),
    /// VMs have IPv4 only.
    #[error(
        "{0:?} is an IPv6 address, and VMs have IPv4 only; allowed is an IPv4 address, or a name that has one"
    )]
    Ipv6(String),
    /// Neither name nor address.
    #[error("{0:?} is neither a name nor an IPv4 address")]
    Host(String),
    /// Loopback, multicast and the like.
    #[error("{0} cannot be reached from a VM")]
    Never(Ipv4Net),
}

impl Policy {
    /// Adds an entry: `name:port`, `address:port` or `address/prefix:port`.
    ///
    /// # Errors
    /// It is none of these, or means nothing outside of a machine.
    pub fn add(&mut self, entry: &str) -> Result<(), PolicyError> {
        if is_ipv6(entry) {
            return Err(PolicyError::Ipv6(shown(entry)));
        }
        let port = || PolicyError::Port(shown(entry));
        let (host, digits) = entry.rsplit_once(':').ok_or_else(port)?;
        let number = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let number: u16 = number.and_then(|digits| digits.parse().ok()).ok_or_else(port)?;
        if number == 0 {
            return Err(port());
        }
        let range = host.parse::<Ipv4Net>().or_else(|_| host.parse::<Ipv4Addr>().map(Ipv4Net::from));
        match range {
            Ok(range) if never_allowed(range) => Err(PolicyError::Never(range)),
            Ok(range) => {
                self.targets.insert(Target { range: range.trunc(), port: number });
                Ok(())
            }
            Err(_) => {
                let name = name(host).ok_or_else(|| PolicyError::Host(shown(host)))?;
                self.names.entry(name).or_default().insert(number);
                Ok(())
            }
        }
    }

    /// The ports on which a name may be reached, if it may.
    pub fn ports_of(&self, name: &str) -> Option<&BTreeSet<u16>> {
        self.names.get(name)
    }

    /// Targets within blocked ranges.
    pub fn blocked_targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.names_blocked())
    }
}

/// Whether an entry is an IPv6 address or range, with a port or without, in brackets or not.
fn is_ipv6(entry: &str) -> bool {
    let without_port = entry.rsplit_once(':').map_or(entry, |(host, _)| host);
    [entry, without_port].into_iter().any(|text| {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        bare.parse::<Ipv6Addr>().is_ok() || bare.parse::<Ipv6Net>().is_ok()
    })
}

/// A host name as it is compared, if it is one. Its last label is no number: else it were an address.
fn name(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| {
        (1..=LABEL_MAX_BYTES).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number = host.rsplit('.').next()?.bytes().all(|byte| byte.is_ascii_digit());
    let good = host.len() <= NAME_MAX_BYTES && host.split('.').all(label) && !last_is_number;
    good.then(|| host.to_ascii_lowercase())
}

/// Whatever was sent, the answer stays short.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(entries: &[&str]) -> Result<Policy, PolicyError> {
        let mut policy = Policy::default();
        entries.iter().try_for_each(|entry| policy.add(entry)).map(|()| policy)
    }

    #[test]
    fn names_addresses_and_ranges_are_told_apart() {
        let entries = ["API.Example.com.:443", "api.example.com:80", "10.1.2.3/16:5432", "1.2.3.4:1"];
        let policy = parsed(&entries).unwrap();
        assert_eq!(policy.ports_of("api.example.com"), Some(&BTreeSet::from([80, 443])));
        assert_eq!(policy.ports_of("example.com"), None);
        let targets: Vec<String> =
            policy.targets.iter().map(|target| format!("{}:{}", target.range, target.port)).collect();
        assert_eq!(targets, ["1.2.3.4/32:1", "10.1.0.0/16:5432"]);
        assert_eq!(policy.blocked_targets().count(), 1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for entry in
            ["", "example.com", "example.com:", "example.com:0", "example.com:70000", "a:+1", "1.2.3.4"]
        {
            assert!(matches!(parsed(&[entry]), Err(PolicyError::Port(_))), "{entry}");
        }
        for entry in [
            ":443",
            "*.example.com:443",
            "exa mple.com:443",
            "1.2.3:80",
            "1.2.3.4/33:80",
            "-a.com:80",
            "a..b:80",
            "a.b; drop:80",
            "a\n:80",
        ] {
            assert!(matches!(parsed(&[entry]), Err(PolicyError::Host(_))), "{entry}");
        }
        for entry in
            ["[::1]:443", "::1:443", "2001:db8::1", "[2001:db8::/32]:443", "2001:db8::/32:443", "[::1]"]
        {
            assert_eq!(parsed(&[entry]), Err(PolicyError::Ipv6(entry.to_owned())), "{entry}");
        }
        for entry in ["127.0.0.1:80", "224.0.0.1:80", "192.0.0.1:53", "0.0.0.0:80"] {
            assert!(matches!(parsed(&[entry]), Err(PolicyError::Never(_))), "{entry}");
        }
        assert!(parsed(&["0.0.0.0/0:443"]).is_ok());
        assert!(parsed(&[&format!("{}:443", "a".repeat(64))]).is_err());
        assert!(parsed(&[&format!("{}:443", ["ab"; 90].join("."))]).is_err());
    }
}
