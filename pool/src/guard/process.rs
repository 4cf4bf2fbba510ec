//! Naming a process so that a reused pid is not mistaken for it, and ending it.

use std::{fs, io, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

/// A pid and when it began: together unique within one boot of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid.
    pub pid: u32,
    /// When it began, in clock ticks after boot (field 22 of proc_pid_stat(5)).
    pub start_ticks: u64,
}

impl ProcessId {
    /// Names the process that has this pid now.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_ticks = start_ticks(&stat).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {stat:?}"))
        })?;
        Ok(Self { pid, start_ticks })
    }

    /// Kills it, if it still is that process, and waits for its end.
    ///
    /// Returns whether there was something to kill. Times out after `limit_s` seconds.
    pub fn kill(self, limit_s: i64) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else { return Ok(false) };
        // A zombie takes a signal without complaint.
        if wait_end(&pidfd, 0)? {
            return Ok(false);
        }
        match pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        if wait_end(&pidfd, limit_s)? {
            Ok(true)
        } else {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {} survives SIGKILL", self.pid)))
        }
    }

    /// A descriptor of it, or `None` when it is gone. The descriptor is opened before the start is compared, so
    /// that what was compared is what the descriptor means.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        match Self::of(self.pid) {
            Ok(now) if now == self => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // The entry is there and its process is not (ESRCH on reading): gone between the two.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Names the boot that a [`ProcessId`] belongs to.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn wait_end(pidfd: &OwnedFd, limit_s: i64) -> io::Result<bool> {
    let limit = Timespec { tv_sec: limit_s, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The 22nd field. The second is a name in parentheses that may itself hold spaces and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_start_is_found_behind_a_hostile_name() {
        let fields: Vec<String> = (3..=52).map(|n: u32| n.to_string()).collect();
        let stat = format!("7 (a) b) 1 (c) {}\n", fields.join(" "));
        assert_eq!(start_ticks(&stat), Some(22));
        assert_eq!(start_ticks("7 (x) S 1"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn a_process_with_another_start_is_not_killed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let reused = ProcessId { start_ticks: id.start_ticks + 1, ..id };
        assert!(!reused.kill(2).unwrap());
        assert!(child.try_wait().unwrap().is_none(), "it lives");
        assert!(id.kill(2).unwrap());
        child.wait().unwrap();
        assert!(!id.kill(2).unwrap(), "nothing left to kill");
    }
}
