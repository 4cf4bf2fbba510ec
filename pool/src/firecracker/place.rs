//! Where a Firecracker process lives: its root directory, and the command that puts it there.
//!
//! Snapshots remember the paths of disks and sockets as they were written at the bake. All of them are relative, and each VM
//! has a directory of its own in which they mean its own files: the root of its jail, or its working directory.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Gid, Uid, chown};

use super::{
    group::Group,
    serial::{REDIRECTED, prefix},
};
use crate::net::Network;

/// The API's socket.
pub(super) const API_SOCKET: &str = "api.sock";
/// The host's end of vsock; what a guest dials arrives at `vsock.sock_PORT`.
pub(super) const VSOCK_SOCKET: &str = "vsock.sock";
/// Files that one Firecracker may have open.
const OPEN_FILES_MAX: u32 = 1024;
/// Firecracker's own log where its stdout is the guest's serial port.
pub(super) const OWN_LOG: &str = "own.log";
/// Room for a VM's log beyond its largest file, in bytes.
const LOG_BYTES: u64 = 64 << 20;
/// What Firecracker itself needs beyond the guest's memory.
const OVERHEAD_BYTES: u64 = 128 << 20;
/// Firecracker's threads: the API, the VMM, one for each processor, and room.
const THREADS: u32 = 8;
/// Least CID (vsock(7)); the first has the first user id.
const CID_MIN: u32 = 3;

/// How a Firecracker process is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// By Firecracker's jailer: a root, a PID and a mount namespace, a control group and a user of its own.
    Jailer(Jailer),
    /// Not at all: it runs as this process's user and sees all of the host.
    InsecureDirect,
}

/// What a jail is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jailer {
    /// `jailer`, of the same release as Firecracker.
    pub jailer: PathBuf,
    /// User and group id of the VM with the least CID. Each VM has its own, and nothing else on the host may have one.
    pub first_uid: u32,
    /// How many there are.
    pub uids: u32,
    /// Where cgroup v2 is mounted.
    pub cgroup_root: PathBuf,
    /// Below that, the group that holds the VMs' groups: one name, such as `hearth`.
    pub parent_cgroup: String,
}

/// What a VM needs of the host, for its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub vcpus: u32,
    pub memory_bytes: u64,
    /// The largest file that it writes.
    pub file_bytes: u64,
    /// Whether its serial port is for the agent.
    pub serial: bool,
}

/// Where one process will live. Made before anything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Directories that the guard makes, and removes with everything in them.
    pub directories: Vec<PathBuf>,
    /// The root directory, in one of them.
    pub root: PathBuf,
    /// Who the process is, where that is not us.
    pub owner: Option<u32>,
    /// Where the pipes of its serial port are to be, if it has one.
    pub serial: Option<PathBuf>,
    /// The control group of the process, where it is to have one: one of the directories.
    pub group: Option<Group>,
    pub argv: Vec<String>,
}

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    /// The VM's with this CID.
    Cid(u32),
    /// A bake's: the last of the range, which no VM has.
    Bake,
}

/// No place for a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{user:?} has no user id of its own: the jails' range has {uids}, the last of them for bakes")]
pub struct NoUid {
    user: User,
    uids: u32,
}

/// Plans the place of the VM `unique` (`[A-Za-z0-9_+-]`, at most 64 bytes, never used before).
pub(super) fn plan(
    confinement: &Confinement,
    firecracker: &Path,
    jails: &Path,
    unique: &str,
    user: User,
    needs: Needs,
    network: Option<&Network>,
) -> Result<Plan, NoUid> {
    let own = jails.join(unique);
    // The jailer takes letters, digits and hyphens.
    let id = unique.replace(['_', '+'], "-");
    let program = firecracker.display().to_string();
    let serial = needs.serial.then(|| own.clone());
    match confinement {
        Confinement::InsecureDirect => Ok(Plan {
            argv: network
                .map(Network::entered)
                .unwrap_or_default()
                .into_iter()
                .chain(direct_argv(&program, &own, &id, needs))
                .collect(),
            directories: vec![own.clone()],
            root: own,
            owner: None,
            serial,
            group: None,
        }),
        Confinement::Jailer(jailer) => {
            let uid = uid(jailer, user).ok_or(NoUid { user, uids: jailer.uids })?;
            let group = group(jailer, &id, needs);
            let name = firecracker.file_name().unwrap_or_default();
            Ok(Plan {
                argv: jailer_argv(jailer, &program, &own, &id, uid, needs, network),
                // The group first: the directories are removed when nobody is in them any more.
                directories: vec![group.path.clone(), own.clone()],
                root: own.join(name).join(&id).join("root"),
                owner: Some(uid),
                serial,
                group: Some(group),
            })
        }
    }
}

