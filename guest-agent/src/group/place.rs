//! Where cgroups are made.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use hearth_schemas::limits::AGENT_RESERVE_MIB;

use super::{Bounds, Controllers, Group, GroupError, files};

const MIB: u64 = 1024 * 1024;
/// Where PID 1 mounts the hierarchy.
const MOUNT: &str = "/sys/fs/cgroup";
/// The agent's share of the CPU; a command's is the default, 100 (cgroup-v2: cpu.weight is 1 to 10000).
const AGENT_CPU_WEIGHT: &str = "10000";

/// Cgroups that are made ahead: as many as most jobs have commands.
const READY: usize = 192;
/// Cgroups of commands that are gone, which are left where they are: most machines end before there are so many. The kernel
/// takes longer to remove one than an agent to do all else for a command.
const SPENT_MAX: usize = 256;

/// Makes a cgroup for each command.
#[derive(Debug)]
pub(crate) struct Groups {
    parent: PathBuf,
    parent_dir: File,
    controllers: Controllers,
    next: AtomicU64,
    /// The names of some that were made before anybody needs them.
    ready: Mutex<Vec<String>>,
    /// How many of the dead may be left.
    spare: AtomicUsize,
    /// Whether `parent` is ours to remove.
    temporary: bool,
}

impl Groups {
    /// Divides the whole machine: `agent` for this process, with a reserve, and `jobs` for the rest of the memory.
    pub(crate) fn of_machine() -> Result<Self, GroupError> {
        let root = Path::new(MOUNT);
        let root_dir = files::open_dir(root)?;
        let available = files::open(&root_dir, "cgroup.controllers")?;
        let controllers = Controllers::parse(&files::read(std::os::fd::AsFd::as_fd(&available)));
        enable(root, controllers)?;
        let (agent, jobs) = (root.join("agent"), root.join("jobs"));
        files::make_dir(&agent)?;
        files::make_dir(&jobs)?;
        let (agent, jobs_dir) = (files::open_dir(&agent)?, files::open_dir(&jobs)?);
        files::write(&agent, "cgroup.procs", "0")?;
        if controllers.cpu {
            files::write(&agent, "cpu.weight", AGENT_CPU_WEIGHT)?;
        }
        if controllers.memory {
            files::write(&agent, "memory.min", &(AGENT_RESERVE_MIB * MIB).to_string())?;
            let total = rustix::system::sysinfo();
            let total_bytes = total.totalram.saturating_mul(total.mem_unit.into());
            files::write(&jobs_dir, "memory.max", &jobs_memory_bytes(total_bytes).to_string())?;
            without_swap(&jobs_dir);
        }
        if controllers.pids {
            let threads = std::fs::read_to_string("/proc/sys/kernel/threads-max").unwrap_or_default();
            files::write(&jobs_dir, "pids.max", &jobs_threads(&threads).to_string())?;
        }
        enable(&jobs, controllers)?;
        Ok(Self {
            parent: jobs,
            parent_dir: jobs_dir,
            controllers,
            next: AtomicU64::new(1),
            ready: Mutex::default(),
            spare: AtomicUsize::new(SPENT_MAX),
            temporary: false,
        })
    }

