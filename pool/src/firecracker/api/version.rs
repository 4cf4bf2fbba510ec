//! Which Firecracker this is, and what it understands.

use std::{fmt, str::FromStr};

/// A release of Firecracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second.
    pub minor: u32,
    /// Third.
    pub patch: u32,
}

impl Version {
    /// The version of these three numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What should have been a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version of Firecracker")]
pub struct VersionError(pub String);

impl FromStr for Version {
    type Err = VersionError;

    /// Takes `1.16.1`, `v1.16.1` and `1.17.0-dev`.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let numbers = text.trim().trim_start_matches('v').split('-').next().unwrap_or_default();
        let mut parts = numbers.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Ok(Self { major, minor, patch }),
            _ => Err(VersionError(text.to_owned())),
        }
    }
}

/// A release that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Firecracker {version} is not supported: {reason}; use 1.15.1, or 1.16.1 or later")]
pub struct Unsupported {
    /// The release.
    pub version: Version,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// What a supported release does beyond 1.15.1. An unknown field is refused by Firecracker, so none is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The release.
    pub version: Version,
    /// `vsock_override` when a snapshot is loaded.
    pub vsock_override: bool,
    /// `rate_limiter` of the serial console.
    pub serial_rate_limiter: bool,
    /// `mtu` of a network interface.
    pub mtu: bool,
    /// Holds back what the host sends over vsock until the restored guest has taken note that its connections are gone.
    /// Without it, a connection that the host makes early is made, and then cut with those of the snapshot.
    pub vsock_held: bool,
}

impl Features {
    /// Those of a release, or why it is not used.
    pub fn of(version: Version) -> Result<Self, Unsupported> {
        let refuse = |reason| Err(Unsupported { version, reason });
        match (version.major, version.minor, version.patch) {
            (0, ..) | (1, 0..=14, _) => refuse("it is past upstream's support, and so are its snapshots"),
            // CVE-2026-5747; the changelog of 1.15.1 calls it the order of a virtio device's initialisation.
            (1, 15, 0) => refuse("a guest can attack its device initialisation, fixed in 1.15.1"),
            // Upstream's change 5958, first released in 1.16.1.
            (1, 16, 0) => refuse("the vsock of a restored guest can stay silent for ever, fixed in 1.16.1"),
            (1, minor, _) => {
                let later = minor >= 16;
                Ok(Self {
                    version,
                    vsock_override: later,
                    serial_rate_limiter: later,
                    mtu: later,
                    vsock_held: later,
                })
            }
            _ => refuse("its API is not known here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_firecracker_writes_them() {
        assert_eq!("1.16.1".parse(), Ok(Version::new(1, 16, 1)));
        assert_eq!("v1.15.1".parse(), Ok(Version::new(1, 15, 1)));
        assert_eq!("1.17.0-dev".parse(), Ok(Version::new(1, 17, 0)));
        for odd in ["", "1", "1.16", "1.16.1.2", "one.two.three", "1.-1.0"] {
            assert!(odd.parse::<Version>().is_err(), "{odd}");
        }
        assert!(Version::new(1, 9, 9) < Version::new(1, 16, 0));
    }

    #[test]
    fn releases_that_lose_vsock_or_are_too_old_are_refused_with_the_reason() {
        for (version, reason) in [
            ("1.16.0", "silent"),
            ("1.15.0", "fixed in 1.15.1"),
            ("1.14.4", "past upstream's support"),
            ("0.25.0", "past upstream's support"),
            ("2.0.0", "not known"),
        ] {
            let refused = Features::of(version.parse().unwrap()).unwrap_err().to_string();
            assert!(refused.contains(version) && refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn only_what_a_release_understands_is_offered() {
        let of = |version: &str| Features::of(version.parse().unwrap()).unwrap();
        assert!(!of("1.15.1").vsock_override);
        assert!(!of("1.15.2").mtu);
        for version in ["1.16.1", "1.16.2", "1.17.0", "1.20.3"] {
            assert!(of(version).vsock_override && of(version).serial_rate_limiter, "{version}");
        }
    }
}
