//! A download: the files that match, in order, within the limits, and what was left out.

use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use hearth_schemas::{
    guest::messages::{FaultKind, Get, GetDone, GetEntry, GetEntryEnd, SkipReason, Skipped},
    limits::{DATA_CHUNK_BYTES, FRAME_MAX_BYTES, OUTPUT_GLOBS_MAX},
};
use prost::Message as _;
use rustix::fs::{FileType, Stat, fstat};
use sha2::{Digest, Sha256};

use super::{
    Tree,
    pattern::{PatternError, Patterns},
    walk::{Cancelled, Match, walk},
};
use crate::fault::Refusal;

/// Files of one download, whatever the host asks: each one's path is held.
const FILES_MAX: u32 = 4096;
/// Matches that are named although they are not sent, if they fit the answer.
const SKIPPED_MAX: usize = 256;
/// Room in the last message for everything else.
const ANSWER_RESERVE_BYTES: usize = 1024;

/// Why nothing is sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GetError {
    #[error("globs has {0} patterns, more than {OUTPUT_GLOBS_MAX}")]
    TooManyGlobs(usize),
    #[error("globs[{number}] {glob:?}")]
    Glob { number: usize, glob: String, source: PatternError },
}

impl Refusal for GetError {
    fn kind(&self) -> FaultKind {
        FaultKind::Unsupported
    }
}

/// One thing to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Entry(GetEntry),
    Data(Bytes),
    End(GetEntryEnd),
    Done(GetDone),
}

/// Takes what is to be sent; `false` when nobody wants more.
pub(super) trait Sink {
    fn send(&mut self, out: Outgoing) -> bool;
    fn wanted(&self) -> bool;
}

/// A request whose patterns are patterns.
#[derive(Debug)]
pub(super) struct Download {
    get: Get,
    patterns: Patterns,
}

impl Download {
    pub(super) fn new(get: Get) -> Result<Self, GetError> {
        if get.globs.len() > OUTPUT_GLOBS_MAX {
            return Err(GetError::TooManyGlobs(get.globs.len()));
        }
        match Patterns::parse(&get.globs) {
            Ok(patterns) => Ok(Self { get, patterns }),
            Err((number, source)) => {
                let glob = get.globs.get(number).cloned().unwrap_or_default();
                Err(GetError::Glob { number, glob, source })
            }
        }
    }

    /// Sends everything, the answer last. Blocks on files.
    pub(super) fn send(self, tree: &Tree, sink: &mut impl Sink) -> Result<(), Cancelled> {
        let files_max = self.get.files_max.min(FILES_MAX);
        let keep = (files_max as usize).saturating_add(SKIPPED_MAX);
        let found = walk(tree, &self.patterns, self.get.globs.len(), keep, &|| sink.wanted())?;
        let mut sending =
            Sending { sink, limits: &self.get, files_left: files_max, bytes_left: self.get.total_max_bytes };
        let mut skipped = Vec::new();
        for (path, what) in found.matches {
            let left_out = match what {
                Match::File => sending.file(tree, &path)?,
                Match::NotRegular => Some((SkipReason::NotRegular, 0)),
                Match::Name => Some((SkipReason::Name, 0)),
            };
            skipped.extend(left_out.map(|(reason, size_bytes)| Skipped {
                path,
                reason: reason as i32,
                size_bytes,
            }));
        }
        let missing = self.get.globs.into_iter().zip(found.met).filter(|(_, met)| !met).map(|(glob, _)| glob);
        let done = GetDone { missing: missing.collect(), skipped, skipped_more: found.more };
        if sink.send(Outgoing::Done(fitted(done))) { Ok(()) } else { Err(Cancelled) }
    }
}

struct Sending<'a, S> {
    sink: &'a mut S,
    limits: &'a Get,
    files_left: u32,
    bytes_left: u64,
}

impl<S: Sink> Sending<'_, S> {
    /// Sends one file, or says why not.
    fn file(&mut self, tree: &Tree, path: &str) -> Result<Option<(SkipReason, u64)>, Cancelled> {
        let opened = tree.open_file(path).ok().and_then(|file| Some((fstat(&file).ok()?, file)));
        let Some((status, file)) = opened else { return Ok(Some((SkipReason::Unreadable, 0))) };
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Ok(Some((SkipReason::NotRegular, 0)));
        }
        let size_bytes = u64::try_from(status.st_size).unwrap_or(0);
        if size_bytes > self.limits.file_max_bytes {
            return Ok(Some((SkipReason::TooLarge, size_bytes)));
        }
        if self.files_left == 0 || size_bytes > self.bytes_left {
            return Ok(Some((SkipReason::TooMany, size_bytes)));
        }
        self.files_left -= 1;
        self.bytes_left -= size_bytes;
        self.emit(Outgoing::Entry(GetEntry {
            path: path.to_owned(),
            mode: status.st_mode & 0o777,
            size_bytes,
        }))?;
        let sha256 = self.content(&file, size_bytes)?.filter(|_| unchanged(&status, &file));
        let changed = sha256.is_none();
        self.emit(Outgoing::End(GetEntryEnd { sha256: sha256.unwrap_or_default() }))?;
        Ok(changed.then_some((SkipReason::Unreadable, size_bytes)))
    }

    /// Sends exactly so many bytes and returns their digest; `None` when there are fewer.
    fn content(&mut self, file: &OwnedFd, size_bytes: u64) -> Result<Option<Vec<u8>>, Cancelled> {
        let mut digest = Sha256::new();
        let mut left = size_bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(DATA_CHUNK_BYTES);
            let mut chunk = vec![0u8; length];
            match rustix::io::read(file, &mut chunk) {
                Ok(read) if read > 0 => chunk.truncate(read),
                _ => return Ok(None),
            }
            digest.update(&chunk);
            left = left.saturating_sub(chunk.len() as u64);
            self.emit(Outgoing::Data(chunk.into()))?;
        }
        Ok(Some(digest.finalize().to_vec()))
    }

    fn emit(&mut self, out: Outgoing) -> Result<(), Cancelled> {
        if self.sink.send(out) { Ok(()) } else { Err(Cancelled) }
    }
}

