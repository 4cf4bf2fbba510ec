//! Files into and out of the guest's working tree, streamed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hearth_schemas::{
    guest::{
        messages::{
            FaultKind, Get, GetDone, Put, PutDirectory, PutDone, PutEntry, PutEntryEnd, PutItem, put_item,
            reply, request,
        },
        mux::Received,
    },
    limits::{DATA_CHUNK_BYTES, PATH_MAX_BYTES},
};
use hearth_wire::{Sender, Stream, StreamReceiver};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Session, SessionError, Traffic, reply_on, within};

/// An upload under way. Dropping it leaves whatever files were complete.
#[derive(Debug)]
pub struct Upload {
    sender: Sender,
    receiver: StreamReceiver,
    traffic: Traffic,
    directories: bool,
}

impl Session {
    /// Opens an upload; any number of files go over one stream.
    pub async fn put(&self) -> Result<Upload, SessionError> {
        let Stream { sender, receiver } = self.request(request::Body::Put(Put {})).await?;
        let (traffic, directories) = (self.traffic.clone(), self.hello().put_directories);
        Ok(Upload { sender, receiver, traffic, directories })
    }

    /// Asks for the files that match; read them with [`Download::next`].
    pub async fn get(&self, globs: Vec<String>, limits: GetLimits) -> Result<Download, SessionError> {
        let get = Get {
            globs,
            files_max: limits.files_max,
            file_max_bytes: limits.file_max_bytes,
            total_max_bytes: limits.total_max_bytes,
        };
        let stream = self.request(request::Body::Get(get)).await?;
        let (_sender, receiver, traffic) = (stream.sender, stream.receiver, self.traffic.clone());
        Ok(Download { _sender, receiver, limits, file: None, done: None, traffic })
    }
}

impl Upload {
    /// Sends one file of exactly `size_bytes` from `source`. Not cancel safe: drop the upload.
    pub async fn file(
        &mut self,
        path: &str,
        mode: u32,
        size_bytes: u64,
        mut source: impl AsyncRead + Unpin,
    ) -> Result<(), SessionError> {
        let entry = PutEntry { path: path.into(), mode, size_bytes };
        self.item(put_item::Body::Entry(entry)).await?;
        let mut digest = Sha256::new();
        let mut left = size_bytes;
        while left > 0 {
            let mut chunk = BytesMut::with_capacity(DATA_CHUNK_BYTES.min(left as usize));
            let read = (&mut source).take(left.min(DATA_CHUNK_BYTES as u64)).read_buf(&mut chunk).await;
            let read =
                read.and_then(|n| if n == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(n) });
            let read = read.map_err(|source| SessionError::Source { path: path.into(), source })?;
            digest.update(&chunk);
            left -= read as u64;
            self.send(chunk.freeze()).await?;
        }
        self.item(put_item::Body::End(PutEntryEnd { sha256: digest.finalize().to_vec() })).await
    }

    /// Makes a directory, unless it is there. Not cancel safe: drop the upload.
    pub async fn directory(&mut self, path: &str) -> Result<(), SessionError> {
        if !self.directories {
            let message =
                "the agent in this snapshot is too old to make directories; bake it again".to_owned();
            return Err(SessionError::Fault { kind: FaultKind::Unsupported, message });
        }
        self.item(put_item::Body::Directory(PutDirectory { path: path.into() })).await
    }

    /// Ends the upload; the files are in place when this returns.
    pub async fn finish(self, limit: Duration) -> Result<PutDone, SessionError> {
        let Self { sender, mut receiver, .. } = self;
        sender.end().await?;
        within("put", limit, async {
            match reply_on(&mut receiver).await? {
                reply::Body::PutDone(done) => Ok(done),
                _ => Err(SessionError::Protocol("put was not answered by put done")),
            }
        })
        .await
    }

    async fn item(&mut self, body: put_item::Body) -> Result<(), SessionError> {
        let sent = self.sender.message(&PutItem { body: Some(body) }).await;
        self.or_fault(sent).await
    }

    async fn send(&mut self, chunk: Bytes) -> Result<(), SessionError> {
        self.traffic.sent(chunk.len());
        let sent = self.sender.data(chunk).await;
        self.or_fault(sent).await
    }

    /// When the agent gave up on the upload it said why before it closed the stream.
    async fn or_fault(&mut self, sent: Result<(), hearth_wire::StreamError>) -> Result<(), SessionError> {
        let Err(error) = sent else { return Ok(()) };
        match reply_on(&mut self.receiver).await {
            Err(fault @ SessionError::Fault { .. }) => Err(fault),
            _ => Err(error.into()),
        }
    }
}

