//! A serial port in raw mode.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, open},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};
use tokio::{
    io::{Join, join},
    net::unix::pipe,
};

/// The port. While this lives it keeps its settings, and what arrives while nobody reads.
#[derive(Debug)]
pub(crate) struct Tty {
    path: PathBuf,
    _held: OwnedFd,
}

impl Tty {
    /// Opens `path` and makes it carry every byte as it is.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let held = open_port(path)?;
        let mut settings = tcgetattr(&held)?;
        settings.make_raw();
        settings.set_speed(115_200)?;
        tcsetattr(&held, OptionalActions::Now, &settings)?;
        Ok(Self { path: path.to_owned(), _held: held })
    }

    /// Both directions, for one session. Needs a runtime.
    pub(crate) fn pipe(&self) -> io::Result<Join<pipe::Receiver, pipe::Sender>> {
        let (read, write) = (open_port(&self.path)?, open_port(&self.path)?);
        // Not pipes, but they are read and written like them.
        Ok(join(
            pipe::Receiver::from_owned_fd_unchecked(read)?,
            pipe::Sender::from_owned_fd_unchecked(write)?,
        ))
    }
}

fn open_port(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}
