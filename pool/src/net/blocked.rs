//! Addresses that no job reaches by accident: of this host, of its neighbours, of clouds' metadata.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

const fn range(a: u8, b: u8, c: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), bits)
}

/// Special-purpose addresses (the registry of RFC 6890) that may be allowed by name: private networks and what lies near.
const PRIVATE: [Ipv4Net; 10] = [
    range(10, 0, 0, 8),
    range(100, 64, 0, 10),
    range(169, 254, 0, 16),
    range(172, 16, 0, 12),
    range(192, 0, 2, 24),
    range(192, 88, 99, 24),
    range(192, 168, 0, 16),
    range(198, 18, 0, 15),
    range(198, 51, 100, 24),
    range(203, 0, 113, 24),
];

/// Those that mean nothing across a router, and our own.
const NEVER: [Ipv4Net; 5] =
    [range(0, 0, 0, 8), range(127, 0, 0, 8), range(192, 0, 0, 24), range(224, 0, 0, 4), range(240, 0, 0, 4)];

/// Every blocked range.
pub(super) fn ranges() -> impl Iterator<Item = Ipv4Net> {
    PRIVATE.into_iter().chain(NEVER)
}

/// Whether an address is reached only where a policy names its range.
pub fn is_blocked(address: Ipv4Addr) -> bool {
    ranges().any(|range| range.contains(&address))
}

/// Whether no policy may name this range.
pub fn never_allowed(range: Ipv4Net) -> bool {
    NEVER.iter().any(|never| never.contains(&range))
}

/// Whether a range lies within a blocked one: then whoever wrote it meant it.
pub(super) fn names_blocked(range: Ipv4Net) -> bool {
    ranges().any(|blocked| blocked.contains(&range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_private_and_special_addresses_are_blocked_and_others_are_not() {
        for blocked in [
            "169.254.169.254",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.100.100.200",
            "127.0.0.1",
            "0.0.0.0",
            "192.0.0.1",
            "192.0.0.192",
            "198.19.255.255",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(is_blocked(blocked.parse().unwrap()), "{blocked}");
        }
        for open in ["1.1.1.1", "172.32.0.1", "11.0.0.1", "198.20.0.1", "192.0.1.1", "223.255.255.255"] {
            assert!(!is_blocked(open.parse().unwrap()), "{open}");
        }
    }

    #[test]
    fn a_range_names_what_is_blocked_only_if_all_of_it_is() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        assert!(names_blocked(net("10.1.0.0/16")));
        assert!(names_blocked(net("169.254.169.254/32")));
        assert!(!names_blocked(net("0.0.0.0/0")));
        assert!(!names_blocked(net("8.0.0.0/6")), "10.0.0.0/8 is only a part of it");
        assert!(never_allowed(net("127.0.0.1/32")) && !never_allowed(net("10.0.0.0/8")));
    }
}
