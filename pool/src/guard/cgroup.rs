//! Ending what is in a control group, and removing it.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::statfs,
};

/// Of cgroup2 (statfs(2)).
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
/// How long killed processes may take to be gone.
const KILL_LIMIT: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Whether a directory is a control group of version 2.
pub fn is_cgroup(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC)
}

/// Kills every process in the group and removes it when they are gone. For what the guard has not started itself, or
/// cannot wait for: a process that changed its user is no longer told when the guard dies.
pub fn remove_cgroup(directory: &Path) -> io::Result<()> {
    // Absent before Linux 5.14; then the group must be empty already.
    match fs::write(directory.join("cgroup.kill"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut events = File::open(directory.join("cgroup.events"))?;
    while populated(&mut events)? {
        // The kernel says PRI when the file has changed since it was read.
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&KILL_LIMIT)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "its processes survive SIGKILL")),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    remove_empty(directory)
}

/// Removes a group without processes, and those below it first.
fn remove_empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        // Whoever made it was just about to.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn populated(events: &mut File) -> io::Result<bool> {
    let mut text = String::new();
    events.rewind()?;
    events.read_to_string(&mut text)?;
    Ok(text.lines().any(|line| line == "populated 1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Where version 2 is mounted, if at all and for this process to write.
    fn mounted() -> Option<std::path::PathBuf> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
        let place = mount.split(' ').nth(1)?.into();
        rustix::process::geteuid().is_root().then_some(place)
    }

    #[test]
    fn what_is_in_a_group_ends_and_the_group_is_gone() {
        assert!(!is_cgroup(Path::new("/tmp")));
        let Some(mounted) = mounted() else {
            eprintln!("SKIPPED: no cgroup v2 to write");
            return;
        };
        let group = mounted.join(format!("hearth-test-{}", std::process::id()));
        fs::create_dir_all(group.join("below/further")).unwrap();
        assert!(is_cgroup(&group));
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        fs::write(group.join("below/further/cgroup.procs"), child.id().to_string()).unwrap();
        remove_cgroup(&group).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(!group.exists());
    }
}
