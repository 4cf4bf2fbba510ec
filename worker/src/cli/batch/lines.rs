//! Jobs from a file, one per line.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use hearth_schemas::{
    job::{is_name, probe},
    limits::REQUEST_MAX_BYTES,
};
use sha2::{Digest, Sha256};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
};

use crate::cli::exit::{Exit, Failure};

/// Lines that are read ahead.
const AHEAD: usize = 64;
/// Bytes of all lines that are read and have no result yet: four of the largest, or thousands of usual ones.
const READ_MAX_BYTES: usize = 4 * REQUEST_MAX_BYTES;
/// They are counted in these.
const UNIT_BYTES: usize = 1024;

/// A job on its line.
#[derive(Debug)]
pub struct Line {
    /// From 1.
    pub number: u64,
    /// Its own, or made from what it says and where it stands: the same whenever the same file is read.
    pub id: String,
    /// The request.
    pub body: Bytes,
    /// Its part of what may be read ahead.
    room: Option<OwnedSemaphorePermit>,
}

impl Line {
    /// The request is not needed any more: others may be read for it.
    pub fn answered(&mut self) {
        (self.body, self.room) = (Bytes::new(), None);
    }
}

/// Counts lines, for a progress bar. Nothing for what can be read only once, such as a pipe.
pub fn count(path: &Path) -> Option<u64> {
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).ok()?);
    let mut lines = 0;
    loop {
        let buffer = file.fill_buf().ok()?;
        if buffer.is_empty() {
            return Some(lines);
        }
        lines += buffer.iter().filter(|byte| **byte == b'\n').count() as u64;
        let read = buffer.len();
        file.consume(read);
    }
}

/// Reads lines in a thread of its own, not far ahead of who takes them: memory is bounded however long they are, since
/// each keeps its part of 64 MiB until it is dropped or [`Line::answered`]. Empty lines are left out.
pub fn read(path: &Path) -> Result<mpsc::Receiver<Result<Line, Failure>>, Failure> {
    let no_input = |error: io::Error| Failure::new(Exit::NoInput, format!("{}: {error}", path.display()));
    let input: Box<dyn Read + Send> = match path == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(no_input)?),
    };
    let (give, lines) = mpsc::channel(AHEAD);
    let (all, runtime) = (Arc::new(Semaphore::new(READ_MAX_BYTES / UNIT_BYTES)), Handle::current());
    spawn_blocking(move || {
        let mut input = BufReader::new(input);
        for number in 1.. {
            let line = match line(&mut input, number) {
                Ok(Some(body)) if body.trim_ascii().is_empty() => continue,
                Ok(Some(body)) => {
                    let units = u32::try_from(body.len().div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
                    let Ok(room) = runtime.block_on(all.clone().acquire_many_owned(units)) else { return };
                    let id = id(&body, number);
                    Ok(Line { number, id, body: body.into(), room: Some(room) })
                }
                Ok(None) => return,
                Err(failure) => Err(failure),
            };
            let failed = line.is_err();
            if give.blocking_send(line).is_err() || failed {
                return;
            }
        }
    });
    Ok(lines)
}

fn line(input: &mut impl BufRead, number: u64) -> Result<Option<Vec<u8>>, Failure> {
    let mut body = Vec::new();
    let read = input.take(REQUEST_MAX_BYTES as u64 + 2).read_until(b'\n', &mut body);
    match read {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(Failure::new(Exit::NoInput, format!("line {number}: {error}"))),
    }
    if body.len() > REQUEST_MAX_BYTES + 1 {
        let message =
            format!("line {number}: longer than {REQUEST_MAX_BYTES} bytes, which is all that a job may have");
        return Err(Failure::new(Exit::Data, message));
    }
    if body.last() == Some(&b'\n') {
        body.pop();
    }
    Ok(Some(body))
}

fn id(body: &[u8], number: u64) -> String {
    let own = probe(body).id.filter(|id| is_name(id));
    own.unwrap_or_else(|| {
        let digest = Sha256::digest(body);
        let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}-{number}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_have_ids_that_stay() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"id\":\"a\"}\n\n{\"x\":1}\r\n{\"id\":\"b c\"}").unwrap();
        let mut ids = Vec::new();
        for _ in 0..2 {
            let mut lines = read(file.path()).unwrap();
            while let Some(line) = lines.recv().await {
                let line = line.unwrap();
                ids.push((line.number, line.id));
            }
        }
        let (first, second) = ids.split_at(3);
        assert_eq!(first, second);
        assert_eq!(first[0], (1, "a".to_owned()));
        assert!(first[1].1.ends_with("-3") && first[2].1.ends_with("-4"), "{first:?}");
        assert!(first.iter().all(|(_, id)| is_name(id)));
        assert_eq!(count(file.path()), Some(3));
    }
}
