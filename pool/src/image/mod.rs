//! Builds what a VM boots from: kernel, initramfs, root image and scratch template, each only when it is not there
//! already. Needs Debian's tools, root, and (only when something has to be installed) the host's Debian mirror.

mod apt;
mod command;
mod cpio;
mod digest;
mod elf;
mod initramfs;
mod kernel;
mod modules;
mod progress;
mod root;
mod scratch;
mod store;
mod tree;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hearth_schemas::manifest::SnapshotFile;
use serde::Serialize;

use self::store::{Store, Stored};
pub use self::{command::CommandError, elf::NotStatic, modules::NoSuchModule, progress::Progress};
use crate::runtime::Runtime;

/// Raise it when the same inputs must give another image.
const RECIPE_VERSION: u32 = 1;

/// How the agent is built; part of the error when it is absent.
const AGENT_HINT: &str = "build it with `make agent`";

/// One file that a VM boots from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Artefact {
    /// Where it is. The content at this path never changes.
    pub path: PathBuf,
    /// Its apparent size; disks are sparse.
    pub size_bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// All that a VM of one runtime boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The bzImage.
    pub kernel: Artefact,
    /// `uname -r` of the guest.
    pub kernel_version: String,
    /// cpio, uncompressed: `/init` is the agent, `/modules` what it loads.
    pub initramfs: Artefact,
    /// ext4, to be attached read-only and shared by all VMs.
    pub root: Artefact,
    /// ext4, empty, with user quotas: to be copied (sparse) for each VM.
    pub scratch: Artefact,
    /// SHA-256 over the runtime and the digests of all four files: changes when any of them does.
    pub inputs_sha256: String,
}

/// What to build, and where.
#[derive(Clone, Copy, Debug)]
pub struct ImageRequest<'a> {
    /// The data directory; everything goes to `images/` in it.
    pub data: &'a Path,
    /// The runtime.
    pub runtime: &'a Runtime,
    /// The guest agent's static binary.
    pub agent: &'a Path,
    /// Ask the mirror for a newer kernel and newer packages even if there is an image. What is replaced stays, since snapshots
    /// use it.
    pub refresh: bool,
}

/// An image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no agent to put into the initramfs.
    #[error("no guest agent at {}: {AGENT_HINT}", path.display())]
    NoAgent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// What was given as the agent cannot be `/init`.
    #[error("the guest agent at {} is {reason}: {AGENT_HINT}", path.display())]
    Agent {
        /// The file.
        path: PathBuf,
        /// What it is.
        reason: NotStatic,
    },
    /// A root image's files belong to root.
    #[error("building a root image needs root")]
    NotRoot,
    /// The host's apt knows no mirror of the guest's release.
    #[error(
        "apt on this host has no source of Debian {suite} (component main): add one to /etc/apt/sources.list.d"
    )]
    NoSources {
        /// The release.
        suite: &'static str,
    },
    /// A tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The kernel lacks something.
    #[error(transparent)]
    Module(#[from] NoSuchModule),
    /// The data directory's file system is too full to build on.
    #[error(
        "{} has {free_mib} MiB free, and building an image needs {needed_mib}: make room, or choose another data \
         directory (HEARTH_DATA)",
        path.display()
    )]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What must be.
        needed_mib: u64,
    },
    /// The file system said no.
    #[error("{}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The mirror's or a tool's answer is not what it always was.
    #[error("{0}")]
    Odd(String),
}

/// The agent to put into an initramfs.
struct Agent {
    path: PathBuf,
    sha256: String,
}

/// The image of a runtime, built as far as it is not there. With everything there, and without `refresh`, it neither
/// touches the network nor takes the lock. Two calls on one data directory, from whatever processes, wait for each other.
///
/// Cancel safe: tools that run are killed, and what was half built is removed at once or by the next call.
pub async fn build(request: &ImageRequest<'_>, progress: &dyn Progress) -> Result<Image, ImageError> {
    let agent = agent(request.agent).await?;
    // Tools run in directories of their own and are given paths.
    let store = Store::new(&std::path::absolute(request.data).map_err(at(request.data))?);
    if !request.refresh
        && let Some(image) = find(&store, request.runtime, &agent)
    {
        return Ok(image);
    }
    let locked = store.lock(progress).await?;
    let reuse = |kind, inputs| if request.refresh { None } else { store.find(kind, &inputs) };
    let mut sources = None;

    let kernel = match reuse(kernel::KIND, kernel::inputs()) {
        Some(kernel) => kernel,
        None => kernel::build(&locked, sources_once(&mut sources).await?, progress).await?,
    };
    let initramfs = initramfs::build(&locked, &kernel, &agent, progress).await?;
    let scratch = scratch::build(&locked, request.runtime.scratch_mib, progress).await?;
    let root = match reuse(root::KIND, root::inputs(request.runtime)) {
        Some(root) => root,
        None => root::build(&locked, request.runtime, sources_once(&mut sources).await?, progress).await?,
    };
    assemble(request.runtime, &kernel, &initramfs, &root, &scratch)
        .ok_or_else(|| ImageError::Odd("an artefact lacks its file".into()))
}

/// The image if all of it is there.
fn find(store: &Store, runtime: &Runtime, agent: &Agent) -> Option<Image> {
    let kernel = store.find(kernel::KIND, &kernel::inputs())?;
    let initramfs = store.find(initramfs::KIND, &initramfs::inputs(&kernel, agent))?;
    let root = store.find(root::KIND, &root::inputs(runtime))?;
    let scratch = store.find(scratch::KIND, &scratch::inputs(runtime.scratch_mib))?;
    assemble(runtime, &kernel, &initramfs, &root, &scratch)
}

async fn sources_once(sources: &mut Option<String>) -> Result<&str, ImageError> {
    if sources.is_none() {
        *sources = Some(apt::sources().await?);
    }
    Ok(sources.as_deref().unwrap_or_default())
}

async fn agent(path: &Path) -> Result<Agent, ImageError> {
    let path = path.to_owned();
    blocking(move || match fs::read(&path) {
        Ok(content) => match elf::check_static(&content) {
            Ok(()) => Ok(Agent { sha256: digest::bytes(&content), path }),
            Err(reason) => Err(ImageError::Agent { path, reason }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ImageError::NoAgent { path }),
        Err(error) => Err(at(&path)(error)),
    })
    .await
}

fn assemble(
    runtime: &Runtime,
    kernel: &Stored,
    initramfs: &Stored,
    root: &Stored,
    scratch: &Stored,
) -> Option<Image> {
    let mut image = Image {
        kernel: artefact(kernel, kernel::VMLINUZ)?,
        kernel_version: kernel.meta.facts.get(kernel::RELEASE)?.clone(),
        initramfs: artefact(initramfs, initramfs::FILE)?,
        root: artefact(root, root::FILE)?,
        scratch: artefact(scratch, scratch::FILE)?,
        inputs_sha256: String::new(),
    };
    let files =
        [&image.kernel, &image.initramfs, &image.root, &image.scratch].map(|file| file.sha256.as_str());
    image.inputs_sha256 = digest::of(&(runtime, files));
    Some(image)
}

fn artefact(stored: &Stored, name: &str) -> Option<Artefact> {
    let SnapshotFile { size_bytes, sha256, .. } = stored.meta.files.iter().find(|file| file.name == name)?;
    Some(Artefact { path: stored.dir.join(name), size_bytes: *size_bytes, sha256: sha256.clone() })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    |source| ImageError::Io { path, source }
}

/// Runs what blocks for long off the async threads. A cancelled caller does not stop it: it must own what it needs.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Odd(format!("a blocking task ended early: {error}"))),
    }
}
