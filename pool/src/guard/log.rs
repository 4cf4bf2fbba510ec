//! What a VM's process prints, kept in a file that cannot grow without bound: a guest may be able to make its monitor
//! complain.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Most that a log file holds. What comes then begins it anew, so its end is always there.
pub const LOG_MAX_BYTES: u64 = 256 * 1024;
/// How much is taken at once, so that one that never stops does not keep the guard from its other work.
const CHUNK_BYTES: usize = 16 * 1024;

/// The reading side: a pipe and the file that takes what comes out of it.
#[derive(Debug)]
pub struct Log {
    pipe: File,
    file: File,
    length: u64,
}

impl Log {
    /// A log in the file at `path`, and the end that a process writes to. The file may be there already.
    pub fn create(path: &Path) -> io::Result<(Self, OwnedFd)> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        let (read, write) = io::pipe()?;
        rustix::io::ioctl_fionbio(&read, true)?;
        Ok((Self { pipe: File::from(OwnedFd::from(read)), file, length }, write.into()))
    }

    /// Readable when there is something to take.
    pub fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Takes some of what is there. `false` when nobody can write any more.
    pub fn take(&mut self) -> bool {
        let mut chunk = [0; CHUNK_BYTES];
        match self.pipe.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                // A full disk must not end the VM, nor stop it by a full pipe.
                let _ = self.keep(chunk.get(..count).unwrap_or_default());
                true
            }
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    /// Takes all that is there now, within a bound: the last words of a process that has ended.
    pub fn take_rest(&mut self) {
        for _ in 0..LOG_MAX_BYTES / CHUNK_BYTES as u64 {
            if !self.take() {
                return;
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        let more = bytes.len() as u64;
        if self.length.saturating_add(more) > LOG_MAX_BYTES {
            self.file.set_len(0)?;
            self.length = 0;
        }
        self.length = self.length.saturating_add(more);
        self.file.write_all(bytes)
    }
}

const _: () = assert!(CHUNK_BYTES as u64 <= LOG_MAX_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_keeps_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        let (mut log, writer) = Log::create(&path).unwrap();
        let mut writer = File::from(writer);
        for n in 0..2 * LOG_MAX_BYTES / 8 {
            writeln!(writer, "{n:7}").unwrap();
            if n % 1000 == 0 {
                log.take();
            }
        }
        assert!(log.take(), "it is open");
        writer.write_all(b"the end").unwrap();
        drop(writer);
        log.take_rest();
        assert!(!log.take(), "nobody writes any more");
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept.len() as u64 <= LOG_MAX_BYTES && kept.ends_with("the end"), "{} bytes", kept.len());
    }

    #[test]
    fn a_second_process_goes_on_in_the_same_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        for word in ["one ", "two"] {
            let (mut log, writer) = Log::create(&path).unwrap();
            File::from(writer).write_all(word.as_bytes()).unwrap();
            log.take_rest();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one two");
    }
}