    /// A directory below this process's own cgroup, wherever it is mounted. Nothing outside of it is changed.
    pub(crate) fn on_host(name: &str) -> Result<Self, GroupError> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let base = own_cgroup(&mounts, &own).ok_or(GroupError::NoHierarchy)?;
        let parent = base.join(format!("{name}.{}", std::process::id()));
        files::make_dir(&parent)?;
        let dir = files::open_dir(&parent)?;
        let available = files::open(&dir, "cgroup.controllers")?;
        let controllers = Controllers::parse(&files::read(std::os::fd::AsFd::as_fd(&available)));
        enable(&parent, controllers)?;
        without_swap(&dir);
        Ok(Self {
            parent,
            parent_dir: dir,
            controllers,
            next: AtomicU64::new(1),
            ready: Mutex::default(),
            spare: AtomicUsize::new(0),
            temporary: true,
        })
    }

    /// In a cgroup that was made for this process and is removed after it.
    #[cfg(feature = "fakes")]
    pub(crate) fn in_given(parent: &Path) -> Result<Self, GroupError> {
        let dir = files::open_dir(parent)?;
        let available = files::open(&dir, "cgroup.controllers")?;
        let controllers = Controllers::parse(&files::read(std::os::fd::AsFd::as_fd(&available)));
        enable(parent, controllers)?;
        without_swap(&dir);
        Ok(Self {
            parent: parent.to_owned(),
            parent_dir: dir,
            controllers,
            next: AtomicU64::new(1),
            ready: Mutex::default(),
            spare: AtomicUsize::new(0),
            temporary: false,
        })
    }

    /// What a command can be limited with.
    pub(crate) fn controllers(&self) -> Controllers {
        self.controllers
    }

    /// A new, empty cgroup with these bounds.
    pub(crate) fn create(&self, bounds: &Bounds) -> Result<Group, GroupError> {
        let ready = self.ready().pop();
        let name = ready.map_or_else(|| self.make(), Ok)?;
        let dir = files::child_dir(&self.parent_dir, &name)?;
        Group::new(dir, &self.parent.join(name), self.controllers, bounds)
    }

    /// Removes one in which nothing is any more, now or with the machine. Cancel safe.
    pub(crate) async fn remove(&self, group: Group) {
        let take = |spare: usize| spare.checked_sub(1);
        match self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => group.leave(),
            Err(_) => group.remove().await,
        }
    }

    /// Makes cgroups for commands to come: in a snapshot they cost nobody any time.
    pub(crate) fn prepare(&self) -> Result<(), GroupError> {
        let mut ready = self.ready();
        while ready.len() < READY {
            ready.push(self.make()?);
        }
        Ok(())
    }

    fn ready(&self) -> MutexGuard<'_, Vec<String>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self) -> Result<String, GroupError> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        files::make_dir(&self.parent.join(&name))?;
        if self.controllers.memory {
            files::write(&self.parent_dir, &format!("{name}/memory.oom.group"), "1")?;
        }
        Ok(name)
    }

    /// Kills every command there is, and waits until all are gone.
    pub(crate) async fn kill_all(&self) -> Result<(), GroupError> {
        super::job::empty(&self.parent_dir).await
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir(&self.parent);
        }
    }
}

/// What is in this cgroup or below it is never swapped.
fn without_swap(dir: &std::fs::File) {
    // Absent on a kernel without swap or without the controller, which is as good.
    let _ = files::write(dir, "memory.swap.max", "0");
}

/// Lets the children of a cgroup be limited with these controllers.
fn enable(parent: &Path, controllers: Controllers) -> Result<(), GroupError> {
    let dir = files::open_dir(parent)?;
    for name in controllers.names() {
        files::write(&dir, "cgroup.subtree_control", &format!("+{name}"))?;
    }
    Ok(())
}

/// What all commands together may use of the machine's memory.
fn jobs_memory_bytes(total_bytes: u64) -> u64 {
    total_bytes.saturating_sub(AGENT_RESERVE_MIB * MIB).max(16 * MIB)
}

/// How many threads all commands together may have: the agent must always be able to make one more.
fn jobs_threads(threads_max: &str) -> u64 {
    (threads_max.trim().parse().unwrap_or(1024) / 2u64).max(64)
}

/// The directory of this process's cgroup in the first cgroup v2 mount.
fn own_cgroup(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = mountinfo.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let kind = rest.split_whitespace().next()?;
        (kind == "cgroup2").then(|| fields.split_whitespace().nth(4)).flatten()
    })?;
    Some(Path::new(mount).join(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_below_the_first_v2_mount() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 30 0:28 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n\
                      40 30 0:40 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(own_cgroup(mounts, "4:memory:/x\n0::/\n"), Some("/sys/fs/cgroup/unified/".into()));
        assert_eq!(own_cgroup(mounts, "0::/a/b\n"), Some("/sys/fs/cgroup/unified/a/b".into()));
        assert_eq!(own_cgroup(mounts, "4:memory:/x\n"), None);
        assert_eq!(own_cgroup("", "0::/\n"), None);
    }

    #[test]
    fn the_agent_keeps_its_reserve_of_any_machine() {
        assert_eq!(jobs_memory_bytes(384 * MIB), 320 * MIB);
        assert_eq!(jobs_memory_bytes(10 * MIB), 16 * MIB);
        assert_eq!(jobs_threads("2850\n"), 1425);
        assert_eq!(jobs_threads("?"), 512);
    }
}
