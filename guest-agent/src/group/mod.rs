//! cgroups (v2): one for the agent, one for each command.

mod files;
mod job;
mod place;

pub(crate) use job::{Counted, Group, Total};
pub(crate) use place::Groups;

use rustix::io::Errno;

/// The controllers that a command can be limited with here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Controllers {
    /// `cpu`: shares only; CPU time is counted for every cgroup without it.
    pub(crate) cpu: bool,
    /// `memory`.
    pub(crate) memory: bool,
    /// `pids`.
    pub(crate) pids: bool,
}

impl Controllers {
    /// Reads a `cgroup.controllers` file.
    fn parse(text: &str) -> Self {
        let has = |name| text.split_whitespace().any(|word| word == name);
        Self { cpu: has("cpu"), memory: has("memory"), pids: has("pids") }
    }

    /// Their names.
    pub(crate) fn names(self) -> Vec<String> {
        let all = [("cpu", self.cpu), ("memory", self.memory), ("pids", self.pids)];
        all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name.to_owned()).collect()
    }
}

/// What a limit asks of a command's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// `memory.max`, in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// `pids.max`.
    pub(crate) processes: Option<u64>,
}

/// A cgroup file that could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    /// There is no cgroup v2 mount, or this process is in none of its cgroups.
    #[error("no cgroup v2 hierarchy is mounted")]
    NoHierarchy,
    /// A file or directory of the hierarchy.
    #[error("cgroup file {file}")]
    File {
        /// Its path or name.
        file: String,
        /// Why.
        source: Errno,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_whole_words() {
        let some = Controllers::parse("cpuset cpu io pids\n");
        assert_eq!(some, Controllers { cpu: true, memory: false, pids: true });
        assert_eq!(some.names(), ["cpu", "pids"]);
        assert_eq!(Controllers::parse("cpuset\n"), Controllers::default());
    }
}
