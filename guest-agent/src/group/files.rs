//! Reading and writing the small files of a cgroup.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};

use super::GroupError;

/// No file that we read is longer, except lists of processes, which are read again anyway.
const READ_MAX_BYTES: usize = 4096;

fn failed(file: &str) -> impl FnOnce(Errno) -> GroupError {
    let file = file.to_owned();
    move |source| GroupError::File { file, source }
}

/// Writes `value` to the file `name` of the cgroup `dir`.
pub(super) fn write(dir: impl AsFd, name: &str, value: &str) -> Result<(), GroupError> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty()).map_err(failed(name))?;
    rustix::io::write(file, value.as_bytes()).map_err(failed(name))?;
    Ok(())
}

/// Opens the file `name` of the cgroup `dir`, to be written.
pub(super) fn open_to_write(dir: impl AsFd, name: &str) -> Result<OwnedFd, GroupError> {
    openat(dir, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed(name))
}

/// Opens the file `name` of the cgroup `dir`, to be read again and again.
pub(super) fn open(dir: impl AsFd, name: &str) -> Result<File, GroupError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty()).map_err(failed(name))?.into())
}

/// Opens a directory of the hierarchy.
pub(super) fn open_dir(path: &Path) -> Result<File, GroupError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(failed(&path.to_string_lossy()))?;
    Ok(dir.into())
}

/// A cgroup in another, only as a place for paths and new processes to begin at.
pub(super) fn child_dir(parent: impl AsFd, name: &str) -> Result<File, GroupError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty()).map_err(failed(name))?.into())
}

/// Makes a directory of the hierarchy; one that is there is fine.
pub(super) fn make_dir(path: &Path) -> Result<(), GroupError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed(&path.to_string_lossy())(errno)),
    }
}

/// The current content of a file that stays open. Empty when it cannot be read.
pub(super) fn read(file: BorrowedFd<'_>) -> String {
    let mut buffer = [0u8; READ_MAX_BYTES];
    let length = rustix::io::pread(file, &mut buffer, 0).unwrap_or(0);
    String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned()
}

/// The value of `key` in a file of lines `key value`.
pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_matched_whole() {
        let text = "low 1\noom 7\noom_kill 3\nbad x\n";
        assert_eq!(value_of(text, "oom_kill"), Some(3));
        assert_eq!(value_of(text, "oom"), Some(7));
        assert_eq!(value_of(text, "kill"), None);
        assert_eq!(value_of(text, "bad"), None);
    }
}
