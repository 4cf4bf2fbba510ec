//! Making a new snapshot the current one, and removing the old ones.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use hearth_schemas::manifest::{Manifest, SnapshotFile};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use tokio::time::sleep;

use super::{MANIFEST, MEMORY, ROOT, SCRATCH, STATE, SnapshotStore, digest::sha256_file};
use crate::image::{Image, Progress};

/// How often a bake looks whether the other one is done.
const LOCK_POLL: Duration = Duration::from_millis(200);
/// Characters of the inputs' digest that name a snapshot's directory.
const NAME_DIGITS: usize = 16;

/// A snapshot could not be put in place.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub struct PublishError {
    /// What was being done.
    what: &'static str,
    /// To what.
    path: PathBuf,
    /// Why not.
    #[source]
    source: io::Error,
}

/// A directory that becomes a snapshot, or nothing: dropped, it is removed. Holds the lock on bakes of its runtime.
#[derive(Debug)]
pub struct Draft {
    store: SnapshotStore,
    runtime: String,
    directory: PathBuf,
    _lock: File,
}

impl SnapshotStore {
    /// Starts a new snapshot of a runtime, or returns `None` while somebody else bakes it. Removes what dead bakes left.
    pub fn draft(&self, runtime: &str) -> Result<Option<Draft>, PublishError> {
        let parent = self.of_runtime(runtime);
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| PublishError { what, path, source }
        };
        fs::create_dir_all(&parent).map_err(failed("make", &parent))?;
        let lock_path = parent.join("bake.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed("open", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(failed("lock", &lock_path)(errno.into())),
        }
        remove_drafts(&parent).map_err(failed("clear", &parent))?;
        let directory = parent.join(format!(".new-{}", std::process::id()));
        fs::create_dir(&directory).map_err(failed("make", &directory))?;
        Ok(Some(Draft { store: self.clone(), runtime: runtime.to_owned(), directory, _lock: lock }))
    }
}

impl SnapshotStore {
    /// Starts a new snapshot of a runtime when no other bake of it is at work any more. Cancel safe.
    pub async fn wait_for_draft(
        &self,
        runtime: &str,
        progress: &dyn Progress,
    ) -> Result<Draft, PublishError> {
        let mut told = false;
        loop {
            if let Some(draft) = self.draft(runtime)? {
                return Ok(draft);
            }
            if !told {
                progress.report("lock", "another bake of this runtime is at work, waiting for it");
                told = true;
            }
            sleep(LOCK_POLL).await;
        }
    }
}

impl Draft {
    /// Where the files go.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the manifest says of a file here. `sha256` where it is known already. Blocks.
    pub fn describe(&self, name: &str, sha256: Option<String>) -> Result<SnapshotFile, PublishError> {
        let path = self.directory.join(name);
        let described = fs::metadata(&path).and_then(|metadata| {
            let sha256 = sha256.map_or_else(|| sha256_file(&path), Ok)?;
            Ok(SnapshotFile { name: name.to_owned(), size_bytes: metadata.len(), sha256 })
        });
        described.map_err(|source| PublishError { what: "read", path, source })
    }

    /// As [`Self::publish`], with the image's root disk, which never changes and is linked, and with every file described.
    pub fn publish_image(self, manifest: &Manifest, image: &Image) -> Result<PathBuf, PublishError> {
        let path = self.directory.join(ROOT);
        let linked = fs::hard_link(&image.root.path, &path);
        linked.map_err(|source| PublishError { what: "link a disk to", path, source })?;
        let known = [(MEMORY, None), (STATE, None), (SCRATCH, None), (ROOT, Some(image.root.sha256.clone()))];
        let files: Result<_, _> =
            known.into_iter().map(|(name, sha256)| self.describe(name, sha256)).collect();
        self.publish(&Manifest { files: files?, ..manifest.clone() })
    }

    /// Makes this the runtime's current snapshot, all at once, and removes those that nobody uses. Blocks.
    pub fn publish(self, manifest: &Manifest) -> Result<PathBuf, PublishError> {
        let parent = self.store.of_runtime(&self.runtime);
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| PublishError { what, path, source }
        };
        write_manifest(&self.directory, manifest).map_err(failed("write", &self.directory))?;
        let name = free_name(&parent, &manifest.inputs_sha256);
        let target = parent.join(&name);
        fs::rename(&self.directory, &target).map_err(failed("rename to", &target))?;
        point(&parent, &name).map_err(failed("point to", &target))?;
        remove_unused(&parent, &name).map_err(failed("clear", &parent))?;
        Ok(target)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Published, it is no longer there. What cannot be removed now is removed by the next draft.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Writes the manifest, makes every file read only, and waits until all of it is on disk: a snapshot that a power cut
/// left half written must not be current.
fn write_manifest(directory: &Path, manifest: &Manifest) -> io::Result<()> {
    fs::write(directory.join(MANIFEST), serde_json::to_vec_pretty(manifest)?)?;
    for entry in fs::read_dir(directory)? {
        let file = File::open(entry?.path())?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        file.sync_all()?;
    }
    File::open(directory)?.sync_all()
}

/// A directory that is in use cannot be replaced, so the same inputs baked again get another name.
fn free_name(parent: &Path, inputs_sha256: &str) -> String {
    let digits: String = inputs_sha256.chars().take(NAME_DIGITS).collect();
    let names = (0_u32..).map(|n| if n == 0 { digits.clone() } else { format!("{digits}-{n}") });
    names.into_iter().find(|name| !parent.join(name).exists()).unwrap_or(digits.clone())
}

fn point(parent: &Path, name: &str) -> io::Result<()> {
    let link = parent.join(".current.new");
    let _ = fs::remove_file(&link);
    symlink(name, &link)?;
    fs::rename(link, parent.join("current"))?;
    File::open(parent)?.sync_all()
}

fn remove_drafts(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".new-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn remove_unused(parent: &Path, current: &str) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || entry.file_name() == current {
            continue;
        }
        remove_if_unused(&entry.path())?;
    }
    Ok(())
}

fn remove_if_unused(directory: &Path) -> io::Result<()> {
    match File::open(directory.join(MANIFEST)) {
        Ok(manifest) => remove_unlocked(&manifest, directory).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_dir_all(directory),
        Err(error) => Err(error),
    }
}

/// Removes a snapshot unless another than this open manifest locks it. Whatever lock this one had is given up for that. Says
/// whether it is gone.
pub(super) fn remove_unlocked(manifest: &File, directory: &Path) -> io::Result<bool> {
    if flock(manifest, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    // The manifest first, under the lock: who waits for the lock then sees that the snapshot is gone.
    match fs::remove_file(directory.join(MANIFEST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        removed => removed?,
    }
    fs::remove_dir_all(directory)?;
    Ok(true)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
