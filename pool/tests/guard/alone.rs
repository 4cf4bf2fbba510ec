//! Processes in a control group and a PID namespace of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use hearth_pool::{
    guard::{Guard, GuardError, OpenVm},
    reclaim::reclaim,
};
use tokio::time::timeout;

use super::{GONE_WITHIN, alive, open, signal_to, sleep, start, within};

/// A control group to be, where this machine has any that this process may make.
fn group(name: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mounted = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?.split(' ').nth(1)?;
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    Some(Path::new(mounted).join(format!("hearth-guard-{name}-{}", std::process::id())))
}

async fn open_in(guard: &Guard, group: &Path, token: u64) -> PathBuf {
    let directory = format!("jailed-{token}");
    let also = vec![group.to_owned()];
    guard.open(OpenVm { vm: "jailed".to_owned(), directory, cid: 3, also }).await.unwrap().directory
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn a_process_is_born_in_its_group_and_alone_in_its_namespace() {
    let Some(group) = group("born") else { return eprintln!("SKIPPED: no cgroup v2 to write") };
    let run = tempfile::tempdir().unwrap();
    let guard = start(run.path()).await;
    let in_group = || Some(group.clone());
    for (token, script, how) in [
        // As itself, as one who leaves a child behind, and by a signal.
        (
            1,
            "readlink /proc/self/ns/pid; echo $$; cat /proc/self/cgroup /proc/self/oom_score_adj; ls -l /proc/self/fd; exit 7",
            "exit status: 7",
        ),
        (2, "sleep 600 & exit 0", "exit status: 0"),
        (3, "kill -9 $$", "exit status: 137"),
    ] {
        let directory = open_in(&guard, &group, token).await;
        guard.spawn_in("jailed", shell(script), "log", in_group()).await.unwrap();
        let ended = timeout(Duration::from_secs(20), guard.exited("jailed")).await.unwrap();
        assert!(ended.ends_with(how), "{script}: {ended}");
        let said = fs::read_to_string(directory.join("log")).unwrap();
        if token == 1 {
            let own = fs::read_link("/proc/self/ns/pid").unwrap();
            let mut lines = said.lines();
            assert_ne!(lines.next().unwrap(), own.to_str().unwrap(), "{said}");
            assert_eq!(lines.next(), Some("2"), "{said}");
            assert!(said.contains(group.file_name().unwrap().to_str().unwrap()), "{said}");
            assert!(said.lines().any(|line| line == "500"), "{said}");
        }
        let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        assert_eq!(procs, "", "whatever it left ended with it");
        guard.end("jailed").await.unwrap();
        assert!(!group.exists());
    }
    // Later ones are in the guard's own namespace again.
    open(&guard, run.path(), "python-0", 4, 1).await.unwrap();
    let pid = guard.spawn("python-0", sleep(), "log").await.unwrap();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    assert_eq!(namespace(&pid.to_string()), namespace("self"));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_and_leaves_nothing() {
    let Some(group) = group("missing") else { return eprintln!("SKIPPED: no cgroup v2 to write") };
    let run = tempfile::tempdir().unwrap();
    let guard = start(run.path()).await;
    open_in(&guard, &group, 1).await;
    let missing = vec!["/no/such/jailer".to_owned()];
    let refused = guard.spawn_in("jailed", missing, "log", Some(group.clone())).await.unwrap_err();
    assert!(refused.to_string().contains("start /no/such/jailer: No such file"), "{refused}");
    let nowhere = Some(group.join("not-there"));
    assert!(guard.spawn_in("jailed", sleep(), "log", nowhere).await.is_err());
    assert_eq!(fs::read_to_string(group.join("cgroup.procs")).unwrap(), "");
    guard.spawn_in("jailed", sleep(), "log", Some(group.clone())).await.expect("the guard goes on");
    guard.end("jailed").await.unwrap();
    assert!(!group.exists());
}

#[tokio::test]
async fn one_that_changed_its_user_ends_with_its_guard_and_holds_its_lock_until_then() {
    let Some(group) = group("user") else { return eprintln!("SKIPPED: no cgroup v2 to write") };
    let run = tempfile::tempdir().unwrap();
    let (guard, second) = (start(run.path()).await, start(run.path()).await);
    open_in(&guard, &group, 1).await;
    // As the jailer does: another user, no descriptor left but the first three.
    let argv = ["setpriv", "--reuid=4000", "--regid=4000", "--clear-groups", "sh", "-c"];
    let script = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; echo ready; exec sleep 600";
    let argv = argv.iter().chain([&script]).map(|word| (*word).to_owned()).collect();
    let first = guard.spawn_in("jailed", argv, "log", Some(group.clone())).await.unwrap();
    let log = run.path().join("vms/jailed-1/log");
    within(GONE_WITHIN, "it is another user", || fs::read_to_string(&log).unwrap().contains("ready")).await;
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap();
    let pids: Vec<u32> = members.lines().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 1 && pids[0] != first, "{members}");
    let taken = OpenVm { vm: "b".to_owned(), directory: "b".to_owned(), cid: 3, also: vec![] };
    assert!(matches!(second.open(taken.clone()).await, Err(GuardError::IdentityBusy)));
    signal_to("-KILL", guard.pid()).await;
    within(GONE_WITHIN, "both died with it", || !alive(first) && !alive(pids[0])).await;
    second.open(taken).await.expect("nobody has the lock any more");
    second.end("b").await.unwrap();
    reclaim(run.path()).unwrap();
    assert!(!group.exists());
}
