//! The files of a VM, copied plainly.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::PathBuf,
};

use rustix::{
    fs::{Mode, OFlags, SeekFrom, ioctl_ficlone, openat, seek},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    },
};

const CHUNK_BYTES: usize = 1 << 20;

/// Where memory is fastest to fill: a tmpfs with huge pages, if this user may make one, or else /dev/shm. A floor in
/// slower memory would flatter us.
pub(super) struct Memory(Option<OwnedFd>);

impl Memory {
    pub(super) fn best() -> Self {
        Self(huge_tmpfs().ok())
    }

    /// An empty file of this size without a name.
    pub(super) fn create(&self, bytes: u64) -> io::Result<File> {
        let file = match &self.0 {
            Some(mount) => {
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                File::from(openat(mount, c".", flags, Mode::RUSR | Mode::WUSR)?)
            }
            None => tempfile::tempfile_in("/dev/shm")?,
        };
        file.set_len(bytes)?;
        Ok(file)
    }
}

fn huge_tmpfs() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "size", "80%")?;
    fsconfig_set_string(&context, "huge", "within_size")?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// How a child opens a file that this process has open.
pub(super) fn path(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Copies each source to its target, without the holes.
pub(super) fn copy_all(pairs: Vec<(PathBuf, File)>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    for (source, target) in pairs {
        let source = File::open(source)?;
        if ioctl_ficlone(&target, &source).is_err() {
            copy(&source, &target, &mut buffer)?;
        }
    }
    Ok(())
}

fn copy(source: &File, target: &File, buffer: &mut [u8]) -> io::Result<()> {
    let mut offset = 0;
    while let Ok(start) = seek(source, SeekFrom::Data(offset)) {
        let end = seek(source, SeekFrom::Hole(start))?;
        offset = start;
        while offset < end {
            let wanted = usize::try_from(end - offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let chunk = buffer.get_mut(..wanted).unwrap_or_default();
            source.read_exact_at(chunk, offset)?;
            target.write_all_at(chunk, offset)?;
            offset += wanted as u64;
        }
    }
    Ok(())
}
