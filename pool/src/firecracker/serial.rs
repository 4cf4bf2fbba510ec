//! The bytes between host and guest agent over the guest's only serial port.
//!
//! Firecracker's serial port is its own stdin and stdout, and it takes no file for one of them alone. Both are named pipes
//! beside the VM's root directory, opened by the shell that starts it. Its log goes elsewhere then.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FileType, Mode, OFlags, mknodat};
use tokio::{
    io::{AsyncReadExt, Join, join},
    net::unix::pipe,
    time::timeout,
};

/// What the guest may have said that the host has not read. Firecracker drops what finds no room: a busy host must not
/// be late by more than that.
const ROOM_BYTES: usize = 1 << 20;
/// How long a guest says nothing that has nothing to say.
const SILENCE: Duration = Duration::from_millis(300);

/// The name that the pipes of a VM begin with.
pub(super) fn prefix(directory: &Path) -> PathBuf {
    directory.join("serial")
}

/// What a shell does with `"$@"` so that its stdin and stdout are the pipes whose names begin with `$0`. To open a named pipe
/// both ways never waits.
pub(super) const REDIRECTED: &str = "\"$@\" <>\"$0.in\" 1<>\"$0.out\"";

/// The host's ends.
#[derive(Debug)]
pub(super) struct SerialPort {
    to_guest: File,
    from_guest: File,
}

impl SerialPort {
    /// Makes the pipes, before Firecracker is started.
    pub fn make(directory: &Path) -> io::Result<Self> {
        let prefix = prefix(directory);
        let named = |end: &str| {
            let mut name = prefix.clone().into_os_string();
            name.push(end);
            PathBuf::from(name)
        };
        for end in [".in", ".out"] {
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(rustix::fs::CWD, named(end), FileType::Fifo, mode, 0)?;
        }
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let open = |options: &mut OpenOptions, end| options.custom_flags(nonblocking).open(named(end));
        // Both ways, since there is no reader yet.
        let to_guest = open(File::options().read(true).write(true), ".in")?;
        let from_guest = open(File::options().read(true), ".out")?;
        if let Err(error) = rustix::pipe::fcntl_setpipe_size(&from_guest, ROOM_BYTES) {
            tracing::debug!(%error, "a serial port has little room");
        }
        Ok(Self { to_guest, from_guest })
    }

    /// The port as a pipe, for one session. Firecracker must run: before that its end is an end. Needs a runtime.
    pub fn pipe(&self) -> io::Result<Join<pipe::Receiver, pipe::Sender>> {
        let from_guest = pipe::Receiver::from_file(self.from_guest.try_clone()?)?;
        Ok(join(from_guest, pipe::Sender::from_file(self.to_guest.try_clone()?)?))
    }

    /// Waits until the guest is silent, for a session that is over. A snapshot of a guest in the middle of a word would lose
    /// that: 1.15.1 forgets that the guest waits to go on (upstream's issue 5764).
    pub async fn silence(&self) -> io::Result<()> {
        let mut from_guest = pipe::Receiver::from_file(self.from_guest.try_clone()?)?;
        let mut rest = [0; 4096];
        loop {
            match timeout(SILENCE, from_guest.read(&mut rest)).await {
                Err(_) => return Ok(()),
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => drop(read?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_process_that_the_shell_redirects_is_heard_and_spoken_to() {
        let directory = tempfile::tempdir().unwrap();
        let port = SerialPort::make(directory.path()).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", REDIRECTED])
            .arg(prefix(directory.path()))
            .args(["sh", "-c", "echo ready; head -c 5; echo over"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Nobody has the other end for a moment, which looks like an end.
        let mut heard = Vec::new();
        while heard != *b"ready\n" {
            let _ = port.pipe().unwrap().read_buf(&mut heard).await.unwrap();
        }
        let mut pipe = port.pipe().unwrap();
        pipe.write_all(b"hello").await.unwrap();
        let mut rest = Vec::new();
        pipe.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"helloover\n");
        assert!(child.wait().unwrap().success());
        assert_eq!(port.silence().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
