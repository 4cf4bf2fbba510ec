//! Results that wait on disk while the broker is away. Bounded; what does not fit is in the ledger all the same.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ledger::{JobKey, Token},
    seams::{Properties, Publication},
};

/// Bytes of all files together, unless configured otherwise.
pub const SPOOL_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// A directory of publications, one file for each: a line of JSON, then the result's bytes.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    max_bytes: u64,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: u64,
    next: u64,
}

/// A publication that could not be put aside.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// There is no room.
    #[error("the spool holds {used} of {max} bytes; {more} more do not fit")]
    Full {
        /// In use.
        used: u64,
        /// At most.
        max: u64,
        /// Wanted.
        more: u64,
    },
    /// The disk failed.
    #[error("spool {path}")]
    Disk {
        /// Where.
        path: PathBuf,
        /// How.
        #[source]
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    tenant: String,
    id: String,
    reply_to: Option<String>,
    correlation_id: Option<String>,
    /// What the result is committed with, when it is not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<HeadToken>,
}

#[derive(Serialize, Deserialize)]
struct HeadToken {
    number: u64,
    digest: String,
    owner: String,
}

/// The name of a spooled publication; names sort by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry(String);

impl Spool {
    /// Opens a directory, made when absent. Takes over what an earlier process has left there.
    ///
    /// # Errors
    /// It cannot be read or made.
    pub fn open(directory: &Path, max_bytes: u64) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Disk { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        let spool = Self { directory: directory.to_owned(), max_bytes, used: Mutex::default() };
        let mut used = Used::default();
        for entry in spool.entries()? {
            used.bytes += fs::metadata(directory.join(&entry.0)).map_or(0, |found| found.len());
            let number = entry.0.get(..20).and_then(|number| number.parse::<u64>().ok());
            used.next = used.next.max(number.unwrap_or(0).saturating_add(1));
        }
        *spool.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
        Ok(spool)
    }

    /// Puts a publication aside; the same one again is kept once.
    ///
    /// # Errors
    /// No room, or the disk failed.
    pub fn put(&self, publication: &Publication) -> Result<(), SpoolError> {
        let name = format!("{}-{}", publication.tenant, publication.id);
        self.put_with(publication, None, &name).map(drop)
    }

    /// Puts a result aside that is not committed yet.
    ///
    /// # Errors
    /// No room, or the disk failed.
    pub fn put_undecided(&self, publication: &Publication, token: &Token) -> Result<Entry, SpoolError> {
        let Token { number, digest, owner, .. } = token.clone();
        let name = format!("{}-{}-{number}", publication.tenant, publication.id);
        self.put_with(publication, Some(HeadToken { number, digest, owner }), &name)
    }

    fn put_with(
        &self,
        publication: &Publication,
        token: Option<HeadToken>,
        name: &str,
    ) -> Result<Entry, SpoolError> {
        let head = Head {
            tenant: publication.tenant.clone(),
            id: publication.id.clone(),
            reply_to: publication.properties.reply_to.clone(),
            correlation_id: publication.properties.correlation_id.clone(),
            token,
        };
        let mut content = serde_json::to_vec(&head).unwrap_or_default();
        content.push(b'\n');
        content.extend_from_slice(&publication.body);
        let size = content.len() as u64;
        let suffix = format!("-{name}.result");
        let same = |entry: &Entry| entry.0.get(20..) == Some(suffix.as_str());
        if let Some(entry) = self.entries()?.into_iter().find(same) {
            return Ok(entry);
        }
        let name = {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            if used.bytes + size > self.max_bytes {
                return Err(SpoolError::Full { used: used.bytes, max: self.max_bytes, more: size });
            }
            used.bytes += size;
            used.next += 1;
            format!("{:020}{suffix}", used.next - 1)
        };
        let path = self.directory.join(&name);
        let partial = path.with_extension("partial");
        let written = fs::write(&partial, &content).and_then(|()| fs::rename(&partial, &path));
        match written {
            Ok(()) => Ok(Entry(name)),
            Err(source) => {
                self.freed(size);
                Err(SpoolError::Disk { path, source })
            }
        }
    }

