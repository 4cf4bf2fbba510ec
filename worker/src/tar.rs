//! What a tar archive would put into a working tree. Nothing is unpacked: the list says where in the archive each
//! file's bytes are. Pure, but for the reader.

use std::io::{self, Read, Seek};

use hearth_schemas::{
    limits::{PATH_MAX_BYTES, TAR_ENTRIES_MAX, TAR_NAMES_MAX_BYTES},
    paths::check_path,
};
use tar::{Archive, Entry, EntryType, PaxExtensions};

/// Bytes of one extended header, at most: a path and a few times.
const EXTENSION_MAX_BYTES: u64 = 64 * 1024;

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarEntry {
    /// Where it goes, relative to the archive's own directory, checked.
    pub path: String,
    /// What it is.
    pub kind: TarKind,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Where its bytes begin in the archive.
        offset: u64,
        /// How many they are.
        size: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
}

impl TarKind {
    /// How many bytes it brings.
    pub fn size(&self) -> u64 {
        match self {
            TarKind::Directory => 0,
            TarKind::File { size, .. } => *size,
        }
    }
}

/// Why an archive is not taken. Says which entry, and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Its bytes are no archive, or it cannot be read.
    #[error("is no tar archive that can be read ({0}); allowed is plain tar, not compressed")]
    Malformed(io::Error),
    /// One of its entries.
    #[error("entry {name:?} {what}")]
    Entry {
        /// Its name, shortened.
        name: String,
        /// What is wrong with it, and what is allowed.
        what: String,
    },
    /// Too many entries.
    #[error(
        "has more than {TAR_ENTRIES_MAX} entries, or more than {TAR_NAMES_MAX_BYTES} bytes of names; allowed is less"
    )]
    TooMany,
}

/// Lists an archive of so many bytes. Reads headers only, and holds the list.
///
/// # Errors
/// The first entry that is not allowed. The reader failed: `Malformed` with its error.
pub fn list(reader: impl Read + Seek, bytes: u64) -> Result<Vec<TarEntry>, TarError> {
    let mut archive = Archive::new(reader);
    let mut listing = Listing::default();
    let mut extended = Extended::default();
    // Raw: the library would read an extended header of any size into memory.
    for entry in archive.entries_with_seek().map_err(TarError::Malformed)?.raw(true) {
        let mut entry = entry.map_err(TarError::Malformed)?;
        if extended.take(&mut entry)? {
            continue;
        }
        listing.add(&entry, std::mem::take(&mut extended), bytes)?;
    }
    listing.finish()
}

/// What extended headers say of the entry that follows.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
}

