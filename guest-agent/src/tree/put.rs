//! An upload, file by file: each is written beside its place, checked, and then put there at once.

use std::{fs::File, io, io::Write as _, os::fd::OwnedFd};

use bytes::Bytes;
use hearth_schemas::guest::messages::{FaultKind, PutDone, PutEntry, PutEntryEnd, put_item};
use rustix::{
    fs::{AtFlags, Mode, OFlags, fchmod, openat, renameat, unlinkat},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use sha2::{Digest, Sha256};

use super::{PathError, Tree};
use crate::fault::{Refusal, is_no_space};

/// Why an upload failed. Files that were complete before stay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    #[error("{0}")]
    Order(&'static str),
    #[error("path {path:?}")]
    Path { path: String, source: PathError },
    #[error("mode of {path:?} is {mode:#o}, not 0 to 0o777")]
    Mode { path: String, mode: u32 },
    #[error("{path:?} has {arrived} bytes, not the announced {announced}")]
    Size { path: String, announced: u64, arrived: u64 },
    #[error("{path:?} does not have the announced SHA-256")]
    Digest { path: String },
    #[error("cannot write {path:?}")]
    Write { path: String, source: io::Error },
}

impl Refusal for PutError {
    fn kind(&self) -> FaultKind {
        match self {
            Self::Order(_) | Self::Mode { .. } => FaultKind::Unsupported,
            Self::Path { source: PathError::Unreachable(errno), .. } if is_no_space(*errno) => {
                FaultKind::NoSpace
            }
            Self::Path { .. } => FaultKind::Path,
            Self::Size { .. } | Self::Digest { .. } => FaultKind::Checksum,
            Self::Write { source, .. } => match Errno::from_io_error(source) {
                Some(errno) if is_no_space(errno) => FaultKind::NoSpace,
                // A directory is in its place.
                Some(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => FaultKind::Path,
                _ => FaultKind::Internal,
            },
        }
    }
}

/// What a host sends on the stream of an upload.
#[derive(Debug)]
pub(super) enum Arrived {
    Item(Option<put_item::Body>),
    Data(Bytes),
    End,
}

/// An upload under way.
#[derive(Debug)]
pub(super) struct Upload<'a> {
    tree: &'a Tree,
    open: Option<Incoming>,
    done: PutDone,
}

impl<'a> Upload<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self { tree, open: None, done: PutDone::default() }
    }

    /// Takes the next thing. Returns the answer after the end.
    pub(super) fn take(&mut self, arrived: Arrived) -> Result<Option<PutDone>, PutError> {
        match (arrived, &mut self.open) {
            (Arrived::Item(Some(put_item::Body::Entry(entry))), None) => {
                self.open = Some(Incoming::create(self.tree, entry)?);
            }
            (Arrived::Item(Some(put_item::Body::Directory(directory))), None) => {
                let made = self.tree.make_path(&directory.path);
                made.map_err(|source| PutError::Path { path: directory.path, source })?;
            }
            (Arrived::Data(bytes), Some(file)) => file.write(&bytes)?,
            (Arrived::Item(Some(put_item::Body::End(end))), Some(file)) => {
                file.finish(&end)?;
                self.done.files = self.done.files.saturating_add(1);
                self.done.bytes = self.done.bytes.saturating_add(file.arrived);
                self.open = None;
            }
            (Arrived::End, None) => return Ok(Some(std::mem::take(&mut self.done))),
            (Arrived::Item(None), _) => return Err(PutError::Order("an item is unknown to this agent")),
            (Arrived::Item(_) | Arrived::End, Some(_)) => {
                return Err(PutError::Order(
                    "a file was opened, or the upload ended, before the last file's end",
                ));
            }
            (Arrived::Item(_) | Arrived::Data(_), None) => {
                return Err(PutError::Order("data, or the end of a file, came before the file was opened"));
            }
        }
        Ok(None)
    }
}

/// A file that has not arrived yet, under a name of its own. Dropped before it is finished, it is removed.
#[derive(Debug)]
struct Incoming {
    entry: PutEntry,
    directory: OwnedFd,
    temporary: String,
    file: File,
    digest: Sha256,
    arrived: u64,
}

