//! The lock that decides who may have a VM of a CID on this host.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::locks_directory;

/// An exclusive lock on a CID. Free again when this and every copy in a child process is closed.
#[derive(Debug)]
pub struct CidLock {
    file: File,
}

impl CidLock {
    /// Takes the lock, or returns `None` when somebody else has it.
    pub fn take(run_dir: &Path, cid: u32) -> io::Result<Option<Self>> {
        let directory = locks_directory(run_dir);
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{cid}.lock"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A copy of the descriptor for a child process.
    pub fn for_child(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_until_its_last_copy_is_closed() {
        let run = tempfile::tempdir().unwrap();
        let lock = CidLock::take(run.path(), 3).unwrap().unwrap();
        assert!(CidLock::take(run.path(), 3).unwrap().is_none());
        assert!(CidLock::take(run.path(), 4).unwrap().is_some());
        let copy = lock.for_child().unwrap();
        drop(lock);
        assert!(CidLock::take(run.path(), 3).unwrap().is_none(), "the copy still holds it");
        drop(copy);
        assert!(CidLock::take(run.path(), 3).unwrap().is_some());
    }
}