    /// What is there, the oldest first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, SpoolError> {
        let failed = |source| SpoolError::Disk { path: self.directory.clone(), source };
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            entries.extend(
                name.to_str().filter(|name| name.ends_with(".result")).map(|name| Entry(name.into())),
            );
        }
        entries.sort();
        Ok(entries)
    }

    /// Reads one. `None` when it is no publication, which only somebody else can have written.
    ///
    /// # Errors
    /// The disk failed.
    pub fn read(&self, entry: &Entry) -> Result<Option<Publication>, SpoolError> {
        Ok(self.read_with(entry)?.map(|(publication, _)| publication))
    }

    /// Reads one that was put aside undecided. `None` when it is none.
    ///
    /// # Errors
    /// The disk failed.
    pub fn read_undecided(&self, entry: &Entry) -> Result<Option<(Publication, Token)>, SpoolError> {
        let Some((publication, Some(head))) = self.read_with(entry)? else { return Ok(None) };
        let key = JobKey { tenant: publication.tenant.clone(), id: publication.id.clone() };
        let HeadToken { number, digest, owner } = head;
        Ok(Some((publication, Token { key, number, digest, owner })))
    }

    fn read_with(&self, entry: &Entry) -> Result<Option<(Publication, Option<HeadToken>)>, SpoolError> {
        let path = self.directory.join(&entry.0);
        let content = Bytes::from(fs::read(&path).map_err(|source| SpoolError::Disk { path, source })?);
        let Some(end) = content.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let Ok(head) = serde_json::from_slice::<Head>(content.get(..end).unwrap_or_default()) else {
            return Ok(None);
        };
        let properties = Properties {
            reply_to: head.reply_to,
            correlation_id: head.correlation_id,
            ..Properties::default()
        };
        let body = content.slice(end + 1..);
        let publication = Publication { body, tenant: head.tenant, id: head.id, properties };
        Ok(Some((publication, head.token)))
    }

    /// Forgets one, once it is published.
    ///
    /// # Errors
    /// The disk failed.
    pub fn remove(&self, entry: &Entry) -> Result<(), SpoolError> {
        let path = self.directory.join(&entry.0);
        let size = fs::metadata(&path).map_or(0, |found| found.len());
        fs::remove_file(&path).map_err(|source| SpoolError::Disk { path, source })?;
        self.freed(size);
        Ok(())
    }

    fn freed(&self, size: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.bytes = used.bytes.saturating_sub(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(id: &str, size: usize) -> Publication {
        Publication {
            body: vec![b'x'; size].into(),
            tenant: "t".into(),
            id: id.into(),
            properties: Properties { reply_to: Some("r".into()), ..Properties::default() },
        }
    }

    #[test]
    fn what_is_put_aside_comes_back_in_order_after_a_restart_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), 1000).unwrap();
        for id in ["b", "a", "b"] {
            spool.put(&publication(id, 10)).unwrap();
        }
        let spool = Spool::open(directory.path(), 1000).unwrap();
        spool.put(&publication("c", 10)).unwrap();
        let entries = spool.entries().unwrap();
        let ids: Vec<_> = entries.iter().map(|entry| spool.read(entry).unwrap().unwrap()).collect();
        assert_eq!(ids, [publication("b", 10), publication("a", 10), publication("c", 10)]);
        for entry in &entries {
            spool.remove(entry).unwrap();
        }
        assert!(spool.entries().unwrap().is_empty());
    }

    #[test]
    fn what_is_undecided_keeps_its_token() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), 1000).unwrap();
        let key = JobKey { tenant: "t".into(), id: "a".into() };
        let token = |number| Token { key: key.clone(), number, digest: "d".into(), owner: "w".into() };
        let first = spool.put_undecided(&publication("a", 10), &token(7)).unwrap();
        assert_eq!(spool.put_undecided(&publication("a", 10), &token(7)).unwrap(), first, "kept once");
        let second = spool.put_undecided(&publication("a", 10), &token(8)).unwrap();
        let spool = Spool::open(directory.path(), 1000).unwrap();
        assert_eq!(spool.entries().unwrap(), [first.clone(), second]);
        assert_eq!(spool.read_undecided(&first).unwrap(), Some((publication("a", 10), token(7))));
        spool.put(&publication("b", 10)).unwrap();
        let decided = spool.entries().unwrap().pop().unwrap();
        assert_eq!(spool.read_undecided(&decided).unwrap(), None);
    }

    #[test]
    fn it_is_bounded_and_room_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), 200).unwrap();
        spool.put(&publication("a", 100)).unwrap();
        assert!(matches!(spool.put(&publication("b", 100)), Err(SpoolError::Full { .. })));
        let first = spool.entries().unwrap().remove(0);
        spool.remove(&first).unwrap();
        spool.put(&publication("b", 100)).unwrap();
    }
}