/// Whether a file is still what it was when it was opened.
fn unchanged(before: &Stat, file: &OwnedFd) -> bool {
    let key = |status: &Stat| (status.st_size, status.st_mtime, status.st_mtime_nsec);
    fstat(file.as_fd()).is_ok_and(|now| key(&now) == key(before))
}

/// Names fewer of the skipped matches until the answer fits a frame, and counts the rest.
fn fitted(mut done: GetDone) -> GetDone {
    while done.skipped.len() > SKIPPED_MAX || done.encoded_len() > FRAME_MAX_BYTES - ANSWER_RESERVE_BYTES {
        if done.skipped.pop().is_none() {
            break;
        }
        done.skipped_more = done.skipped_more.saturating_add(1);
    }
    done
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    struct All(Vec<Outgoing>, Box<dyn Fn(&Outgoing)>);

    impl Sink for All {
        fn send(&mut self, out: Outgoing) -> bool {
            (self.1)(&out);
            self.0.push(out);
            true
        }

        fn wanted(&self) -> bool {
            true
        }
    }

    fn get_with(root: &Path, get: Get, seen: impl Fn(&Outgoing) + 'static) -> (Vec<Outgoing>, GetDone) {
        let mut all = All(Vec::new(), Box::new(seen));
        let tree = Tree::open(root, None).unwrap();
        Download::new(get).unwrap().send(&tree, &mut all).unwrap();
        let Some(Outgoing::Done(done)) = all.0.pop() else { panic!("an answer") };
        (all.0, done)
    }

    fn asked(globs: &[&str]) -> Get {
        let globs = globs.iter().map(|glob| (*glob).to_owned()).collect();
        Get { globs, files_max: 10, file_max_bytes: 1000, total_max_bytes: 1500 }
    }

    fn paths(sent: &[Outgoing]) -> Vec<&str> {
        sent.iter()
            .filter_map(|out| if let Outgoing::Entry(e) = out { Some(e.path.as_str()) } else { None })
            .collect()
    }

    #[test]
    fn limits_skip_what_does_not_fit_and_name_it() {
        let root = tempfile::tempdir().unwrap();
        for (name, size) in [("a", 900), ("b", 1001), ("c", 601), ("d", 600), ("e", 0)] {
            fs::write(root.path().join(name), vec![7; size]).unwrap();
        }
        let (sent, done) = get_with(root.path(), asked(&["*", "no/*"]), |_| {});
        assert_eq!(paths(&sent), ["a", "d", "e"]);
        assert_eq!(done.missing, ["no/*"]);
        let skipped: Vec<_> =
            done.skipped.iter().map(|s| (s.path.as_str(), s.reason(), s.size_bytes)).collect();
        assert_eq!(skipped, [("b", SkipReason::TooLarge, 1001), ("c", SkipReason::TooMany, 601)]);
        let few = Get { files_max: 1, ..asked(&["*"]) };
        let (sent, done) = get_with(root.path(), few, |_| {});
        assert_eq!((paths(&sent), done.skipped.len()), (vec!["a"], 4));
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_void() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("f");
        fs::write(&file, vec![1; 100_000]).unwrap();
        let truncated = file.clone();
        let get = Get { file_max_bytes: 1 << 20, total_max_bytes: 1 << 20, ..asked(&["f"]) };
        let (sent, done) = get_with(root.path(), get, move |out| {
            if matches!(out, Outgoing::Data(_)) {
                fs::OpenOptions::new().write(true).open(&truncated).unwrap().set_len(0).unwrap();
            }
        });
        assert_eq!(sent.last(), Some(&Outgoing::End(GetEntryEnd { sha256: vec![] })));
        assert_eq!(done.skipped.first().unwrap().reason(), SkipReason::Unreadable);
    }

    #[test]
    fn an_answer_always_fits_a_frame() {
        let skip = |n: usize| Skipped { path: format!("{n}{}", "x".repeat(1000)), reason: 1, size_bytes: 1 };
        let done = GetDone { missing: vec![], skipped: (0..300).map(skip).collect(), skipped_more: 5 };
        let done = fitted(done);
        assert!(done.encoded_len() <= FRAME_MAX_BYTES);
        assert_eq!(done.skipped.len() as u64 + done.skipped_more, 305);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = Download::new(asked(&["ok", "../x"])).unwrap_err();
        assert!(error.to_string().contains("globs[1] \"../x\""));
        assert_eq!(Download::new(asked(&["a"; 65])).unwrap_err(), GetError::TooManyGlobs(65));
    }
}