impl Incoming {
    fn create(tree: &Tree, entry: PutEntry) -> Result<Self, PutError> {
        if entry.mode > 0o777 {
            return Err(PutError::Mode { path: entry.path, mode: entry.mode });
        }
        let opened = tree.open_parent(&entry.path).map(|(directory, _)| directory);
        let directory = opened.map_err(|source| PutError::Path { path: entry.path.clone(), source })?;
        let create = || {
            let temporary = temporary_name()?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(&directory, &temporary, flags, Mode::from_raw_mode(0o600))?;
            if let Err(errno) = tree.own(&file) {
                let _ = unlinkat(&directory, &temporary, AtFlags::empty());
                return Err(errno);
            }
            Ok((temporary, File::from(file)))
        };
        match create() {
            Ok((temporary, file)) => {
                Ok(Self { entry, directory, temporary, file, digest: Sha256::new(), arrived: 0 })
            }
            Err(errno) => Err(PutError::Write { path: entry.path, source: errno.into() }),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PutError> {
        self.arrived = self.arrived.saturating_add(bytes.len() as u64);
        if self.arrived > self.entry.size_bytes {
            return Err(self.wrong_size());
        }
        self.digest.update(bytes);
        self.file.write_all(bytes).map_err(|source| self.unwritten(source))
    }

    fn finish(&mut self, end: &PutEntryEnd) -> Result<(), PutError> {
        if self.arrived != self.entry.size_bytes {
            return Err(self.wrong_size());
        }
        if self.digest.finalize_reset().as_slice() != end.sha256.as_slice() {
            return Err(PutError::Digest { path: self.entry.path.clone() });
        }
        let name = self.entry.path.rsplit('/').next().unwrap_or_default();
        let place = || {
            fchmod(&self.file, Mode::from_raw_mode(self.entry.mode))?;
            renameat(&self.directory, &self.temporary, &self.directory, name)
        };
        place().map_err(|errno| self.unwritten(errno.into()))?;
        self.temporary.clear();
        Ok(())
    }

    fn wrong_size(&self) -> PutError {
        let (announced, arrived) = (self.entry.size_bytes, self.arrived);
        PutError::Size { path: self.entry.path.clone(), announced, arrived }
    }

    fn unwritten(&self, source: io::Error) -> PutError {
        PutError::Write { path: self.entry.path.clone(), source }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.temporary.is_empty() {
            let _ = unlinkat(&self.directory, &self.temporary, AtFlags::empty());
        }
    }
}

/// A name that a job cannot have taken beforehand.
fn temporary_name() -> Result<String, Errno> {
    let mut random = [0u8; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    Ok(format!(".hearth-put-{:016x}", u64::from_le_bytes(random)))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use hearth_schemas::guest::messages::PutDirectory;

    use super::*;

    fn entry(path: &str, mode: u32, size_bytes: u64) -> Arrived {
        Arrived::Item(Some(put_item::Body::Entry(PutEntry { path: path.into(), mode, size_bytes })))
    }

    fn end(of: &[u8]) -> Arrived {
        let sha256 = Sha256::digest(of).to_vec();
        Arrived::Item(Some(put_item::Body::End(PutEntryEnd { sha256 })))
    }

    fn put(root: &Path, arrived: impl IntoIterator<Item = Arrived>) -> Result<Option<PutDone>, PutError> {
        let tree = Tree::open(root, None).unwrap();
        let mut upload = Upload::new(&tree);
        arrived.into_iter().try_fold(None, |_, next| upload.take(next))
    }

    fn one(root: &Path, path: &str, content: &'static [u8]) -> Result<Option<PutDone>, PutError> {
        let head = entry(path, 0o640, content.len() as u64);
        put(root, [head, Arrived::Data(Bytes::from_static(content)), end(content), Arrived::End])
    }

    fn names(root: &Path) -> Vec<String> {
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_gets_its_parents_its_bytes_and_its_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let done = one(root.path(), "a/b/c", b"hello").unwrap();
        assert_eq!(done, Some(PutDone { files: 1, bytes: 5 }));
        let file = root.path().join("a/b/c");
        assert_eq!(fs::read(&file).unwrap(), b"hello");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        one(root.path(), "a/b/c", b"").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"", "the later one counts");
        assert_eq!(names(&root.path().join("a/b")), ["c"]);
    }

    #[test]
    fn a_directory_is_made_with_those_on_its_way_and_may_be_there() {
        let root = tempfile::tempdir().unwrap();
        symlink("/", root.path().join("way-out")).unwrap();
        let directory = |path: &str| {
            let path = path.to_owned();
            Arrived::Item(Some(put_item::Body::Directory(PutDirectory { path })))
        };
        put(root.path(), [directory("a/b"), directory("a/b"), directory("a"), Arrived::End]).unwrap();
        assert!(root.path().join("a/b").is_dir());
        one(root.path(), "f", b"").unwrap();
        for path in ["f", "f/x", "../x", "way-out", "way-out/x", ""] {
            assert_eq!(put(root.path(), [directory(path)]).unwrap_err().kind(), FaultKind::Path, "{path}");
        }
        let between = put(root.path(), [entry("g", 0o600, 1), directory("x")]);
        assert_eq!(between.unwrap_err().kind(), FaultKind::Unsupported);
    }

    #[test]
    fn what_does_not_match_its_announcement_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let data = || Arrived::Data(Bytes::from_static(b"abc"));
        let kind = |arrived: Vec<Arrived>| put(root.path(), arrived).unwrap_err().kind();
        assert_eq!(kind(vec![entry("f", 0o600, 2), data()]), FaultKind::Checksum);
        assert_eq!(kind(vec![entry("f", 0o600, 4), data(), end(b"abc")]), FaultKind::Checksum);
        assert_eq!(kind(vec![entry("f", 0o600, 3), data(), end(b"abd")]), FaultKind::Checksum);
        assert_eq!(kind(vec![entry("f", 0o600, 3), data(), Arrived::End]), FaultKind::Unsupported);
        assert_eq!(kind(vec![data()]), FaultKind::Unsupported);
        assert_eq!(kind(vec![end(b"")]), FaultKind::Unsupported);
        assert_eq!(kind(vec![Arrived::Item(None)]), FaultKind::Unsupported);
        assert_eq!(kind(vec![entry("f", 0o600, 0), entry("g", 0o600, 0)]), FaultKind::Unsupported);
        assert_eq!(kind(vec![entry("f", 0o4755, 0)]), FaultKind::Unsupported);
        assert_eq!(names(root.path()), Vec::<String>::new());
    }

    #[test]
    fn no_path_leaves_the_tree() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), root.path().join("way-out")).unwrap();
        symlink(outside.path().join("planted"), root.path().join("file-link")).unwrap();
        fs::create_dir(root.path().join("directory")).unwrap();
        for path in ["../f", "/etc/f", "way-out/f", "way-out/new/f", "directory", "file-link/f", ""] {
            assert_eq!(one(root.path(), path, b"x").unwrap_err().kind(), FaultKind::Path, "{path}");
        }
        one(root.path(), "file-link", b"x").unwrap();
        assert!(
            fs::symlink_metadata(root.path().join("file-link")).unwrap().is_file(),
            "the link is replaced"
        );
        assert_eq!(names(outside.path()), Vec::<String>::new());
    }
}
