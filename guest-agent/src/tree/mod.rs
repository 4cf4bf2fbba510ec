//! The working tree: every path in it is resolved beneath its root, and no link is followed.

mod path;

use std::os::fd::OwnedFd;

pub(crate) use path::{PathError, check_path};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
    process::{Gid, Uid},
};

/// Stay beneath the directory, cross no link of any kind.
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// The root of a working tree.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    #[expect(dead_code, reason = "uploads come next")]
    owner: Option<(Uid, Gid)>,
}

impl Tree {
    /// Opens the tree at `path`. What is made in it belongs to `owner`, when there is one.
    pub(crate) fn open(path: &std::path::Path, owner: Option<(Uid, Gid)>) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: openat(CWD, path, flags, Mode::empty())?, owner })
    }

    /// Opens a directory of the tree; the empty path is the tree itself.
    pub(crate) fn open_dir(&self, path: &str) -> Result<OwnedFd, PathError> {
        if !path.is_empty() {
            check_path(path)?;
        }
        let path = if path.is_empty() { "." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat2(&self.root, path, flags, Mode::empty(), CONFINED)?)
    }
}
