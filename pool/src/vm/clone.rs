//! A copy of a file as cheap as the host allows.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{SeekFrom, ioctl_ficlone, seek},
    io::Errno,
};

/// How much is read and written at once. Beyond 1 MiB a larger buffer only leaves the processor's cache.
const CHUNK_BYTES: usize = 1024 * 1024;
/// What a hole is made of.
const PAGE_BYTES: usize = 4096;

/// Which bytes are worth writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// Those that the source has: its holes become holes.
    Keep,
    /// Those that are not zero: pages of zeros become holes as well.
    Dig,
}

/// How a copy was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloned {
    /// The file system shares the blocks until one side writes.
    Reflink,
    /// So many bytes were written.
    Copied(u64),
}

/// Tells a copy on another thread to stop when the one who wanted it no longer does.
#[derive(Debug, Default)]
pub struct StopOnDrop(Arc<AtomicBool>);

impl StopOnDrop {
    /// What the copy looks at.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes the empty `target` a copy of `source`. Blocks. Stops with `Interrupted` soon after `stop` is set.
pub fn clone_file(source: &File, target: &File, stop: &AtomicBool) -> io::Result<Cloned> {
    match ioctl_ficlone(target, source) {
        Ok(()) => Ok(Cloned::Reflink),
        // Another file system, or one that cannot.
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            copy(source, target, Holes::Keep, stop).map(Cloned::Copied)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Saves the file at `from` as the new file `to`, its zeros as holes. Returns the bytes written. Blocks.
pub fn save_sparse(from: &Path, to: &Path, stop: &AtomicBool) -> io::Result<u64> {
    let target = File::options().write(true).create_new(true).open(to)?;
    copy(&File::open(from)?, &target, Holes::Dig, stop)
}

/// Copies `source` to the empty `target` without writing holes. Returns the bytes written. Blocks.
pub fn copy(source: &File, target: &File, holes: Holes, stop: &AtomicBool) -> io::Result<u64> {
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut offset, mut written) = (0, 0);
    while let Some((start, end)) = next_data(source, offset, size)? {
        offset = start;
        while offset < end {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let wanted = usize::try_from(end - offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let chunk = buffer.get_mut(..wanted).unwrap_or_default();
            source.read_exact_at(chunk, offset)?;
            written += write_chunk(target, chunk, offset, holes)?;
            offset += chunk.len() as u64;
        }
    }
    Ok(written)
}

fn write_chunk(target: &File, chunk: &[u8], offset: u64, holes: Holes) -> io::Result<u64> {
    if holes == Holes::Keep {
        target.write_all_at(chunk, offset)?;
        return Ok(chunk.len() as u64);
    }
    let mut written = 0;
    let mut at = offset;
    // Neighbouring pages of one kind go together.
    for run in
        chunk.chunks(PAGE_BYTES).collect::<Vec<_>>().chunk_by(|one, other| is_zero(one) == is_zero(other))
    {
        let length: usize = run.iter().map(|page| page.len()).sum();
        if !run.first().is_some_and(|page| is_zero(page)) {
            let start = usize::try_from(at - offset).unwrap_or(usize::MAX);
            let bytes = chunk.get(start..start + length).ok_or(io::ErrorKind::InvalidInput)?;
            target.write_all_at(bytes, at)?;
            written += length as u64;
        }
        at += length as u64;
    }
    Ok(written)
}

fn is_zero(page: &[u8]) -> bool {
    // Compared with itself one byte on, which the compiler turns into memcmp.
    page.split_first().is_none_or(|(first, rest)| *first == 0 && page.starts_with(rest))
}

/// The next stretch that is no hole. A file system without holes calls everything data.
fn next_data(file: &File, from: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if from >= size {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(size))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const MIB: u64 = 1024 * 1024;

    /// 8 MiB: data at 1 MiB (with a page of zeros inside) and over the last bytes of an odd size.
    fn source() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * MIB + 123).unwrap();
        let mut data = vec![7; 3 * PAGE_BYTES];
        data[PAGE_BYTES..2 * PAGE_BYTES].fill(0);
        file.write_all_at(&data, MIB).unwrap();
        file.write_all_at(b"the end", 8 * MIB + 116).unwrap();
        file
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_copy_is_equal_and_as_sparse() {
        let (source, go) = (source(), AtomicBool::new(false));
        for (holes, most) in [(Holes::Keep, 5 * PAGE_BYTES), (Holes::Dig, 4 * PAGE_BYTES)] {
            let target = tempfile::tempfile().unwrap();
            let written = copy(&source, &target, holes, &go).unwrap();
            assert!(bytes(&source) == bytes(&target), "{holes:?}");
            assert!(written <= most as u64, "{holes:?}: {written}");
            assert!(target.metadata().unwrap().blocks() * 512 <= 64 * 1024);
        }
    }

    #[test]
    fn a_clone_is_equal_whatever_the_file_system() {
        let (source, target) = (source(), tempfile::tempfile().unwrap());
        clone_file(&source, &target, &AtomicBool::new(false)).unwrap();
        assert!(bytes(&source) == bytes(&target));
    }

    #[test]
    fn empty_and_all_hole_files_copy_to_their_size() {
        for size in [0, 5 * MIB] {
            let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            source.set_len(size).unwrap();
            assert_eq!(copy(&source, &target, Holes::Keep, &AtomicBool::new(false)).unwrap(), 0);
            assert_eq!(target.metadata().unwrap().len(), size);
        }
    }

    #[test]
    fn a_copy_that_nobody_wants_stops() {
        let stop = StopOnDrop::default();
        let flag = stop.flag();
        drop(stop);
        let error = copy(&source(), &tempfile::tempfile().unwrap(), Holes::Keep, &flag).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}