/// What a download may bring. The guest is held to it.
#[derive(Clone, Copy, Debug)]
pub struct GetLimits {
    /// Files at most.
    pub files_max: u32,
    /// Size of one file at most.
    pub file_max_bytes: u64,
    /// Sum of sizes at most.
    pub total_max_bytes: u64,
}

/// The head of a downloaded file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHead {
    /// Relative to the working tree, checked: no `..`, no empty or over-long component.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its size.
    pub size_bytes: u64,
}

/// A piece of a downloaded file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Some of its bytes.
    Data(Bytes),
    /// All of them have come.
    End {
        /// Their SHA-256.
        sha256: [u8; 32],
    },
    /// It changed while it was read: what came of it is not the file. The answer lists it as unreadable.
    Void,
}

#[derive(Debug)]
struct Incoming {
    left: u64,
    digest: Sha256,
}

/// A download under way.
#[derive(Debug)]
pub struct Download {
    _sender: Sender,
    receiver: StreamReceiver,
    limits: GetLimits,
    file: Option<Incoming>,
    done: Option<GetDone>,
    traffic: Traffic,
}

impl Download {
    /// The next file, or `None` when all have come; then [`Download::done`] says what was missing.
    /// The previous file must have been read to its end.
    pub async fn next(&mut self) -> Result<Option<FileHead>, SessionError> {
        if self.done.is_some() {
            return Ok(None);
        }
        match reply_on(&mut self.receiver).await? {
            reply::Body::GetEntry(entry) => {
                let head =
                    FileHead { path: entry.path, mode: entry.mode & 0o777, size_bytes: entry.size_bytes };
                self.admit(&head)?;
                self.file = Some(Incoming { left: head.size_bytes, digest: Sha256::new() });
                Ok(Some(head))
            }
            reply::Body::GetDone(done) => {
                self.done = Some(done);
                Ok(None)
            }
            _ => Err(SessionError::Protocol("get was not answered by an entry or done")),
        }
    }

    /// The next piece of the current file; the last one carries its digest, checked.
    pub async fn piece(&mut self) -> Result<Piece, SessionError> {
        let Some(file) = self.file.as_mut() else { return Err(SessionError::Protocol("no file is open")) };
        match self.receiver.next().await? {
            Some(Received::Data(data)) => {
                self.traffic.received(data.len());
                let len = data.len() as u64;
                file.left =
                    file.left.checked_sub(len).ok_or(SessionError::Protocol("more bytes than announced"))?;
                file.digest.update(&data);
                Ok(Piece::Data(data))
            }
            Some(Received::Control(message)) => {
                let body =
                    hearth_schemas::guest::messages::Reply::decode(message).ok().and_then(|reply| reply.body);
                let end = match body {
                    Some(reply::Body::GetEntryEnd(end)) if end.sha256.is_empty() => {
                        self.file = None;
                        return Ok(Piece::Void);
                    }
                    Some(reply::Body::GetEntryEnd(end)) if file.left == 0 => end,
                    Some(reply::Body::Fault(fault)) => return Err(super::refused(fault)),
                    _ => return Err(SessionError::Protocol("a file did not end where it should")),
                };
                let sum: [u8; 32] = file.digest.clone().finalize().into();
                self.file = None;
                match end.sha256 == sum {
                    true => Ok(Piece::End { sha256: sum }),
                    false => Err(SessionError::Protocol("a file's digest does not match its bytes")),
                }
            }
            _ => Err(SessionError::Protocol("a file did not end where it should")),
        }
    }

    /// What the agent said at the end.
    pub fn done(&self) -> Option<&GetDone> {
        self.done.as_ref()
    }

    /// Holds the guest to what was asked.
    fn admit(&mut self, head: &FileHead) -> Result<(), SessionError> {
        let limits = &mut self.limits;
        let fits = limits.files_max > 0
            && head.size_bytes <= limits.file_max_bytes
            && head.size_bytes <= limits.total_max_bytes;
        if !fits {
            return Err(SessionError::Protocol("more files or bytes than were asked for"));
        }
        if !is_plain(&head.path) {
            return Err(SessionError::Protocol("a path that leaves the working tree"));
        }
        limits.files_max -= 1;
        limits.total_max_bytes -= head.size_bytes;
        Ok(())
    }
}

/// Whether a path from a guest is plain: relative, no empty, `.` or `..` component, bounded, no NUL.
fn is_plain(path: &str) -> bool {
    path.len() <= PATH_MAX_BYTES
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn paths_from_a_guest_stay_in_the_tree() {
        for good in ["a", "a/b", "..a/b..", "a b"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\0b"] {
            assert!(!is_plain(bad), "{bad}");
        }
        assert!(!is_plain(&"x/".repeat(600)));
    }
}
