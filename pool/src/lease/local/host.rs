//! Locks of this host: which processes hold leases, which CIDs have a live VM.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::{guard::locks_directory, lease::table::World};

/// A lock that lasts as long as this value or the process, whichever ends first.
#[derive(Debug)]
pub(super) struct Locked {
    _file: File,
}

/// Waits for the exclusive lock on a file, which is made when it is absent.
pub(super) fn lock(path: &Path) -> io::Result<Locked> {
    let file = open(path)?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(Locked { _file: file }),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // std opens with O_CLOEXEC, so no child of ours keeps the lock.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Whether somebody holds the exclusive lock on a file. An absent file is free; one that cannot be asked is not.
pub(super) fn is_locked(path: &Path) -> bool {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    // Shared, so that two who ask at once do not see each other. It is given up with the file.
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

/// This host, as lease stores see it.
#[derive(Debug)]
pub(super) struct Host {
    run_dir: PathBuf,
    holders: PathBuf,
}

impl Host {
    pub(super) fn new(run_dir: &Path, holders: PathBuf) -> Self {
        Self { run_dir: run_dir.into(), holders }
    }

    /// Names this process a holder of leases until it ends, however it ends. Under the store's lock.
    pub(super) fn register(&self, name: &str) -> io::Result<Locked> {
        fs::create_dir_all(&self.holders)?;
        lock(&self.holders.join(name))
    }

    /// Removes what dead holders left and returns whether any lives. Under the store's lock.
    pub(super) fn sweep_holders(&self) -> io::Result<bool> {
        let mut alive = false;
        let entries = match fs::read_dir(&self.holders) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            match is_locked(&path) {
                true => alive = true,
                false => fs::remove_file(&path)?,
            }
        }
        Ok(alive)
    }
}

impl World for Host {
    fn holder_is_gone(&self, holder: &str) -> bool {
        !is_locked(&self.holders.join(holder))
    }

    fn cid_in_use(&self, cid: u32) -> bool {
        is_locked(&locks_directory(&self.run_dir).join(format!("{cid}.lock")))
    }
}
