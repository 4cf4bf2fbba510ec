//! Built artefacts by what they were built from.
//!
//! ```text
//! images/lock                          one builder at a time on this data directory
//! images/tmp-*                         being built; whatever a builder left is removed by the next one
//! images/log/                          what the tools printed
//! images/KIND-IDENTITY/                an artefact's files and its artefact.json; never changed once it is there
//! images/by-inputs/KIND-INPUTS         a symbolic link to the artefact that these inputs gave last
//! ```
//! Inputs are what is asked for (a recipe, a list of packages), facts what came of it (their versions). The identity is
//! a digest of both, so that asking again after an upgrade gives another artefact and leaves the one that snapshots use.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hearth_schemas::manifest::SnapshotFile;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{ImageError, at, digest, progress::Progress};

const META: &str = "artefact.json";
/// How often a builder looks whether the other one is done.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// Names of things and their values; sorted, so that the same content has the same digest.
pub(super) type Labels = BTreeMap<&'static str, String>;

/// `artefact.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub inputs: BTreeMap<String, String>,
    pub facts: BTreeMap<String, String>,
    pub files: Vec<SnapshotFile>,
}

/// An artefact that is there, complete.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub dir: PathBuf,
    pub meta: Meta,
}

/// The `images` directory of a data directory, to look things up in.
#[derive(Clone)]
pub(super) struct Store {
    root: PathBuf,
}

/// The same with the right to change it, which ends with the last clone or with the process.
#[derive(Clone)]
pub(super) struct Locked {
    store: Store,
    _file: Arc<fs::File>,
}

/// A directory inside the store that vanishes with this value, unless it was published.
pub(super) struct Temp {
    pub path: PathBuf,
}

impl Drop for Temp {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next builder.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Store {
    pub fn new(data: &Path) -> Self {
        Self { root: data.join("images") }
    }

    /// What these inputs gave last, if all of it is there.
    pub fn find(&self, kind: &str, inputs: &Labels) -> Option<Stored> {
        read(&fs::canonicalize(self.link(kind, inputs)).ok()?)
    }

    /// Waits until no other process builds here, then removes what a dead one left. Cancel safe.
    pub async fn lock(&self, progress: &dyn Progress) -> Result<Locked, ImageError> {
        let path = self.root.join("lock");
        fs::create_dir_all(self.root.join("by-inputs")).map_err(at(&self.root))?;
        fs::create_dir_all(self.root.join("log")).map_err(at(&self.root))?;
        let file = fs::File::create(&path).map_err(at(&path))?;
        let mut told = false;
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(at(&path)(error.into()));
            }
            if !told {
                progress.report("lock", "another bake is at work, waiting for it");
                told = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
        self.sweep().map_err(at(&self.root))?;
        Ok(Locked { store: self.clone(), _file: Arc::new(file) })
    }

    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b"tmp-") {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn link(&self, kind: &str, inputs: &Labels) -> PathBuf {
        self.root.join("by-inputs").join(format!("{kind}-{}", digest::short(&[inputs])))
    }
}

impl Locked {
    /// A new empty directory.
    pub fn temp(&self, kind: &str) -> Result<Temp, ImageError> {
        let path = self.store.root.join(format!("tmp-{kind}"));
        fs::create_dir(&path).map_err(at(&path))?;
        Ok(Temp { path })
    }

    /// Makes sure that this much is free.
    pub fn room(&self, needed_mib: u64) -> Result<(), ImageError> {
        let path = &self.store.root;
        let room = rustix::fs::statvfs(path).map_err(|errno| at(path)(errno.into()))?;
        let free_mib = room.f_bavail.saturating_mul(room.f_frsize) >> 20;
        if free_mib >= needed_mib {
            return Ok(());
        }
        Err(ImageError::NoRoom { path: path.clone(), free_mib, needed_mib })
    }

    /// Where a tool's output is kept.
    pub fn log(&self, name: &str) -> PathBuf {
        self.store.root.join("log").join(format!("{name}.log"))
    }

    /// The artefact of these inputs and facts, whoever asked for it, if all of it is there. The inputs lead to it from now on.
    pub fn adopt(&self, kind: &str, inputs: &Labels, facts: &Labels) -> Result<Option<Stored>, ImageError> {
        let found = read(&self.store.root.join(identity(kind, inputs, facts)));
        if let Some(stored) = &found {
            self.point(kind, inputs, &stored.dir)?;
        }
        Ok(found)
    }

