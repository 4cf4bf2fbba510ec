//! The control group (version 2) of a VM: what it may take of the host.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The controllers that [`Group::limits`] belong to, as `cgroup.subtree_control` takes them.
const CONTROLLERS: &str = "+memory +pids";

/// A group with its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Where the hierarchy is mounted.
    pub root: PathBuf,
    /// Its directory, somewhere below that.
    pub path: PathBuf,
    /// Files of it, and what is written to them.
    pub limits: Vec<(&'static str, u64)>,
}

impl Group {
    /// Sets the limits of the group, which is there. Blocks for a short time.
    pub fn limit(&self) -> io::Result<()> {
        match self.write() {
            // The controllers are not on below the root: so it is once, after the host has booted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.enable()?;
                self.write()
            }
            written => written,
        }
    }

    fn write(&self) -> io::Result<()> {
        self.limits.iter().try_for_each(|(name, value)| set(&self.path.join(name), &value.to_string()))
    }

    /// In every group above, from the root on.
    fn enable(&self) -> io::Result<()> {
        let mut above: Vec<_> =
            self.path.ancestors().skip(1).take_while(|path| path.starts_with(&self.root)).collect();
        above.reverse();
        above.iter().try_for_each(|group| set(&group.join("cgroup.subtree_control"), CONTROLLERS))
    }
}

/// Writes to a file that is there. The error names it.
fn set(path: &Path, value: &str) -> io::Result<()> {
    let written =
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| io::Error::new(error.kind(), format!("set {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn group(root: &Path) -> Group {
        let path = root.join("hearth/vm");
        fs::create_dir_all(&path).unwrap();
        Group { root: root.to_owned(), path, limits: vec![("memory.max", 7), ("pids.max", 9)] }
    }

    #[test]
    fn limits_are_set_and_nothing_else_is_touched_where_the_controllers_are_on() {
        let root = tempfile::tempdir().unwrap();
        let group = group(root.path());
        for (name, _) in &group.limits {
            fs::write(group.path.join(name), "").unwrap();
        }
        group.limit().unwrap();
        let read = |name: &str| fs::read_to_string(group.path.join(name)).unwrap();
        assert_eq!((read("memory.max").as_str(), read("pids.max").as_str()), ("7", "9"));
    }

    #[test]
    fn what_the_host_has_not_is_named() {
        let root = tempfile::tempdir().unwrap();
        let group = group(root.path());
        let subtree = |path: &Path| path.join("cgroup.subtree_control");
        for above in [root.path(), &root.path().join("hearth")] {
            fs::write(subtree(above), "").unwrap();
        }
        let why = group.limit().unwrap_err().to_string();
        assert!(why.contains("hearth/vm/memory.max"), "{why}");
        for above in [root.path(), &root.path().join("hearth")] {
            assert_eq!(fs::read_to_string(subtree(above)).unwrap(), CONTROLLERS);
        }
        assert!(!subtree(&group.path).exists(), "it has none below it");
    }
}
