//! What the scripts answer, read.

use std::time::Duration;

use crate::lease::{Identity, LeaseError};

/// The answer of `acquire.lua`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Acquired {
    New { wait: Duration },
    Full { what: &'static str, wait: Duration },
    Leased { identity: Identity, taken_over: u64 },
}

impl Acquired {
    /// `None` when the script is not ours.
    pub(super) fn read(fields: &[String]) -> Option<Self> {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        match fields.as_slice() {
            ["new", wait] => Some(Self::New { wait: micros(wait)? }),
            ["full", "CID", wait] => Some(Self::Full { what: "CID", wait: micros(wait)? }),
            ["full", "port", wait] => Some(Self::Full { what: "port", wait: micros(wait)? }),
            ["leased", cid, port, token, taken_over] => {
                let identity =
                    Identity { cid: cid.parse().ok()?, port: port.parse().ok()?, token: token.parse().ok()? };
                Some(Self::Leased { identity, taken_over: taken_over.parse().ok()? })
            }
            _ => None,
        }
    }
}

fn micros(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_micros)
}

/// Answers that no script of ours gives.
#[derive(Debug, thiserror::Error)]
#[error("an answer that no script of this version gives: {0}")]
pub(super) struct Foreign(pub(super) String);

impl From<Foreign> for LeaseError {
    fn from(foreign: Foreign) -> Self {
        Self::Unavailable { what: "redis".into(), source: Box::new(foreign) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[&str]) -> Option<Acquired> {
        Acquired::read(&fields.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn answers_are_read_and_others_refused() {
        let identity = Identity { cid: 3, port: 9000, token: 1_700_000_000_000_000 };
        let leased = read(&["leased", "3", "9000", "1700000000000000", "2"]);
        assert_eq!(leased, Some(Acquired::Leased { identity, taken_over: 2 }));
        assert_eq!(read(&["new", "5"]), Some(Acquired::New { wait: Duration::from_micros(5) }));
        for foreign in [&["leased", "3"][..], &["full", "disk", "1"], &[], &["new", "1e+15"]] {
            assert_eq!(read(foreign), None, "{foreign:?}");
        }
    }
}