    /// Makes what is in `built` the artefact of these inputs and facts: digests, `artefact.json`, one rename.
    /// Blocks on the file system.
    pub fn publish(
        &self,
        kind: &str,
        inputs: &Labels,
        facts: &Labels,
        built: &Temp,
    ) -> Result<Stored, ImageError> {
        let owned = |labels: &Labels| labels.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let files = digest::tree(&built.path).map_err(at(&built.path))?;
        let meta = Meta { inputs: owned(inputs), facts: owned(facts), files };
        let text = serde_json::to_vec_pretty(&meta).map_err(|e| at(&built.path)(e.into()))?;
        fs::write(built.path.join(META), text).map_err(at(&built.path))?;

        let dir = self.store.root.join(identity(kind, inputs, facts));
        if dir.exists() {
            // Reached only when it is damaged: an intact one was adopted.
            fs::remove_dir_all(&dir).map_err(at(&dir))?;
        }
        fs::rename(&built.path, &dir).map_err(at(&dir))?;
        self.point(kind, inputs, &dir)?;
        Ok(Stored { dir, meta })
    }

    fn point(&self, kind: &str, inputs: &Labels, dir: &Path) -> Result<(), ImageError> {
        let link = self.store.link(kind, inputs);
        let fresh = link.with_extension("new");
        let name = dir.file_name().unwrap_or_default();
        let _ = fs::remove_file(&fresh);
        symlink(Path::new("..").join(name), &fresh).map_err(at(&fresh))?;
        fs::rename(&fresh, &link).map_err(at(&link))
    }
}

fn identity(kind: &str, inputs: &Labels, facts: &Labels) -> String {
    format!("{kind}-{}", digest::short(&[inputs, facts]))
}

/// The artefact in `dir`, if every file of it is there in its full size.
fn read(dir: &Path) -> Option<Stored> {
    let meta: Meta = serde_json::from_slice(&fs::read(dir.join(META)).ok()?).ok()?;
    let whole =
        |file: &SnapshotFile| fs::metadata(dir.join(&file.name)).is_ok_and(|m| m.len() == file.size_bytes);
    meta.files.iter().all(whole).then(|| Stored { dir: dir.to_owned(), meta })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(value: &str) -> Labels {
        Labels::from([("version", value.to_owned())])
    }

    fn build(lock: &Locked, inputs: &Labels, facts: &Labels, content: &str) -> Stored {
        let temp = lock.temp("x").unwrap();
        fs::write(temp.path.join("file"), content).unwrap();
        lock.publish("x", inputs, facts, &temp).unwrap()
    }

    #[tokio::test]
    async fn what_was_published_is_found_until_a_file_of_it_is_cut() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::new(data.path());
        let lock = store.lock(&()).await.unwrap();
        let (inputs, facts) = (labels("any"), labels("1.0"));
        assert!(store.find("x", &inputs).is_none());
        let stored = build(&lock, &inputs, &facts, "content");
        assert_eq!(stored.meta.files.len(), 1);
        assert_eq!(store.find("x", &inputs).unwrap().meta, stored.meta);
        assert!(lock.adopt("x", &inputs, &labels("1.1")).unwrap().is_none());

        fs::write(stored.dir.join("file"), "cont").unwrap();
        assert!(store.find("x", &inputs).is_none());
        build(&lock, &inputs, &facts, "content");
        assert!(store.find("x", &inputs).is_some());
    }

    #[tokio::test]
    async fn too_little_room_is_said_with_both_numbers() {
        let data = tempfile::tempdir().unwrap();
        let lock = Store::new(data.path()).lock(&()).await.unwrap();
        lock.room(0).unwrap();
        let error = lock.room(u64::MAX).unwrap_err().to_string();
        assert!(error.contains(&format!("needs {}", u64::MAX)) && error.contains("HEARTH_DATA"), "{error}");
    }

    #[tokio::test]
    async fn new_facts_leave_the_old_artefact_and_lead_to_the_new_one() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::new(data.path());
        let lock = store.lock(&()).await.unwrap();
        let old = build(&lock, &labels("any"), &labels("1.0"), "old");
        let new = build(&lock, &labels("any"), &labels("1.1"), "new");
        assert_ne!(old.dir, new.dir);
        assert_eq!(fs::read_to_string(old.dir.join("file")).unwrap(), "old");
        let found = store.find("x", &labels("any")).unwrap();
        assert_eq!(fs::canonicalize(found.dir).unwrap(), fs::canonicalize(&new.dir).unwrap());
        lock.adopt("x", &labels("any"), &labels("1.0")).unwrap().unwrap();
        let found = store.find("x", &labels("any")).unwrap();
        assert_eq!(fs::read_to_string(found.dir.join("file")).unwrap(), "old");
    }

    #[tokio::test]
    async fn a_second_builder_waits_and_sweeps_what_the_first_left() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::new(data.path());
        let lock = store.lock(&()).await.unwrap();
        let temp = lock.temp("x").unwrap();
        let left = temp.path.clone();
        fs::write(left.join("half"), "").unwrap();
        std::mem::forget(temp);

        let other = Store::new(data.path());
        let mut waiting = std::pin::pin!(other.lock(&()));
        let early = tokio::time::timeout(LOCK_POLL * 2, &mut waiting).await;
        assert!(early.is_err(), "the lock is held");
        drop(lock);
        waiting.await.unwrap();
        assert!(!left.exists());
    }
}