impl Extended {
    /// Takes a header that is about the next entry; `false` when it is an entry of its own.
    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<bool, TarError> {
        let kind = entry.header().entry_type();
        let global = kind == EntryType::XGlobalHeader;
        match kind {
            EntryType::GNULongName => {
                let mut name = extension(entry)?;
                while name.last() == Some(&0) {
                    name.pop();
                }
                self.path = Some(name);
            }
            // The target of a link: the link itself is refused, by its own name.
            EntryType::GNULongLink => {}
            EntryType::XHeader | EntryType::XGlobalHeader => {
                let bytes = extension(entry)?;
                for record in PaxExtensions::new(&bytes) {
                    let record = record.map_err(TarError::Malformed)?;
                    match record.key_bytes() {
                        b"path" if !global => self.path = Some(record.value_bytes().to_vec()),
                        b"path" | b"size" => {
                            let what = "has an extended header with a size, or with one name for all that follow; \
                                        allowed is an extended header with the name of one entry";
                            return Err(refused(&entry.header().path_bytes(), what));
                        }
                        key if key.starts_with(b"GNU.sparse") => {
                            let what = "is a sparse file; allowed are regular files with all their bytes";
                            return Err(refused(&entry.header().path_bytes(), what));
                        }
                        _ => {}
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn extension<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, TarError> {
    if entry.size() > EXTENSION_MAX_BYTES {
        let what = format!(
            "has an extended header of {} bytes; allowed are 0 to {EXTENSION_MAX_BYTES}",
            entry.size()
        );
        return Err(refused(&entry.header().path_bytes(), &what));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(TarError::Malformed)?;
    Ok(bytes)
}

#[derive(Default)]
struct Listing {
    entries: Vec<TarEntry>,
    names_bytes: usize,
}

impl Listing {
    fn add<R: Read>(&mut self, entry: &Entry<'_, R>, extended: Extended, bytes: u64) -> Result<(), TarError> {
        let header = entry.header();
        let name = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = header.entry_type();
        // The oldest writers mark a directory by its name only.
        let directory = kind.is_dir() || (kind.is_file() && name.ends_with(b"/"));
        if !directory && !kind.is_file() {
            return Err(refused(
                &name,
                &format!("is {}; allowed are regular files and directories", called(kind)),
            ));
        }
        let Some(path) = plain(&name, directory)? else { return Ok(()) };
        let kind = match directory {
            true => TarKind::Directory,
            false => file(entry, &name, bytes)?,
        };
        self.names_bytes = self.names_bytes.saturating_add(path.len());
        if self.entries.len() >= TAR_ENTRIES_MAX || self.names_bytes > TAR_NAMES_MAX_BYTES {
            return Err(TarError::TooMany);
        }
        self.entries.push(TarEntry { path, kind });
        Ok(())
    }

    /// No entry in another's way.
    fn finish(self) -> Result<Vec<TarEntry>, TarError> {
        let mut sorted: Vec<&TarEntry> = self.entries.iter().collect();
        // By components, what is in a directory comes right after it.
        sorted.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
        for pair in sorted.windows(2) {
            let [upper, lower] = pair else { continue };
            let below = lower.path.strip_prefix(&upper.path);
            let what = match below {
                Some("") => "is there twice; allowed is a name once",
                Some(rest) if rest.starts_with('/') && upper.kind != TarKind::Directory => {
                    "is below a file; allowed is a directory there"
                }
                _ => continue,
            };
            return Err(refused(lower.path.as_bytes(), what));
        }
        Ok(self.entries)
    }
}

fn file<R: Read>(entry: &Entry<'_, R>, name: &[u8], bytes: u64) -> Result<TarKind, TarError> {
    let header = entry.header();
    let (offset, size) = (entry.raw_file_position(), header.entry_size().map_err(TarError::Malformed)?);
    if offset.checked_add(size).is_none_or(|end| end > bytes) {
        return Err(refused(name, "goes beyond the end of the archive; it was cut"));
    }
    let executable = header.mode().map_err(TarError::Malformed)? & 0o100 != 0;
    Ok(TarKind::File { offset, size, executable })
}

/// A name as a path; `None` for the archive's own directory.
fn plain(name: &[u8], directory: bool) -> Result<Option<String>, TarError> {
    let Ok(text) = std::str::from_utf8(name) else {
        return Err(refused(name, "has a name that is not UTF-8; allowed is UTF-8"));
    };
    let text = if directory { text.strip_suffix('/').unwrap_or(text) } else { text };
    if directory && text == "." {
        return Ok(None);
    }
    let text = text.strip_prefix("./").unwrap_or(text);
    check_path(text).map_err(|error| refused(name, &format!("is no path for it: {error}")))?;
    Ok(Some(text.to_owned()))
}

fn called(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink => "a symbolic link",
        EntryType::Link => "a hard link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a pipe",
        EntryType::GNUSparse => "a sparse file",
        _ => "neither a file nor a directory",
    }
}

fn refused(name: &[u8], what: &str) -> TarError {
    const SHOWN_CHARS: usize = 120;
    let name = String::from_utf8_lossy(name.get(..PATH_MAX_BYTES).unwrap_or(name));
    TarError::Entry { name: name.chars().take(SHOWN_CHARS).collect(), what: what.to_owned() }
}
