//! A file without a name that holds all objects of one job, one after the other, while they are on their way.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use sha2::{Digest as _, Sha256};
use tokio::{sync::mpsc, task::JoinHandle};

/// Pieces between whoever fetches and the disk.
const QUEUE: usize = 4;

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Spool(Arc<File>);

impl Spool {
    /// In this directory, with room for so many bytes on its disk. Blocks.
    pub(super) fn create(directory: &Path, bytes: u64) -> io::Result<Self> {
        let file = tempfile::tempfile_in(directory)?;
        if bytes > 0 {
            fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        }
        Ok(Self(Arc::new(file)))
    }

    /// A handle of its own on the file.
    pub(super) fn file(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// A part of it, for a reader that knows nothing of the rest.
    pub(super) fn part(&self, offset: u64, bytes: u64) -> Part {
        Part { spool: self.clone(), offset, bytes, at: 0 }
    }

    /// Writes from here on, at most so many bytes, on a thread of its own.
    pub(super) fn write(&self, offset: u64, bytes: u64) -> Writing {
        let (queue, mut pieces) = mpsc::channel::<Bytes>(QUEUE);
        let spool = self.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut written = Written::new(spool, offset, bytes);
            while let Some(piece) = pieces.blocking_recv() {
                if !written.write(&piece)? {
                    break;
                }
            }
            Ok(written.finish())
        });
        Writing { queue, writing }
    }

    /// Copies a file to here, of which so many bytes are expected. Blocks. Returns what was there.
    pub(super) fn copy(&self, mut from: File, offset: u64, bytes: u64) -> io::Result<Copied> {
        let mut written = Written::new(self.clone(), offset, bytes);
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let read = from.read(&mut buffer)?;
            let piece = buffer.get(..read).unwrap_or_default();
            if piece.is_empty() || !written.write(piece)? {
                return Ok(written.finish());
            }
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    /// How many bytes came; one more than expected stands for any number more.
    pub(super) bytes: u64,
    /// Their digest.
    pub(super) sha256: [u8; 32],
}

/// See [`Spool::write`].
pub(super) struct Writing {
    queue: mpsc::Sender<Bytes>,
    writing: JoinHandle<io::Result<Copied>>,
}

impl Writing {
    /// The next bytes; `false` when no more are of use. Cancel safe.
    pub(super) async fn piece(&self, bytes: Bytes) -> bool {
        self.queue.send(bytes).await.is_ok()
    }

    /// Waits until all of it is written. When the future is dropped, the thread ends by itself.
    pub(super) async fn finish(self) -> io::Result<Copied> {
        drop(self.queue);
        self.writing.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

struct Written {
    spool: Spool,
    offset: u64,
    expected: u64,
    bytes: u64,
    digest: Sha256,
}

impl Written {
    fn new(spool: Spool, offset: u64, expected: u64) -> Self {
        Self { spool, offset, expected, bytes: 0, digest: Sha256::new() }
    }

    /// `false` when there are more than expected; what is beyond is not written.
    fn write(&mut self, piece: &[u8]) -> io::Result<bool> {
        let end = self.bytes.saturating_add(piece.len() as u64);
        if end > self.expected {
            self.bytes = self.expected.saturating_add(1);
            return Ok(false);
        }
        self.digest.update(piece);
        self.spool.0.write_all_at(piece, self.offset.saturating_add(self.bytes))?;
        self.bytes = end;
        Ok(true)
    }

    fn finish(self) -> Copied {
        Copied { bytes: self.bytes, sha256: self.digest.finalize().into() }
    }
}

/// A part of a spool as a file.
#[derive(Debug)]
pub(super) struct Part {
    spool: Spool,
    offset: u64,
    bytes: u64,
    at: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.bytes.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        let read = self.spool.0.read_at(buffer, self.offset.saturating_add(self.at))?;
        self.at = self.at.saturating_add(read as u64);
        Ok(read)
    }
}

impl Seek for Part {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_lie_beside_each_other_and_none_is_longer_than_expected() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::create(directory.path(), 8).unwrap();
        let first = spool.write(0, 5);
        assert!(first.piece(Bytes::from("hel")).await && first.piece(Bytes::from("lo")).await);
        let copied = first.finish().await.unwrap();
        assert_eq!((copied.bytes, copied.sha256), (5, Sha256::digest("hello").into()));
        let second = spool.write(5, 3);
        second.piece(Bytes::from("abcd")).await;
        assert_eq!(second.finish().await.unwrap().bytes, 4);
        let third = spool.write(5, 3);
        third.piece(Bytes::from("abc")).await;
        assert_eq!(third.finish().await.unwrap().bytes, 3);
        let mut text = String::new();
        spool.part(0, 5).read_to_string(&mut text).unwrap();
        spool.part(5, 3).read_to_string(&mut text).unwrap();
        assert_eq!(text, "helloabc");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has no name");
    }
}
