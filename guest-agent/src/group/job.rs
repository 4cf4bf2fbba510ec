//! The cgroup of one command: its bounds, what it used, and its end.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Bounds, Controllers, GroupError, files};

/// How long to wait before looking again whether a killed cgroup is empty: at first, and at most.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// How often to try to remove an empty cgroup: the kernel may still hold it for a moment.
const REMOVE_TRIES: u32 = 100;
/// Largest value that `pids.max` takes (include/linux/threads.h: PID_MAX_LIMIT on 64 bits).
const PIDS_MAX: u64 = 4 * 1024 * 1024;

/// A cgroup, and the files of it that are read again and again.
#[derive(Debug)]
pub(crate) struct Group {
    /// `None` once it was removed.
    path: Option<PathBuf>,
    dir: File,
    cpu: File,
    memory: Option<Counter>,
    pids: Option<Counter>,
    /// Most processes that it may have.
    processes: Option<u64>,
}

/// A file of counters that is opened when it is needed, and stays open.
#[derive(Debug)]
struct Counter {
    name: &'static str,
    file: OnceLock<Option<File>>,
}

impl Counter {
    fn new(name: &'static str) -> Self {
        Self { name, file: OnceLock::new() }
    }

    /// 0 when it cannot be read.
    fn value(&self, dir: &File, key: &str) -> u64 {
        let file = self.file.get_or_init(|| files::open(dir, self.name).ok());
        file.as_ref().and_then(|file| files::value_of(&files::read(file.as_fd()), key)).unwrap_or(0)
    }
}

/// What the kernel has counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// User time, in microseconds.
    pub(crate) user_us: u64,
    /// System time, in microseconds.
    pub(crate) system_us: u64,
    /// Processes that the OOM killer ended.
    pub(crate) oom_kills: u64,
    /// Forks that `pids.max` refused.
    pub(crate) forks_refused: u64,
}

/// What a command and all that it started have used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Total {
    pub(crate) counted: Counted,
    /// In bytes, where the kernel counts it.
    pub(crate) memory_peak_bytes: Option<u64>,
    /// Processes and threads at once, where the kernel counts them.
    pub(crate) processes_peak: Option<u64>,
}

impl Group {
    /// Of a directory `dir` that is there, at `path`. Nothing of it is left when this fails.
    pub(super) fn new(
        dir: File,
        path: &Path,
        controllers: Controllers,
        bounds: &Bounds,
    ) -> Result<Self, GroupError> {
        Self::open(dir, path, controllers, bounds).inspect_err(|_| drop(std::fs::remove_dir(path)))
    }

    fn open(dir: File, path: &Path, controllers: Controllers, bounds: &Bounds) -> Result<Self, GroupError> {
        if let Some(bytes) = bounds.memory_bytes {
            files::write(&dir, "memory.max", &bytes.to_string())?;
        }
        if let Some(processes) = bounds.processes {
            files::write(&dir, "pids.max", &processes.min(PIDS_MAX).to_string())?;
        }
        Ok(Self {
            path: Some(path.to_owned()),
            cpu: files::open(&dir, "cpu.stat")?,
            memory: controllers.memory.then(|| Counter::new("memory.events")),
            pids: controllers.pids.then(|| Counter::new("pids.events")),
            processes: bounds.processes,
            dir,
        })
    }

    /// Its directory, to start a process in.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The list of its processes, which one joins by writing 0 to it.
    pub(crate) fn processes(&self) -> Result<OwnedFd, GroupError> {
        files::open_to_write(&self.dir, "cgroup.procs")
    }

    /// Reads the counters.
    pub(crate) fn counted(&self) -> Counted {
        Counted { oom_kills: self.oom_kills(), forks_refused: self.forks_refused(), ..self.time() }
    }

