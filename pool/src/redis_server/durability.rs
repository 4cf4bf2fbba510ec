//! Whether a server keeps what it is told, as a pure reading of its INFO.

use std::fmt;

/// Why a server may forget what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotKept(Vec<String>);

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; correct that, or set redis.accept_loss", self.0.join("; "))
    }
}

/// What must hold: the field of INFO, its value, and what to do where it differs.
const EXPECTED: [(&str, &str, &str); 3] = [
    ("aof_enabled", "1", "set `appendonly yes`"),
    ("aof_last_write_status", "ok", "the append-only file cannot be written: look at the server's disk"),
    ("maxmemory_policy", "noeviction", "set `maxmemory-policy noeviction`"),
];

/// Whether the server still reads its data. Meanwhile it says that its append-only file is off (Redis 7.0).
pub(super) fn is_loading(info: &str) -> bool {
    info.lines().any(|line| line == "loading:1" || line == "async_loading:1")
}

/// Reads the sections `persistence` and `memory` of INFO, of a server that is not loading.
pub(super) fn judge(info: &str) -> Result<(), NotKept> {
    let value = |field: &str| {
        let of = |line: &'_ str| {
            line.split_once(':').filter(|(name, _)| *name == field).map(|(_, v)| v.to_owned())
        };
        info.lines().find_map(of)
    };
    let wrong = |(field, expected, remedy): (&str, &str, &str)| match value(field) {
        Some(found) if found == expected => None,
        Some(found) => Some(format!("{field} is {found}: {remedy}")),
        None => Some(format!("the server does not say {field}")),
    };
    let wrong: Vec<_> = EXPECTED.into_iter().filter_map(wrong).collect();
    if wrong.is_empty() { Ok(()) } else { Err(NotKept(wrong)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Persistence\r\naof_enabled:1\r\naof_last_write_status:ok\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n";

    #[test]
    fn a_server_that_keeps_everything_is_good() {
        judge(GOOD).unwrap();
        assert!(!is_loading(GOOD));
        assert!(is_loading("# Persistence\r\nloading:1\r\naof_enabled:0\r\n"));
    }

    #[test]
    fn whatever_may_lose_data_is_named_with_its_remedy() {
        let bad = GOOD.replace("enabled:1", "enabled:0").replace("noeviction", "allkeys-lru");
        let said = judge(&bad).unwrap_err().to_string();
        assert_eq!(
            said,
            "aof_enabled is 0: set `appendonly yes`; maxmemory_policy is allkeys-lru: \
             set `maxmemory-policy noeviction`; correct that, or set redis.accept_loss"
        );
        let full = judge(&GOOD.replace(":ok", ":err")).unwrap_err().to_string();
        assert!(full.contains("disk"), "{full}");
        assert!(judge("").unwrap_err().to_string().contains("does not say aof_enabled"));
    }
}
