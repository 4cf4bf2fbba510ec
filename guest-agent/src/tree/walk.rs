//! Finds the files that match, in order, holding no more of them than can be of use.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use hearth_schemas::limits::PATH_MAX_BYTES;
use rustix::{
    fs::{AtFlags, FileType, Mode, RawDir, openat2, statat},
    io::Errno,
};

use super::{
    CONFINED, DIRECTORY, Tree,
    pattern::{Patterns, State},
};

/// Of each directory on the way down; paths are bounded, so their number is.
const LISTING_BYTES: usize = 4096;

/// What a match is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// A regular file.
    File,
    /// A link, a pipe, a socket, a device.
    NotRegular,
    /// Its name is not UTF-8; the path is what could be made of it.
    Name,
}

/// What a walk found.
#[derive(Debug)]
pub(super) struct Found {
    /// The first matches in the order of their paths' bytes.
    pub(super) matches: BTreeMap<String, Match>,
    /// Matches beyond those.
    pub(super) more: u64,
    /// For each pattern, whether anything matched it.
    pub(super) met: Vec<bool>,
}

/// A walk that its asker no longer wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cancelled;

/// Walks the tree without following a link. Directories that cannot be read, or whose path is too long to be
/// asked for, are passed over. Keeps `keep` matches at most. `wanted` is asked now and then.
pub(super) fn walk(
    tree: &Tree,
    patterns: &Patterns,
    count: usize,
    keep: usize,
    wanted: &dyn Fn() -> bool,
) -> Result<Found, Cancelled> {
    let found = Found { matches: BTreeMap::new(), more: 0, met: vec![false; count] };
    let mut walk = Walk { patterns, found, keep, wanted };
    if let Ok(root) = tree.open_dir("") {
        walk.directory(&root, "", &patterns.start())?;
    }
    Ok(walk.found)
}

struct Walk<'a> {
    patterns: &'a Patterns,
    found: Found,
    keep: usize,
    wanted: &'a dyn Fn() -> bool,
}

impl Walk<'_> {
    /// Recursion is bounded by the length of a path.
    fn directory(&mut self, directory: &OwnedFd, path: &str, state: &State) -> Result<(), Cancelled> {
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(Ok(entry)) = entries.next() {
            if !(self.wanted)() {
                return Err(Cancelled);
            }
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let text = name.to_string_lossy();
            let step = self.patterns.step(state, &text);
            if step.matched.is_empty() && step.within.is_none() {
                continue;
            }
            let full = if path.is_empty() { text.to_string() } else { format!("{path}/{text}") };
            let kind = match entry.file_type() {
                FileType::Unknown => kind_of(directory, name),
                kind => Some(kind),
            };
            match (kind, step.within) {
                (Some(FileType::Directory), Some(within)) if full.len() < PATH_MAX_BYTES => {
                    if let Ok(inner) = openat2(directory, name, DIRECTORY, Mode::empty(), CONFINED) {
                        self.directory(&inner, &full, &within)?;
                    }
                }
                (Some(FileType::Directory), _) => {}
                (kind, _) if !step.matched.is_empty() && full.len() <= PATH_MAX_BYTES => {
                    let utf8 = name.to_str().is_ok();
                    self.matched(full, &step.matched, kind, utf8);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn matched(&mut self, path: String, patterns: &[usize], kind: Option<FileType>, utf8: bool) {
        for number in patterns {
            if let Some(met) = self.found.met.get_mut(*number) {
                *met = true;
            }
        }
        let what = match kind {
            _ if !utf8 => Match::Name,
            Some(FileType::RegularFile) => Match::File,
            _ => Match::NotRegular,
        };
        self.found.matches.insert(path, what);
        if self.found.matches.len() > self.keep {
            self.found.matches.pop_last();
            self.found.more = self.found.more.saturating_add(1);
        }
    }
}

fn kind_of(directory: &OwnedFd, name: &std::ffi::CStr) -> Option<FileType> {
    let status: Result<_, Errno> = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    Some(FileType::from_raw_mode(status.ok()?.st_mode))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    fn found(root: &Path, globs: &[&str], keep: usize) -> Found {
        let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
        let tree = Tree::open(root, None).unwrap();
        walk(&tree, &Patterns::parse(&globs).unwrap(), globs.len(), keep, &|| true).unwrap()
    }

    #[test]
    fn matches_come_in_order_and_links_are_not_followed() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret.txt"), "s").unwrap();
        fs::create_dir_all(root.path().join("b/c")).unwrap();
        for file in ["z.txt", "a.txt", "b/m.txt", "b/c/d.txt", "b/other"] {
            fs::write(root.path().join(file), file).unwrap();
        }
        symlink(outside.path(), root.path().join("out")).unwrap();
        symlink(outside.path().join("secret.txt"), root.path().join("link.txt")).unwrap();
        let found = found(root.path(), &["**/*.txt", "nothing", "b"], 100);
        let matches: Vec<_> = found.matches.iter().map(|(path, what)| (path.as_str(), *what)).collect();
        assert_eq!(
            matches,
            [
                ("a.txt", Match::File),
                ("b/c/d.txt", Match::File),
                ("b/m.txt", Match::File),
                ("link.txt", Match::NotRegular),
                ("z.txt", Match::File),
            ]
        );
        assert_eq!(found.met, [true, false, false], "a directory is no match");
    }

    #[test]
    fn of_too_many_the_first_are_kept_and_the_rest_counted() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..500 {
            fs::write(root.path().join(format!("{number:03}")), "").unwrap();
        }
        let found = found(root.path(), &["*"], 3);
        assert_eq!(found.matches.keys().collect::<Vec<_>>(), ["000", "001", "002"]);
        assert_eq!(found.more, 497);
    }

    #[test]
    fn names_that_are_not_utf8_are_matched_and_told() {
        use std::os::unix::ffi::OsStrExt as _;
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"a\xff")), "").unwrap();
        let found = found(root.path(), &["a*"], 3);
        assert_eq!(found.matches.values().collect::<Vec<_>>(), [&Match::Name]);
    }

    #[test]
    fn a_walk_that_nobody_wants_stops() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "").unwrap();
        let tree = Tree::open(root.path(), None).unwrap();
        let patterns = Patterns::parse(&["*".into()]).unwrap();
        assert_eq!(walk(&tree, &patterns, 1, 9, &|| false).unwrap_err(), Cancelled);
    }
}
