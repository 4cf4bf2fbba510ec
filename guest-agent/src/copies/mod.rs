//! Fresh copies of the working tree and /tmp: what a command writes into one goes to a directory of its own on the
//! scratch disk, under the same quota, and is gone with it. The tree itself stays as it is.
//!
//! One overlay has both, so that one mount makes a copy and one look at one directory tells whether it was changed.

mod discard;

use std::{
    ffi::{CStr, CString, NulError},
    fs,
    io::{self, Write as _},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use hearth_schemas::guest::{GIVEN_DIR, messages::FaultKind};
use hearth_wire::{StreamError, StreamReceiver};
use rustix::{
    fs::{Mode, OFlags, RawDir, SeekFrom},
    io::Errno,
    mount::{MountFlags, mount, mount_bind, mount_remount},
};

use crate::boot;

/// Beneath the scratch disk: what jobs see as the working tree and as /tmp.
const TREE: &str = "tree";
pub(crate) const WORK: &str = "work";
pub(crate) const TMP: &str = "tmp";
/// Beneath the scratch disk: a directory for each copy.
const COPIES: &str = "copies";

const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOATIME);

/// Within a copy: what takes all that is written.
const UPPER: &str = "upper";
/// Within a copy: the files that only it shows.
const GIVEN: &str = "given";
/// `GIVEN_DIR`, for a system call.
const GIVEN_PATH: &CStr = c"/mnt";
const GIVEN_FLAGS: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC).union(MountFlags::RDONLY);
/// Enough for the entries of an empty directory and the first of another.
const ENTRY_BYTES: usize = 512;
const _: () = assert!(matches!(GIVEN_DIR.as_bytes(), b"/mnt"));

/// A copy could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error("fresh: this guest has no scratch disk to put a copy on")]
    NoDisk,
    #[error("making a copy of the working tree")]
    Make(#[from] io::Error),
    #[error("given: {name}")]
    Give { name: String, source: io::Error },
    #[error("given: {name} did not come")]
    Stream { name: String, source: StreamError },
    #[error("the path of a copy")]
    Path(#[from] NulError),
}

impl CopyError {
    pub(crate) fn kind(&self) -> FaultKind {
        match self {
            Self::NoDisk => FaultKind::Unsupported,
            Self::Give { source, .. } | Self::Make(source) if source.kind() == io::ErrorKind::StorageFull => {
                FaultKind::NoSpace
            }
            _ => FaultKind::Internal,
        }
    }
}

/// Where copies are made, once there is a scratch disk.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    scratch: std::sync::OnceLock<PathBuf>,
    next: AtomicU64,
}

/// A place for what one command writes. Nothing is mounted yet.
#[derive(Debug)]
pub(crate) struct Copy {
    directory: PathBuf,
    /// Where all that changes goes.
    upper: OwnedFd,
    paths: Paths,
    /// It has files of its own to show.
    gives: bool,
}

/// What the system calls need.
#[derive(Debug)]
struct Paths {
    options: CString,
    merged: CString,
    work: CString,
    tmp: CString,
    given: CString,
}

/// Where the working tree and /tmp are on a scratch disk that is mounted there.
pub(crate) fn places(scratch: &Path) -> (PathBuf, PathBuf) {
    let tree = scratch.join(TREE);
    (tree.join(WORK), tree.join(TMP))
}

/// Whether the kernel can overlay file systems.
pub(crate) fn kernel_has_overlay() -> bool {
    let kinds = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    kinds.lines().any(|line| line.split_whitespace().last() == Some("overlay"))
}

impl Copies {
    /// From here on there is a scratch disk, mounted at `scratch`.
    pub(crate) fn enable(&self, scratch: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(scratch.join(COPIES))?;
        let _ = self.scratch.set(scratch.to_owned());
        Ok(())
    }

    /// Whether copies can be made.
    pub(crate) fn enabled(&self) -> bool {
        self.scratch.get().is_some()
    }

