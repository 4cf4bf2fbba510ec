//! A folder of this host as a store. Everything is opened beneath it, and no link is followed.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, linkat, mkdirat, open, openat, openat2},
    io::Errno,
};

/// Stay beneath the directory, cross no link of any kind.
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(Arc<OwnedFd>);

impl Folder {
    /// Opens it. Its own path may go over links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(open(path, DIRECTORY, Mode::empty())?)))
    }

    /// Opens a regular file to be read. Never waits, whatever is there. Blocks on the disk.
    pub(super) fn read(&self, key: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat2(&*self.0, key, flags, Mode::empty(), CONFINED)?;
        match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(File::from(file)),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "not a regular file")),
        }
    }

    /// A file without a name, to be given one when it is complete.
    pub(super) fn create(&self, key: &str) -> io::Result<Unnamed> {
        let (parents, name) =
            key.rsplit_once('/').map_or((None, key), |(parents, name)| (Some(parents), name));
        let mut directory = openat2(&*self.0, ".", DIRECTORY, Mode::empty(), CONFINED)?;
        for component in parents.into_iter().flat_map(|parents| parents.split('/')) {
            match mkdirat(&directory, component, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            directory = openat2(&directory, component, DIRECTORY, Mode::empty(), CONFINED)?;
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&directory, ".", flags, Mode::from_raw_mode(0o666))?;
        Ok(Unnamed { directory, name: name.to_owned(), file: File::from(file) })
    }
}

/// See [`Folder::create`]. Dropped, nothing is left of it.
#[derive(Debug)]
pub(super) struct Unnamed {
    directory: OwnedFd,
    name: String,
    pub(super) file: File,
}

impl Unnamed {
    /// Gives it its name. What has that name already stays, and this fails.
    pub(super) fn name(self) -> io::Result<()> {
        self.file.sync_all()?;
        let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file.as_fd()));
        Ok(linkat(CWD, own, &self.directory, &self.name, AtFlags::SYMLINK_FOLLOW)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn no_link_is_followed_and_no_way_leads_out() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "s").unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        fs::write(root.path().join("d/f"), "f").unwrap();
        symlink(outside.path(), root.path().join("out")).unwrap();
        symlink(outside.path().join("secret"), root.path().join("link")).unwrap();
        symlink("d/f", root.path().join("inner")).unwrap();
        rustix::fs::mknodat(CWD, root.path().join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        let folder = Folder::open(root.path()).unwrap();
        assert_eq!(folder.read("d/f").unwrap().metadata().unwrap().len(), 1);
        for key in ["link", "out/secret", "inner", "../x", "/etc/passwd", "d", "pipe", "none"] {
            assert!(folder.read(key).is_err(), "{key}");
        }
        assert!(folder.create("out/new").is_err());
        assert!(!outside.path().join("new").exists());
    }

    #[test]
    fn a_file_appears_whole_and_takes_nobodys_place() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let mut file = folder.create("a/b/c").unwrap();
        file.file.write_all(b"whole").unwrap();
        assert_eq!(fs::read_dir(root.path().join("a/b")).unwrap().count(), 0);
        file.name().unwrap();
        assert_eq!(fs::read(root.path().join("a/b/c")).unwrap(), b"whole");
        let error = folder.create("a/b/c").unwrap().name().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        drop(folder.create("a/b/d").unwrap());
        assert_eq!(fs::read_dir(root.path().join("a/b")).unwrap().count(), 1);
    }
}
