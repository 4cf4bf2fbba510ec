//! Writes a cpio archive in the `newc` format, which the kernel unpacks as an initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Same entries, same bytes.

use std::io::{self, Write};

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;
const TRAILER: &str = "TRAILER!!!";

/// An archive being written to `out`. [`Archive::finish`] must be called.
pub(super) struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// A directory; `name` has no leading slash.
    pub fn dir(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, S_IFDIR | 0o755, (0, 0), &[])
    }

    /// A regular file.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, S_IFREG | permissions, (0, 0), content)
    }

    /// A character device.
    pub fn char_device(&mut self, name: &str, permissions: u32, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, S_IFCHR | permissions, (major, minor), &[])
    }

    /// Writes the trailer and returns the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, rdev: (u32, u32), content: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::new(io::ErrorKind::FileTooLarge, name.to_owned());
        let size = u32::try_from(content.len()).map_err(too_long)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
        self.entries += 1;
        let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device, device of the node, length of the name, checksum (unused)
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, rdev.0, rdev.1, name_size, 0];
        let mut header = String::from("070701");
        fields.iter().for_each(|field| header.push_str(&format!("{field:08X}")));
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(header.len() + name.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// Header with name, and content, are each padded to four bytes.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all([0; 3].get(..written.next_multiple_of(4) - written).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.dir("modules").unwrap();
        archive.file("modules/00-a.ko", 0o644, b"12345").unwrap();
        archive.char_device("console", 0o600, 5, 1).unwrap();
        archive.file("init", 0o755, &[7; 4096]).unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn every_part_is_aligned_and_the_archive_is_the_same_each_time() {
        let bytes = sample();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes, sample());
        assert!(bytes.starts_with(b"07070100000001000041ED"));
    }

    #[test]
    fn cpio_lists_what_was_written() {
        let listing = Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = listing else {
            println!("SKIPPED: cpio is not installed");
            return;
        };
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let modes: Vec<_> = lines.iter().map(|line| (line[0], *line.last().unwrap())).collect();
        assert_eq!(
            modes,
            [
                ("drwxr-xr-x", "modules"),
                ("-rw-r--r--", "modules/00-a.ko"),
                ("crw-------", "console"),
                ("-rwxr-xr-x", "init"),
            ]
        );
        assert_eq!(lines[3][4], "4096");
    }
}
