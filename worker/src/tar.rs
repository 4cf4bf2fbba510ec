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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tar::{Builder, Header};

    use super::*;

    fn add(tar: &mut Builder<Vec<u8>>, name: &[u8], kind: EntryType, mode: u32, bytes: &[u8]) {
        let mut header = Header::new_gnu();
        // As no writer that means well would.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        tar.append(&header, bytes).unwrap();
    }

    fn files(names: &[&str]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        names.iter().for_each(|name| add(&mut tar, name.as_bytes(), EntryType::Regular, 0o644, b"x"));
        tar.into_inner().unwrap()
    }

    fn listed(archive: &[u8]) -> Result<Vec<TarEntry>, TarError> {
        list(Cursor::new(archive), archive.len() as u64)
    }

    fn said(archive: &[u8]) -> String {
        listed(archive).unwrap_err().to_string()
    }

    #[test]
    fn files_directories_and_the_executable_bit_are_all_there_is() {
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, b"./", EntryType::Directory, 0o755, b"");
        add(&mut tar, b"./d/", EntryType::Directory, 0o777, b"");
        add(&mut tar, b"./d/f", EntryType::Regular, 0o6755, b"hello");
        add(&mut tar, b"old/", EntryType::Regular, 0o644, b"");
        add(&mut tar, b"e", EntryType::Regular, 0o600, b"");
        let archive = tar.into_inner().unwrap();
        let entries = listed(&archive).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(names, ["d", "d/f", "old", "e"]);
        assert_eq!((entries[0].kind, entries[2].kind), (TarKind::Directory, TarKind::Directory));
        let TarKind::File { offset, size, executable } = entries[1].kind else { panic!("{entries:?}") };
        assert_eq!(&archive[offset as usize..(offset + size) as usize], b"hello");
        assert!(executable);
        assert!(matches!(entries[3].kind, TarKind::File { executable: false, size: 0, .. }));
        assert_eq!(listed(&[0; 1024]).unwrap(), [], "an empty archive is an empty directory");
    }

    #[test]
    fn long_names_come_in_both_dialects() {
        let name = format!("{}/{}", "a".repeat(150), "b".repeat(150));
        let mut tar = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        tar.append_data(&mut header, &name, &b"x"[..]).unwrap();
        assert_eq!(listed(&tar.into_inner().unwrap()).unwrap()[0].path, name);
        let mut tar = Builder::new(Vec::new());
        let record = format!(" path={name}\n");
        let record = format!("{}{record}", record.len() + 3);
        add(&mut tar, b"pax", EntryType::XHeader, 0, record.as_bytes());
        add(&mut tar, b"short", EntryType::Regular, 0, b"x");
        add(&mut tar, b"next", EntryType::Regular, 0, b"x");
        let entries = listed(&tar.into_inner().unwrap()).unwrap();
        assert_eq!((entries[0].path.as_str(), entries[1].path.as_str()), (name.as_str(), "next"));
    }

    #[test]
    fn what_is_neither_file_nor_directory_is_refused_by_name() {
        for (kind, what) in [
            (EntryType::Symlink, "a symbolic link"),
            (EntryType::Link, "a hard link"),
            (EntryType::Char, "a device"),
            (EntryType::Block, "a device"),
            (EntryType::Fifo, "a pipe"),
            (EntryType::GNUSparse, "a sparse file"),
            (EntryType::new(b'Z'), "neither"),
        ] {
            let mut tar = Builder::new(Vec::new());
            add(&mut tar, b"bad", kind, 0o777, b"");
            let said = said(&tar.into_inner().unwrap());
            assert!(said.starts_with("entry \"bad\" is ") && said.contains(what), "{said}");
        }
    }

    #[test]
    fn no_name_leads_out_or_is_there_twice() {
        for (names, what) in [
            (&["/etc/passwd"][..], "absolute"),
            (&["../x"], "`..`"),
            (&["a/../../x"], "`..`"),
            (&["./../x"], "`..`"),
            (&["a//b"], "empty component"),
            (&["././a"], "`.` as a component"),
            (&[""], "is empty"),
            (&["a", "b", "./a"], "is there twice"),
            (&["a/b", "a"], "is below a file"),
            (&["a", "a/b"], "is below a file"),
        ] {
            let said = said(&files(names));
            assert!(said.starts_with("entry ") && said.contains(what), "{names:?}: {said}");
        }
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, b"a\xff", EntryType::Regular, 0, b"");
        assert!(said(&tar.into_inner().unwrap()).contains("not UTF-8"));
    }

    #[test]
    fn nothing_in_an_archive_can_make_it_large() {
        let cut = files(&["a"]);
        let mut header = cut[..512].to_vec();
        // A terabyte, it says.
        header[124..136].copy_from_slice(b"17777777777\0");
        let mut claimed = Header::from_byte_slice(&header).clone();
        claimed.set_cksum();
        assert!(said(claimed.as_bytes()).contains("beyond the end of the archive"));
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, b"l", EntryType::GNULongName, 0, &vec![b'x'; 70_000]);
        assert!(said(&tar.into_inner().unwrap()).contains("70000 bytes; allowed are 0 to 65536"));
        for record in [&b"10 size=9\n"[..], b"22 GNU.sparse.major=1\n"] {
            let mut tar = Builder::new(Vec::new());
            add(&mut tar, b"pax", EntryType::XHeader, 0, record);
            add(&mut tar, b"f", EntryType::Regular, 0, b"");
            assert!(said(&tar.into_inner().unwrap()).starts_with("entry \"pax\""));
        }
        let names: Vec<String> = (0..=TAR_ENTRIES_MAX).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(said(&files(&names)).contains("more than 16384 entries"));
        assert!(said(b"no archive at all").contains("no tar archive") || listed(b"x").is_err());
        assert!(said(&[7; 4096]).contains("not compressed"));
    }
}
