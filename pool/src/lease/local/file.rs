//! The lease file: read whole, written whole, never half.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::lease::table::Table;

/// The only version of the file that exists.
const VERSION: u32 = 1;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    /// `/proc/sys/kernel/random/boot_id`: expiry is in microseconds since boot, and no VM outlives a boot.
    boot: String,
    table: Table,
}

/// Why the table could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a lease file of this version", path.display())]
    Corrupt { path: PathBuf, source: serde_json::Error },
    #[error("{} has version {found}; this program knows {VERSION}", path.display())]
    Version { path: PathBuf, found: u32 },
}

/// Reads the table. An absent file is an empty table; leases of an earlier boot are gone, their tokens are not
/// given again.
pub(super) fn load(path: &Path, boot: &str) -> Result<Table, LoadError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Table::default()),
        Err(source) => return Err(LoadError::Read { path: path.into(), source }),
    };
    parse(&bytes, path, boot)
}

fn parse(bytes: &[u8], path: &Path, boot: &str) -> Result<Table, LoadError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let corrupt = |source| LoadError::Corrupt { path: path.into(), source };
    let head: Head = serde_json::from_slice(bytes).map_err(corrupt)?;
    if head.version != VERSION {
        return Err(LoadError::Version { path: path.into(), found: head.version });
    }
    let mut stored: Stored = serde_json::from_slice(bytes).map_err(corrupt)?;
    if stored.boot != boot {
        stored.table.records.clear();
    }
    Ok(stored.table)
}

/// Replaces the file: whoever reads it sees the old table or the new one. The rename itself need not survive a
/// crash of the host, since no lease does.
pub(super) fn save(path: &Path, boot: &str, table: Table) -> io::Result<()> {
    let stored = Stored { version: VERSION, boot: boot.into(), table };
    let bytes = serde_json::to_vec(&stored).map_err(io::Error::other)?;
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// Moves a file that cannot be read out of the way, for somebody to look at. Returns where it is.
pub(super) fn set_aside(path: &Path, unix_us: u64) -> io::Result<PathBuf> {
    let aside = path.with_extension(format!("corrupt-{unix_us}"));
    fs::rename(path, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::table::Record;

    fn table() -> Table {
        let record =
            Record { cid: 3, port: 9000, token: 7, request: "r".into(), holder: "h".into(), expires_us: 99 };
        Table { last_token: 7, records: vec![record] }
    }

    #[test]
    fn what_was_saved_is_loaded_and_a_new_boot_keeps_only_the_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.json");
        assert_eq!(load(&path, "boot").unwrap(), Table::default());
        save(&path, "boot", table()).unwrap();
        assert_eq!(load(&path, "boot").unwrap(), table());
        assert_eq!(load(&path, "next").unwrap(), Table { last_token: 7, records: vec![] });
    }

    #[test]
    fn a_half_file_is_corrupt_and_a_newer_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.json");
        save(&path, "boot", table()).unwrap();
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(matches!(load(&path, "boot"), Err(LoadError::Corrupt { .. })), "{len} bytes");
        }
        fs::write(&path, br#"{"version":2,"more":true}"#).unwrap();
        assert!(matches!(load(&path, "boot"), Err(LoadError::Version { found: 2, .. })));
    }
}
