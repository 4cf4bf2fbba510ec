//! The working tree of a fake agent.

use std::collections::BTreeMap;

use bytes::Bytes;
use globset::{GlobBuilder, GlobMatcher};
use hearth_schemas::guest::{
    messages::{
        FaultKind, Get, GetDone, GetEntry, GetEntryEnd, PutDone, PutItem, SkipReason, Skipped, put_item,
        reply,
    },
    mux::Received,
};
use hearth_wire::{Stream, StreamError};
use prost::Message as _;
use sha2::{Digest, Sha256};

use super::agent::{Agent, fault, say};

/// Files by path.
#[derive(Debug, Default)]
pub(super) struct Tree(BTreeMap<String, (u32, Bytes)>);

impl Tree {
    pub(super) fn write(&mut self, path: &str, mode: u32, bytes: Bytes) {
        self.0.insert(path.into(), (mode, bytes));
    }

    pub(super) fn contents(&self) -> BTreeMap<String, Bytes> {
        self.0.iter().map(|(path, (_, bytes))| (path.clone(), bytes.clone())).collect()
    }
}

/// Takes an upload.
pub(super) async fn put(agent: &Agent, stream: &mut Stream) -> Result<reply::Body, StreamError> {
    let mut done = PutDone::default();
    let mut open: Option<(String, u32, Vec<u8>)> = None;
    while let Some(received) = stream.receiver.next().await? {
        let item = match received {
            Received::Data(data) => {
                let Some((_, _, bytes)) = &mut open else { return Err(StreamError::Unexpected("data")) };
                bytes.extend_from_slice(&data);
                continue;
            }
            Received::Control(item) => PutItem::decode(item).ok().and_then(|item| item.body),
            Received::End | Received::Reset => None,
        };
        match (item, open.take()) {
            (Some(put_item::Body::Entry(entry)), None) => open = Some((entry.path, entry.mode, Vec::new())),
            (Some(put_item::Body::End(end)), Some((path, mode, bytes))) => {
                if end.sha256 != Sha256::digest(&bytes).as_slice() {
                    return Ok(fault(FaultKind::Checksum, &path));
                }
                done.files += 1;
                done.bytes += bytes.len() as u64;
                agent.served().tree.write(&path, mode, bytes.into());
            }
            (Some(put_item::Body::Directory(_)), None) => {}
            _ => return Err(StreamError::Unexpected("item")),
        }
    }
    Ok(reply::Body::PutDone(done))
}

/// Sends a download; what is returned ends it.
pub(super) async fn get(agent: &Agent, stream: &Stream, get: &Get) -> Result<reply::Body, StreamError> {
    let mut globs = Vec::new();
    for glob in &get.globs {
        match GlobBuilder::new(glob).literal_separator(true).build() {
            Ok(parsed) => globs.push(parsed.compile_matcher()),
            Err(error) => return Ok(fault(FaultKind::Unsupported, &error.to_string())),
        }
    }
    let files: Vec<_> = {
        let served = agent.served();
        let matches = |path: &&String| globs.iter().any(|glob| glob.is_match(path.as_str()));
        let files = served.tree.0.iter().filter(|(path, _)| matches(path));
        files.map(|(path, (mode, bytes))| (path.clone(), *mode, bytes.clone())).collect()
    };
    let mut done =
        GetDone { missing: missing(&get.globs, &globs, &files), skipped: Vec::new(), skipped_more: 0 };
    let (mut count, mut total) = (0, 0);
    for (path, mode, bytes) in files {
        let size_bytes = bytes.len() as u64;
        let reason = match () {
            () if size_bytes > get.file_max_bytes => Some(SkipReason::TooLarge),
            () if count >= get.files_max || total + size_bytes > get.total_max_bytes => {
                Some(SkipReason::TooMany)
            }
            () => None,
        };
        if let Some(reason) = reason {
            done.skipped.push(Skipped { path, reason: reason.into(), size_bytes });
            continue;
        }
        (count, total) = (count + 1, total + size_bytes);
        let sha256 = Sha256::digest(&bytes).to_vec();
        say(stream, reply::Body::GetEntry(GetEntry { path, mode, size_bytes })).await?;
        stream.sender.data(bytes).await?;
        say(stream, reply::Body::GetEntryEnd(GetEntryEnd { sha256 })).await?;
    }
    Ok(reply::Body::GetDone(done))
}

fn missing(patterns: &[String], globs: &[GlobMatcher], files: &[(String, u32, Bytes)]) -> Vec<String> {
    let unmatched = |glob: &GlobMatcher| !files.iter().any(|(path, ..)| glob.is_match(path));
    let pairs = patterns.iter().zip(globs);
    pairs.filter(|(_, glob)| unmatched(glob)).map(|(pattern, _)| pattern.clone()).collect()
}
