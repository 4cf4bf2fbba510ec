//! The working tree: every path in it is resolved beneath its root, and no link is followed.

mod get;
mod path;
mod pattern;
mod put;
mod transfer;
mod walk;

use std::{os::fd::OwnedFd, path::Path};

pub(crate) use get::GetError;
pub(crate) use path::{PathError, check_path};
pub(crate) use put::PutError;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, fchown, mkdirat, openat, openat2},
    io::Errno,
    process::{Gid, Uid},
};
pub(crate) use transfer::{download, upload};

/// Stay beneath the directory, cross no link of any kind.
pub(crate) const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Permissions of directories that an upload makes.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// The root of a working tree.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    owner: Option<(Uid, Gid)>,
}

impl Tree {
    /// Opens the tree at `path`. What is made in it belongs to `owner`, when there is one.
    pub(crate) fn open(path: &Path, owner: Option<(Uid, Gid)>) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: openat(CWD, path, flags, Mode::empty())?, owner })
    }

    /// Opens a directory of the tree; the empty path is the tree itself.
    pub(crate) fn open_dir(&self, path: &str) -> Result<OwnedFd, PathError> {
        if !path.is_empty() {
            check_path(path)?;
        }
        let path = if path.is_empty() { "." } else { path };
        Ok(openat2(&self.root, path, DIRECTORY, Mode::empty(), CONFINED)?)
    }

    /// Makes a directory, and those on the way, unless they are there.
    fn make_path(&self, path: &str) -> Result<(), PathError> {
        let (parent, name) = self.open_parent(path)?;
        match openat2(&parent, name, DIRECTORY, Mode::empty(), CONFINED) {
            Err(Errno::NOENT) => self.make_dir(&parent, name)?,
            opened => opened?,
        };
        Ok(())
    }

    /// Opens a file of the tree to be read. Never waits, whatever it is.
    fn open_file(&self, path: &str) -> Result<OwnedFd, PathError> {
        check_path(path)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(openat2(&self.root, path, flags, Mode::empty(), CONFINED)?)
    }

    /// Opens the directory that `path` is in, made if need be, and returns the last component with it.
    fn open_parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), PathError> {
        check_path(path)?;
        let (parents, name) =
            path.rsplit_once('/').map_or((None, path), |(parents, name)| (Some(parents), name));
        let mut directory = self.open_dir("")?;
        for component in parents.into_iter().flat_map(|parents| parents.split('/')) {
            directory = match openat2(&directory, component, DIRECTORY, Mode::empty(), CONFINED) {
                Err(Errno::NOENT) => self.make_dir(&directory, component)?,
                opened => opened?,
            };
        }
        Ok((directory, name))
    }

    fn make_dir(&self, parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
        match mkdirat(parent, name, DIRECTORY_MODE) {
            // Another upload was faster.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let made = openat2(parent, name, DIRECTORY, Mode::empty(), CONFINED)?;
        self.own(&made)?;
        fchmod(&made, DIRECTORY_MODE)?;
        Ok(made)
    }

    /// Gives what was just made to the tree's owner.
    fn own(&self, made: &OwnedFd) -> Result<(), Errno> {
        match self.owner {
            Some((uid, gid)) => fchown(made, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }
}