    /// Makes place for a copy of the tree as it is now. Whoever changes the tree while it is used changes the copy.
    pub(crate) fn make(&self) -> Result<Copy, CopyError> {
        let scratch = self.scratch.get().ok_or(CopyError::NoDisk)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let directory = scratch.join(COPIES).join(number.to_string());
        let made = ["", UPPER, "work", "merged", GIVEN]
            .iter()
            .try_for_each(|name| fs::DirBuilder::new().mode(0o755).create(directory.join(name)));
        let copy = made.map_err(CopyError::from).and_then(|()| Copy::new(scratch, &directory));
        copy.inspect_err(|_| drop(fs::remove_dir_all(&directory)))
    }
}

impl Copy {
    /// Of directories that are there.
    fn new(scratch: &Path, directory: &Path) -> Result<Self, CopyError> {
        let c = |path: PathBuf| CString::new(path.as_os_str().as_bytes());
        let show = |path: PathBuf| path.display().to_string();
        // What is written is never synced: it does not outlive the machine, and not even the command.
        let options = CString::new(format!(
            "lowerdir={},upperdir={},workdir={},volatile,redirect_dir=on,index=off,metacopy=off,xino=off",
            show(scratch.join(TREE)),
            show(directory.join(UPPER)),
            show(directory.join("work")),
        ))?;
        let merged = directory.join("merged");
        let (work, tmp) = (c(merged.join(WORK))?, c(merged.join(TMP))?);
        let given = c(directory.join(GIVEN))?;
        let paths = Paths { options, merged: c(merged)?, work, tmp, given };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let upper = rustix::fs::open(directory.join(UPPER), flags, Mode::empty()).map_err(io::Error::from)?;
        Ok(Self { directory: directory.to_owned(), upper, paths, gives: false })
    }

    /// Shows the copy at /work and /tmp of this mount namespace. Only system calls.
    ///
    /// # Errors
    /// The step that failed, from 1, and why.
    pub(crate) fn enter(&self) -> Result<(), (u32, Errno)> {
        let Paths { options, merged, work, tmp, given } = &self.paths;
        mount(c"overlay", merged, c"overlay", FLAGS, options.as_c_str()).map_err(|errno| (1, errno))?;
        mount_bind(work, boot::WORK_DIR).map_err(|errno| (2, errno))?;
        mount_bind(tmp, boot::TMP_DIR).map_err(|errno| (3, errno))?;
        if !self.gives {
            return Ok(());
        }
        mount_bind(given, GIVEN_PATH).map_err(|errno| (4, errno))?;
        mount_remount(GIVEN_PATH, MountFlags::BIND | GIVEN_FLAGS, c"").map_err(|errno| (5, errno))
    }

    /// Whether nothing was ever changed in it. Whatever changes comes up into this directory, which no job can reach; its
    /// times say nothing, since the kernel sets them back.
    pub(crate) fn untouched(&self) -> bool {
        let mut space = [MaybeUninit::uninit(); ENTRY_BYTES];
        // From its beginning every time.
        if rustix::fs::seek(&self.upper, SeekFrom::Start(0)).is_err() {
            return false;
        }
        let mut entries = RawDir::new(&self.upper, &mut space);
        loop {
            match entries.next() {
                None => return true,
                Some(Ok(entry)) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Some(_) => return false,
            }
        }
    }

    /// Puts a file, as it comes, where only this copy shows it. The job may read it and no more.
    pub(crate) async fn give(&mut self, name: &str, mut content: StreamReceiver) -> Result<(), CopyError> {
        self.gives = true;
        let give = |source| CopyError::Give { name: name.to_owned(), source };
        let path = self.directory.join(GIVEN).join(name);
        let mut file = fs::File::create_new(path).map_err(give)?;
        let stream = |source| CopyError::Stream { name: name.to_owned(), source };
        while let Some(piece) = content.data().await.map_err(stream)? {
            // A piece at a time, into the page cache.
            file.write_all(&piece).map_err(give)?;
        }
        Ok(())
    }

    /// Removes all that was written. Everybody who had it mounted must be gone.
    pub(crate) async fn discard(self) {
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // The disk dies with the machine; until then what is left counts against the job.
        let _ = discard::remove(&self.directory);
    }
}
