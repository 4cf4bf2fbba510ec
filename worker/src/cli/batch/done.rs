//! Which jobs have a result already. Eight bytes for each: among a million, two share theirs once in forty million runs.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::Path,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// See the module.
#[derive(Debug, Default)]
pub struct Done {
    names: HashSet<u64>,
    not_accepted: u64,
}

#[derive(Deserialize)]
struct Head {
    id: String,
    #[serde(default)]
    verdict: String,
}

impl Done {
    fn name(id: &str) -> u64 {
        let digest = Sha256::digest(id);
        digest.iter().take(8).fold(0, |name, byte| name << 8 | u64::from(*byte))
    }

    /// Notes a job; whether it was not known.
    pub fn insert(&mut self, id: &str) -> bool {
        self.names.insert(Self::name(id))
    }

    /// Whether it is known.
    pub fn contains(&self, id: &str) -> bool {
        self.names.contains(&Self::name(id))
    }

    /// How many of those that were there before were not accepted.
    pub fn not_accepted(&self) -> u64 {
        self.not_accepted
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }
}

/// Opens a file of results to append to, and reads which jobs have theirs. What was half written is cut off.
pub fn resume(path: &Path) -> io::Result<(File, Done)> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut done = Done::default();
    let mut whole = 0;
    let mut reader = BufReader::new(&file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let head = serde_json::from_slice::<Head>(&line);
        let (Ok(head), Some(b'\n')) = (head, line.last()) else { break };
        done.not_accepted += u64::from(done.insert(&head.id) && head.verdict != "accepted");
        whole += line.len() as u64;
        line.clear();
    }
    file.set_len(whole)?;
    file.seek(SeekFrom::Start(whole))?;
    Ok((file, done))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_half_written_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        let (mut file, done) = resume(&path).unwrap();
        assert_eq!(done.len(), 0);
        file.write_all(b"{\"id\":\"a\",\"x\":1}\n{\"id\":\"b\",\"verdict\":\"accepted\"}\n{\"id\":\"c\"")
            .unwrap();
        let (mut file, done) = resume(&path).unwrap();
        assert_eq!(done.not_accepted(), 1);
        assert!(done.contains("a") && done.contains("b") && !done.contains("c"));
        file.write_all(b"{\"id\":\"c\"}\n").unwrap();
        assert_eq!(resume(&path).unwrap().1.len(), 3);
    }
}
