//! SHA-256 of files and of what they were made from.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use hearth_schemas::manifest::SnapshotFile;
use serde::Serialize;
use sha2::{Digest, Sha256};

const BUFFER_BYTES: usize = 1 << 20;
/// Digits of a digest that a directory is named by.
const SHORT_DIGITS: usize = 20;

/// The digest of a file's content in lower-case hexadecimal. Blocks.
pub(super) fn file(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let n = file.read(&mut buffer)?;
        match buffer.get(..n) {
            Some(read) if !read.is_empty() => hasher.update(read),
            _ => return Ok(hex(&hasher.finalize())),
        }
    }
}

/// Every regular file below `dir`, sorted by name. Blocks.
pub(super) fn tree(dir: &Path) -> io::Result<Vec<SnapshotFile>> {
    let mut files = Vec::new();
    collect(dir, "", &mut files)?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<SnapshotFile>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), files)?;
        } else {
            let (size_bytes, sha256) = (entry.metadata()?.len(), file(&entry.path())?);
            files.push(SnapshotFile { name, size_bytes, sha256 });
        }
    }
    Ok(())
}

/// The digest of a value's JSON; the same value gives the same digest while its type stays as it is.
pub(super) fn of(value: &impl Serialize) -> String {
    // Maps with string keys and plain structs, which is all there is here, always have a JSON form.
    bytes(&serde_json::to_vec(value).unwrap_or_default())
}

/// The digest of these bytes.
pub(super) fn bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The start of [`of`], long enough to name a directory.
pub(super) fn short(value: &impl Serialize) -> String {
    let mut digits = of(value);
    digits.truncate(SHORT_DIGITS);
    digits
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_by_path_with_their_digests() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/b"), "").unwrap();
        fs::write(dir.path().join("a"), "abc").unwrap();
        let files = tree(dir.path()).unwrap();
        let names: Vec<_> = files.iter().map(|f| (f.name.as_str(), f.size_bytes)).collect();
        assert_eq!(names, [("a", 3), ("sub/b", 0)]);
        assert_eq!(files[0].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