fn uid(jailer: &Jailer, user: User) -> Option<u32> {
    let last = jailer.uids.checked_sub(1)?;
    let nth = match user {
        User::Cid(cid) => cid.checked_sub(CID_MIN).filter(|nth| *nth < last)?,
        User::Bake => last,
    };
    jailer.first_uid.checked_add(nth)
}

fn firecracker_arguments(needs: Needs) -> impl Iterator<Item = &'static str> {
    let log = needs.serial.then_some(["--log-path", OWN_LOG]);
    ["--api-sock", API_SOCKET, "--level", "Warning"].into_iter().chain(log.into_iter().flatten())
}

fn direct_argv(firecracker: &str, own: &Path, id: &str, needs: Needs) -> Vec<String> {
    let redirected = format!("exec {REDIRECTED}");
    let pipes = prefix(own).display().to_string();
    let shell = needs.serial.then_some(["sh", "-c", &redirected, &pipes]);
    let plain = ["env", "-C", &own.display().to_string(), firecracker, "--id", id].map(str::to_owned);
    let shell = shell.into_iter().flatten().map(str::to_owned);
    shell.chain(plain).chain(firecracker_arguments(needs).map(str::to_owned)).collect()
}

/// What the jailer would set, by us: it would have to move there, and for that the kernel waits until every processor of the
/// host has passed by (`cgroup_threadgroup_rwsem`), which takes longer than all the rest of a jail.
fn group(jailer: &Jailer, id: &str, needs: Needs) -> Group {
    Group {
        root: jailer.cgroup_root.clone(),
        path: jailer.cgroup_root.join(&jailer.parent_cgroup).join(id),
        limits: vec![
            ("memory.max", needs.memory_bytes + OVERHEAD_BYTES),
            ("memory.swap.max", 0),
            ("pids.max", u64::from(needs.vcpus + THREADS)),
        ],
    }
}

/// The jailer changes to another user, and with that forgets that it should die with the guard. So it runs in a PID
/// namespace whose first process, the guard's, does not forget; with that one the kernel ends the rest.
fn jailer_argv(
    jailer: &Jailer,
    firecracker: &str,
    base: &Path,
    id: &str,
    uid: u32,
    needs: Needs,
    network: Option<&Network>,
) -> Vec<String> {
    let mut argv = Vec::new();
    let mut add = |words: &[&str]| argv.extend(words.iter().map(|word| (*word).to_owned()));
    if needs.serial {
        add(&["sh", "-c", &format!("exec {REDIRECTED}"), &prefix(base).display().to_string()]);
    }
    let uid = uid.to_string();
    add(&[&jailer.jailer.display().to_string(), "--id", id, "--exec-file", firecracker]);
    add(&["--uid", &uid, "--gid", &uid, "--chroot-base-dir", &base.display().to_string()]);
    for limit in [format!("fsize={}", needs.file_bytes + LOG_BYTES), format!("no-file={OPEN_FILES_MAX}")] {
        add(&["--resource-limit", &limit]);
    }
    if let Some(network) = network {
        add(&["--netns", &network.path().display().to_string()]);
    }
    add(&["--"]);
    add(&firecracker_arguments(needs).collect::<Vec<_>>());
    argv
}

/// A root directory that is there.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    owner: Option<u32>,
    /// Keeps the name short under which sockets in it are reached; theirs have room for 107 bytes only.
    directory: File,
}

