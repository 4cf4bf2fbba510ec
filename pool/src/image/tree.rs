//! Turns a freshly installed Debian tree into what a job may see: nothing of the host, nothing that raises privileges, no
//! documentation, and the places where the agent mounts things. Everything here blocks.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, lremovexattr, utimensat};

/// Directories that are emptied. The package manager goes with its lists: a guest has no network by default, and its root
/// is read-only; `status` alone stays, so that jobs can see what is installed.
const EMPTIED: [&str; 15] = [
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "etc/apt",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg/info",
    "var/log",
];
/// Mount points of the agent. Empty, and there before the root becomes read-only.
const MOUNT_POINTS: [&str; 7] = ["dev", "proc", "run", "scratch", "sys", "tmp", "work"];
/// Files of the host's or of this build, each with what it holds instead. The agent binds its own over the first two.
const FILES: [(&str, &str); 4] = [
    ("etc/hostname", ""),
    ("etc/machine-id", ""),
    ("etc/resolv.conf", ""),
    ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
];
/// The user that jobs run as.
const JOB_PASSWD: &str = "job:x:10000:10000:job:/work:/bin/bash\n";
const JOB_GROUP: &str = "job:x:10000:\n";
/// The date of everything that no package dated: bookworm's release, 2023-06-10.
pub(super) const DATE_UNIX_S: i64 = 1_686_355_200;
const SETUID_SETGID: u32 = 0o6000;

/// What a tree comes to, for the size of its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Files, directories and everything else.
    pub inodes: u64,
    /// Data of regular files in blocks of 4 KiB, and a block for each directory.
    pub blocks: u64,
}

/// Prepares `root`. Whatever was written at or after `started_unix_s` (by the installation itself) is dated [`DATE_UNIX_S`],
/// so that two builds of the same packages differ as little as they can; older dates are the packages' own, and Python's
/// bytecode depends on them.
pub(super) fn prepare(root: &Path, started_unix_s: i64) -> io::Result<Extent> {
    for dir in EMPTIED.map(|dir| root.join(dir)) {
        if dir.is_dir() {
            empty(&dir)?;
        }
    }
    for dir in MOUNT_POINTS.map(|dir| root.join(dir)) {
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    for (file, content) in FILES {
        let path = root.join(file);
        // It may be a symbolic link, which writing would follow out of the tree.
        remove_if_there(&path)?;
        fs::write(&path, content)?;
    }
    append(&root.join("etc/passwd"), JOB_PASSWD)?;
    append(&root.join("etc/group"), JOB_GROUP)?;
    let mut extent = Extent::default();
    settle(root, started_unix_s, &mut extent)?;
    Ok(extent)
}

fn empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut text = fs::read_to_string(path)?;
    if !text.contains(line) {
        text.push_str(line);
        fs::write(path, text)?;
    }
    Ok(())
}

/// Takes away setuid, setgid and file capabilities, dates what is new, and counts.
fn settle(path: &Path, started_unix_s: i64, extent: &mut Extent) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    extent.inodes += 1;
    if meta.is_dir() {
        extent.blocks += 1;
        for entry in fs::read_dir(path)? {
            settle(&entry?.path(), started_unix_s, extent)?;
        }
    }
    if !meta.is_symlink() && meta.mode() & SETUID_SETGID != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & !SETUID_SETGID))?;
    }
    if meta.is_file() {
        extent.blocks += meta.len().div_ceil(4096);
        match lremovexattr(path, "security.capability") {
            Ok(()) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if meta.mtime() >= started_unix_s {
        let time = Timespec { tv_sec: DATE_UNIX_S, tv_nsec: 0 };
        utimensat(
            CWD,
            path,
            &Timestamps { last_access: time, last_modification: time },
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_loses_what_is_the_hosts_and_what_raises_privileges() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in ["etc/apt", "usr/share/doc/x", "var/lib/dpkg/info", "usr/lib/locale/C.utf8", "usr/bin"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        let outside = dir.path().join("outside");
        for (path, content) in [
            ("etc/passwd", "root:x:0:0::/root:/bin/bash\n"),
            ("etc/group", "root:x:0:\n"),
            ("etc/hostname", "host\n"),
            ("etc/apt/sources.list", "deb http://mirror.example/ x main\n"),
            ("usr/share/doc/x/copyright", "x"),
            ("var/lib/dpkg/status", "Package: x\n"),
            ("usr/bin/su", "#!"),
            ("outside", "kept"),
        ] {
            fs::write(root.join(path), content).unwrap();
        }
        symlink(&outside, root.join("etc/resolv.conf")).unwrap();
        fs::set_permissions(root.join("usr/bin/su"), fs::Permissions::from_mode(0o6755)).unwrap();

        let started = 1_000_000_000;
        let extent = prepare(root, started).unwrap();
        assert_eq!(prepare(root, started).unwrap(), extent, "a second time changes nothing");

        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        assert_eq!(
            read("etc/passwd"),
            "root:x:0:0::/root:/bin/bash\njob:x:10000:10000:job:/work:/bin/bash\n"
        );
        assert_eq!(read("etc/hostname") + &read("etc/machine-id") + &read("etc/resolv.conf"), "");
        assert_eq!(read("outside"), "kept");
        assert_eq!(read("var/lib/dpkg/status"), "Package: x\n");
        assert!(fs::read_dir(root.join("etc/apt")).unwrap().next().is_none());
        assert!(!root.join("usr/share/doc/x").exists());
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("usr/bin/su"), mode("tmp"), mode("work")), (0o755, 0o1777, 0o755));
        assert_eq!(fs::metadata(root.join("usr/bin/su")).unwrap().mtime(), DATE_UNIX_S);
        assert_eq!(fs::metadata(root).unwrap().mtime(), DATE_UNIX_S);
    }
}