    /// Reads all that there is to know of it, when nothing is in it any more. `killed`: its command ended by SIGKILL.
    pub(crate) fn total(&self, killed: bool) -> Total {
        let processes_peak = self.pids.as_ref().and_then(|_| self.single("pids.peak"));
        let full = self.processes.is_some_and(|most| processes_peak.is_none_or(|peak| peak >= most));
        let counted = Counted {
            // The killer ends all of a cgroup (`memory.oom.group`), and so its command.
            oom_kills: if killed { self.oom_kills() } else { 0 },
            // A fork is refused when there are as many as may be.
            forks_refused: if full { self.forks_refused() } else { 0 },
            ..self.time()
        };
        let memory_peak_bytes = self.memory.as_ref().and_then(|_| self.single("memory.peak"));
        Total { counted, memory_peak_bytes, processes_peak }
    }

    fn time(&self) -> Counted {
        let cpu = files::read(self.cpu.as_fd());
        Counted {
            user_us: files::value_of(&cpu, "user_usec").unwrap_or(0),
            system_us: files::value_of(&cpu, "system_usec").unwrap_or(0),
            ..Counted::default()
        }
    }

    fn oom_kills(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.value(&self.dir, "oom_kill"))
    }

    fn forks_refused(&self) -> u64 {
        self.pids.as_ref().map_or(0, |pids| pids.value(&self.dir, "max"))
    }

    fn single(&self, name: &str) -> Option<u64> {
        files::read(files::open(&self.dir, name).ok()?.as_fd()).trim().parse().ok()
    }

    /// Kills every process in it, also those that are being forked just now. Does not wait.
    pub(crate) fn kill(&self) {
        kill(&self.dir);
    }

    /// Kills every process in it and waits until none is left. Cancel safe.
    pub(crate) async fn empty(&self) -> Result<(), GroupError> {
        empty(&self.dir).await
    }

    /// Lets go of it, and leaves it where it is.
    pub(super) fn leave(mut self) {
        self.path = None;
    }

    /// Removes it. It must be empty. Cancel safe.
    pub(super) async fn remove(mut self) {
        for _ in 0..REMOVE_TRIES {
            if self.path.as_ref().is_none_or(|path| std::fs::remove_dir(path).is_ok()) {
                self.path = None;
                return;
            }
            tokio::time::sleep(LOOK_AGAIN.1).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // The agent is about to end.
            let _ = std::fs::remove_dir(path);
        }
    }
}

fn kill(dir: &File) {
    if files::write(dir, "cgroup.kill", "1").is_err() {
        kill_each(dir);
    }
}

/// Before Linux 5.14: one by one. A tree that forks faster than this is killed by a later round.
fn kill_each(dir: &File) {
    let Ok(list) = files::open(dir, "cgroup.procs") else { return };
    let pids = files::read(list.as_fd());
    for pid in pids.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Kills what is in a cgroup and below it until nothing is left.
pub(super) async fn empty(dir: &File) -> Result<(), GroupError> {
    let events = files::open(dir, "cgroup.events")?;
    let (mut pause, longest) = LOOK_AGAIN;
    while files::value_of(&files::read(events.as_fd()), "populated").is_some_and(|populated| populated != 0) {
        kill(dir);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Groups;

    #[tokio::test]
    async fn without_a_kill_file_processes_are_killed_one_by_one() {
        let groups = Groups::on_host("hearth-kill-test").unwrap();
        let group = groups.create(&Bounds::default()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        files::write(group.dir(), "cgroup.procs", &child.id().to_string()).unwrap();
        kill_each(&group.dir);
        // The cgroup tells of its end; another test's reaper may have been told by the kernel.
        let events = files::open(&group.dir, "cgroup.events").unwrap();
        let empty = async {
            while files::value_of(&files::read(events.as_fd()), "populated") != Some(0) {
                tokio::time::sleep(LOOK_AGAIN.0).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), empty).await.expect("it is killed");
        let _ = child.wait();
        let path = group.path.clone().unwrap();
        group.remove().await;
        assert!(!path.exists());
    }
}