impl Place {
    /// Makes the root directory, below one of the plan's directories, and limits the group. Blocks for a short time.
    pub fn make(plan: &Plan) -> io::Result<Self> {
        plan.group.as_ref().map_or(Ok(()), Group::limit)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&plan.root)?;
        let directory = File::open(&plan.root)?;
        let place = Self { root: plan.root.clone(), owner: plan.owner, directory };
        if plan.serial.is_some() {
            File::create_new(place.file(OWN_LOG))?;
            place.give(OWN_LOG)?;
        }
        Ok(place)
    }

    /// Where a file of it is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Under which name a socket in it is reached, from this process only and while `self` lives.
    pub fn socket(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()))
    }

    /// Puts a file in it that never changes: the same file, another name. Both are on one file system.
    pub fn link(&self, file: &Path, name: &str) -> io::Result<()> {
        fs::hard_link(file, self.file(name))
    }

    /// Makes a file in it belong to the process.
    pub fn give(&self, name: &str) -> io::Result<()> {
        let Some(id) = self.owner else { return Ok(()) };
        Ok(chown(self.file(name), Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs { vcpus: 1, memory_bytes: 256 << 20, file_bytes: 512 << 20, serial: false };

    fn jailer() -> Jailer {
        Jailer {
            jailer: "/opt/jailer".into(),
            first_uid: 200_000,
            uids: 100,
            cgroup_root: "/sys/fs/cgroup".into(),
            parent_cgroup: "hearth".to_owned(),
        }
    }

    fn planned(confinement: &Confinement, user: User) -> Result<Plan, NoUid> {
        plan(
            confinement,
            "/opt/firecracker".as_ref(),
            "/data/jails".as_ref(),
            "my_sh-0-7-1f",
            user,
            NEEDS,
            None,
        )
    }

    #[test]
    fn every_cid_of_the_range_has_a_user_of_its_own() {
        let jail = Confinement::Jailer(jailer());
        let owner = |user| planned(&jail, user).map(|plan| plan.owner.unwrap());
        assert_eq!(owner(User::Cid(3)), Ok(200_000));
        assert_eq!(owner(User::Cid(101)), Ok(200_098));
        assert_eq!(owner(User::Bake), Ok(200_099));
        for cid in [2, 102] {
            assert_eq!(owner(User::Cid(cid)), Err(NoUid { user: User::Cid(cid), uids: 100 }));
        }
    }

    #[test]
    fn a_jail_has_its_limits_and_goes_with_everything_in_it() {
        let plan = planned(&Confinement::Jailer(jailer()), User::Cid(7)).unwrap();
        let words = plan.argv.join(" ");
        for part in [
            "/opt/jailer --id my-sh-0-7-1f --exec-file /opt/firecracker --uid 200004 --gid 200004",
            "--chroot-base-dir /data/jails/my_sh-0-7-1f --resource-limit fsize=603979776 --resource-limit no-file=1024 -- --api-sock api.sock",
        ] {
            assert!(words.contains(part), "{part}\n{words}");
        }
        assert!(!words.contains("seccomp"), "the built-in filters are never changed");
        let group = plan.group.unwrap();
        assert_eq!(group.limits, [("memory.max", 402_653_184), ("memory.swap.max", 0), ("pids.max", 9)]);
        assert_eq!(group.path, Path::new("/sys/fs/cgroup/hearth/my-sh-0-7-1f"));
        assert_eq!(plan.directories, [group.path, "/data/jails/my_sh-0-7-1f".into()]);
        assert_eq!(plan.root, Path::new("/data/jails/my_sh-0-7-1f/firecracker/my-sh-0-7-1f/root"));
    }

    #[test]
    fn a_serial_port_is_stdin_and_stdout_of_the_last_process_only_and_the_log_goes_elsewhere() {
        let needs = Needs { serial: true, ..NEEDS };
        for confinement in [Confinement::Jailer(jailer()), Confinement::InsecureDirect] {
            let own = |needs| {
                let user = User::Cid(7);
                let fc = "/opt/firecracker".as_ref();
                plan(&confinement, fc, "/j".as_ref(), "b-0-7-1f", user, needs, None).unwrap()
            };
            let (with, without) = (own(needs), own(NEEDS));
            assert_eq!((with.serial, without.serial), (Some("/j/b-0-7-1f".into()), None));
            let words = with.argv.join(" ");
            assert!(words.contains("<>\"$0.in\" 1<>\"$0.out\""), "{words}");
            assert!(
                words.contains(" /j/b-0-7-1f/serial ") && words.ends_with("--log-path own.log"),
                "{words}"
            );
            assert!(!without.argv.join(" ").contains(['<', '>']), "the port is nobody's");
        }
    }

    #[test]
    fn a_variant_has_a_name_that_the_jailer_takes() {
        let jail = Confinement::Jailer(jailer());
        let unique = format!("{}-0-7-1f", crate::net::with_card("my_sh"));
        let argv =
            plan(&jail, "/opt/firecracker".as_ref(), "/j".as_ref(), &unique, User::Cid(7), NEEDS, None);
        let words = argv.unwrap().argv.join(" ");
        assert!(words.contains("--id my-sh-net-0-7-1f "), "{words}");
    }

    #[test]
    fn a_socket_is_reached_however_deep_its_directory_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("x".repeat(200));
        let plan = Plan {
            directories: vec![],
            root: root.clone(),
            owner: None,
            serial: None,
            group: None,
            argv: vec![],
        };
        let place = Place::make(&plan).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(place.socket("a.sock")).unwrap();
        assert!(root.join("a.sock").exists());
        std::os::unix::net::UnixStream::connect(place.socket("a.sock")).unwrap();
    }
}
