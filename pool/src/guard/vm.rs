//! One VM as the guard sees it: a lock, directories, processes.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    process::Child,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    lock::CidLock,
    log::Log,
    owner::{Owner, remove_directories},
    process::ProcessId,
    protocol::{OpenVm, Refusal},
    spawn::spawn,
    vms_directory,
};

/// What the guard knows about itself.
#[derive(Debug)]
pub struct Host {
    /// Directory of VMs and locks.
    pub run_dir: PathBuf,
    /// The worker that it guards.
    pub worker: String,
    /// The guard.
    pub guard: ProcessId,
    /// This boot.
    pub boot_id: String,
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Readable when the child has ended.
    pub pidfd: OwnedFd,
}

/// An open VM.
#[derive(Debug)]
pub struct GuardedVm {
    /// Its directory.
    pub directory: PathBuf,
    /// Its children that have not been reaped.
    pub processes: Vec<Process>,
    /// What they print, as long as one of them may.
    pub logs: Vec<Log>,
    /// Calls that wait for its end.
    pub ending: Option<Vec<u64>>,
    owner: Owner,
    lock: CidLock,
}

impl GuardedVm {
    /// Takes the lock, then makes the directories, the record first. What fails half way is undone.
    pub fn open(host: &Host, open: &OpenVm) -> Result<Self, Refusal> {
        if open.directory.contains('/') || open.directory.is_empty() || open.directory.starts_with('.') {
            return Err(Refusal::Order(format!("{:?} is no name for a directory", open.directory)));
        }
        let lock = CidLock::take(&host.run_dir, open.cid)
            .map_err(|error| Refusal::Host(format!("lock of CID {}: {error}", open.cid)))?
            .ok_or(Refusal::IdentityBusy)?;
        let owner = Owner {
            worker: host.worker.clone(),
            guard: host.guard,
            boot_id: host.boot_id.clone(),
            cid: open.cid,
            also: open.also.clone(),
            processes: Vec::new(),
        };
        let directory = vms_directory(&host.run_dir).join(&open.directory);
        make_directories(&directory, &owner).map_err(Refusal::Host)?;
        Ok(Self { directory, processes: Vec::new(), logs: Vec::new(), ending: None, owner, lock })
    }

    /// Starts a process and records it.
    pub fn spawn(&mut self, argv: &[String], log: &str, group: Option<&Path>) -> Result<u32, Refusal> {
        if self.ending.is_some() {
            return Err(Refusal::Order("the VM is ending".to_owned()));
        }
        let name = argv.first().map_or("", String::as_str);
        self.try_spawn(argv, log, group).map_err(|error| Refusal::Host(format!("start {name}: {error}")))
    }

    fn try_spawn(&mut self, argv: &[String], log: &str, group: Option<&Path>) -> io::Result<u32> {
        let (log, output) = Log::create(&self.directory.join(log))?;
        let mut child = spawn(argv, &self.directory, output, self.lock.for_child()?, group)?;
        let pid = child.id();
        let recorded = open_child(pid).and_then(|pidfd| {
            self.owner.processes.push(ProcessId::of(pid)?);
            self.owner.write(&self.directory)?;
            Ok(pidfd)
        });
        match recorded {
            Ok(pidfd) => {
                self.processes.push(Process { child, pidfd });
                self.logs.push(log);
                Ok(pid)
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Sends SIGKILL to every process. They are reaped by [`Self::reap`].
    pub fn kill(&mut self) {
        for process in &mut self.processes {
            // Fails only for a child that was reaped, and those are not in the list.
            let _ = process.child.kill();
        }
    }

    /// Takes what the processes have printed.
    pub fn take_logs(&mut self) {
        self.logs.retain_mut(Log::take);
    }

    /// Reaps children that have ended; says how each did. What they printed is then in their logs.
    pub fn reap(&mut self) -> Vec<String> {
        let mut ended = Vec::new();
        self.processes.retain_mut(|process| match process.child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                ended.push(format!("process {}: {status}", process.child.id()));
                false
            }
            Err(error) => {
                ended.push(format!("process {}: {error}", process.child.id()));
                false
            }
        });
        if !ended.is_empty() {
            self.logs.iter_mut().for_each(Log::take_rest);
        }
        ended
    }

    /// Removes the directories. The lock is free when the VM is dropped after this.
    pub fn remove(&self) -> io::Result<()> {
        remove_directories(&self.directory, &self.owner.also)
    }
}

fn make_directories(directory: &Path, owner: &Owner) -> Result<(), String> {
    make_directory(directory)?;
    let recorded = owner.write(directory).map_err(|error| format!("write owner record: {error}"));
    let made = recorded.and_then(|()| owner.also.iter().try_for_each(|path| make_directory(path)));
    made.map_err(|what| match remove_directories(directory, &owner.also) {
        Ok(()) => what,
        Err(error) => format!("{what}; then {error}"),
    })
}

/// Makes a directory that must not exist: one that does belongs to somebody else.
fn make_directory(path: &Path) -> Result<(), String> {
    let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
    parent
        .and_then(|()| DirBuilder::new().mode(0o700).create(path))
        .map_err(|error| format!("make {}: {error}", path.display()))
}

fn open_child(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
