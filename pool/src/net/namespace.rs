//! A network namespace that is only a descriptor.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, which lives at least as long as this. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<OwnedFd>);

impl Namespace {
    /// The caller's.
    pub fn own() -> io::Result<Self> {
        Ok(Self(Arc::new(File::open(OWN)?.into())))
    }

    /// A new one, with nothing but a loopback that is down. Needs CAP_SYS_ADMIN.
    pub fn new() -> io::Result<Self> {
        apart(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::own()
        })
    }

    /// Does `work` in it, in a thread of its own that ends with the work: what that starts is in it too, and the caller stays
    /// where it is. Blocks.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        apart(|| {
            setns(&*self.0, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// A path that leads there as long as this lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.descriptor()).into()
    }

    pub(super) fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|threads| {
        let thread = thread::Builder::new().spawn_scoped(threads, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}
