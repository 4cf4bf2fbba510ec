//! The guard with real processes: kill -9, locks, reclaim.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod alone;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use hearth_pool::{
    guard::{Guard, GuardCommand, GuardError, OpenVm, serve},
    reclaim::{Reclaimed, reclaim},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{Instant, sleep_until, timeout},
};

/// Bound of the design: a dead worker's VMs are gone within this.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// This test binary again, in another role.
fn role(name: &str) -> GuardCommand {
    GuardCommand {
        program: std::env::current_exe().unwrap(),
        arguments: ["--exact", name, "--ignored", "--nocapture", "--test-threads=1"].map(Into::into).to_vec(),
    }
}

#[test]
#[ignore = "not a test: the guard process of the others"]
fn role_guard() {
    serve().unwrap();
}

/// A worker with one VM of two processes. It is told where by its directory, says when it is ready, and waits.
#[tokio::test]
#[ignore = "not a test: a worker to be killed"]
async fn role_worker() {
    let run = std::env::current_dir().unwrap();
    if !run.join("worker-here").exists() {
        return;
    }
    let guard = start(&run).await;
    let opened = open(&guard, &run, "python-0", 3, 1).await.unwrap();
    for _ in 0..2 {
        let pid = guard.spawn("python-0", sleep(), "log").await.unwrap();
        println!("pid {pid}");
    }
    println!("guard {}", guard.pid());
    println!("directory {}", opened.display());
    println!("ready");
    std::future::pending::<()>().await;
}

async fn start(run: &Path) -> Guard {
    Guard::start(&role("role_guard"), run, "worker-a").await.unwrap()
}

async fn open(guard: &Guard, run: &Path, vm: &str, cid: u32, token: u64) -> Result<PathBuf, GuardError> {
    let directory = format!("{vm}-{cid}-{token}");
    let also = vec![run.join("memory").join(&directory)];
    guard.open(OpenVm { vm: vm.to_owned(), directory, cid, also }).await.map(|opened| opened.directory)
}

fn sleep() -> Vec<String> {
    vec!["sleep".to_owned(), "600".to_owned()]
}

fn alive(pid: u32) -> bool {
    // A zombie of somebody else's is as good as gone.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

async fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        sleep_until(Instant::now() + Duration::from_millis(5)).await;
    }
}

struct Worker {
    child: Child,
    pids: Vec<u32>,
    guard: u32,
}

async fn worker(run: &Path) -> Worker {
    fs::write(run.join("worker-here"), "").unwrap();
    let role = role("role_worker");
    let mut child = Command::new(role.program)
        .args(role.arguments)
        .current_dir(run)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut pids, mut guard) = (Vec::new(), 0);
    loop {
        let line = timeout(Duration::from_secs(20), lines.next_line()).await.unwrap().unwrap().unwrap();
        match line.split_once(' ') {
            Some(("pid", pid)) => pids.push(pid.parse().unwrap()),
            Some(("guard", pid)) => guard = pid.parse().unwrap(),
            _ if line == "ready" => return Worker { child, pids, guard },
            _ => {}
        }
    }
}

#[tokio::test]
async fn after_a_kill_9_of_the_worker_nothing_is_left_within_two_seconds() {
    let run = tempfile::tempdir().unwrap();
    let mut worker = worker(run.path()).await;
    assert!(worker.pids.iter().all(|pid| alive(*pid)));
    assert!(!empty(&run.path().join("vms")) && !empty(&run.path().join("memory")));

    worker.child.kill().await.unwrap();
    within(GONE_WITHIN, "every process, directory and the guard itself is gone", || {
        !worker.pids.iter().chain([&worker.guard]).any(|pid| alive(*pid))
            && empty(&run.path().join("vms"))
            && empty(&run.path().join("memory"))
    })
    .await;
    let second = start(run.path()).await;
    open(&second, run.path(), "python-0", 3, 2).await.expect("the CID is free");
}

#[tokio::test]
async fn a_guard_ignores_the_signals_of_a_terminal_and_dies_with_its_children() {
    let run = tempfile::tempdir().unwrap();
    let guard = start(run.path()).await;
    open(&guard, run.path(), "python-0", 3, 1).await.unwrap();
    let pid = guard.spawn("python-0", sleep(), "log").await.unwrap();
    for signal in ["-INT", "-TERM", "-HUP"] {
        signal_to(signal, guard.pid()).await;
    }
    let second = guard.spawn("python-0", sleep(), "log").await.expect("it still serves");

    signal_to("-KILL", guard.pid()).await;
    timeout(GONE_WITHIN, guard.dead()).await.unwrap();
    within(GONE_WITHIN, "its children died with it", || !alive(pid) && !alive(second)).await;
    assert!(matches!(guard.end("python-0").await, Err(GuardError::Dead)));
    assert!(timeout(GONE_WITHIN, guard.exited("python-0")).await.unwrap().contains("dead"));

    // What it left on disk is for reclaim.
    let reclaimed = reclaim(run.path()).unwrap();
    assert_eq!(reclaimed, Reclaimed { directories: 1, processes: 0, failed: 0 });
    assert!(empty(&run.path().join("vms")) && empty(&run.path().join("memory")));
}

async fn signal_to(signal: &str, pid: u32) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().await.unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn two_guards_never_have_the_same_cid() {
    let run = tempfile::tempdir().unwrap();
    let (one, two) = (start(run.path()).await, start(run.path()).await);
    open(&one, run.path(), "python-0", 3, 1).await.unwrap();
    assert!(matches!(open(&two, run.path(), "python-0", 3, 2).await, Err(GuardError::IdentityBusy)));
    assert!(!run.path().join("vms/python-0-3-2").exists(), "a refusal makes nothing");
    open(&two, run.path(), "python-0", 4, 3).await.unwrap();
    one.end("python-0").await.unwrap();
    open(&two, run.path(), "python-1", 3, 4).await.expect("free as soon as the end is answered");
}

#[tokio::test]
async fn an_end_kills_removes_and_is_idempotent() {
    let run = tempfile::tempdir().unwrap();
    let guard = start(run.path()).await;
    let directory = open(&guard, run.path(), "gcc-7", 5, 1).await.unwrap();
    let pid = guard.spawn("gcc-7", sleep(), "log").await.unwrap();
    assert!(alive(pid) && directory.is_dir());
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");
    assert!(matches!(open(&guard, run.path(), "gcc-7", 6, 2).await, Err(GuardError::Order(_))));
    let (first, second) = tokio::join!(guard.end("gcc-7"), guard.end("gcc-7"));
    first.and(second).unwrap();
    assert!(!alive(pid) && !directory.exists() && empty(&run.path().join("memory")));
    guard.end("gcc-7").await.unwrap();
    guard.end("never-there").await.unwrap();
}

#[tokio::test]
async fn an_end_after_a_cancelled_open_finds_what_there_is() {
    let run = tempfile::tempdir().unwrap();
    let guard = start(run.path()).await;
    for token in 0..20 {
        // Polled once: the request is queued, its answer is not awaited.
        let cancelled = timeout(Duration::ZERO, open(&guard, run.path(), "node-1", 9, token)).await;
        drop(cancelled);
        guard.end("node-1").await.unwrap();
        assert!(empty(&run.path().join("vms")));
    }
}

#[tokio::test]
async fn the_exit_of_a_process_is_told_with_its_output_in_the_log() {
    let run = tempfile::tempdir().unwrap();
    let guard = start(run.path()).await;
    let directory = open(&guard, run.path(), "bash-0", 3, 1).await.unwrap();
    let argv = ["sh", "-c", "pwd; echo $HOME; exit 3"].map(str::to_owned).to_vec();
    guard.spawn("bash-0", argv, "sh.log").await.unwrap();
    let how = timeout(GONE_WITHIN, guard.exited("bash-0")).await.unwrap();
    assert!(how.contains("exit status: 3"), "{how}");
    let log = fs::read_to_string(directory.join("sh.log")).unwrap();
    assert_eq!(log, format!("{}\n\n", directory.display()), "its directory, and none of our environment");
    let missing = guard.spawn("bash-0", vec!["/no/such".to_owned()], "log").await.unwrap_err();
    assert!(missing.to_string().contains("/no/such"), "{missing}");

    // A new VM of that name has not exited.
    guard.end("bash-0").await.unwrap();
    open(&guard, run.path(), "bash-0", 3, 2).await.unwrap();
    assert!(timeout(Duration::from_millis(50), guard.exited("bash-0")).await.is_err());
}

#[tokio::test]
async fn a_process_that_never_stops_printing_fills_no_disk_and_keeps_nobody_waiting() {
    const BOUND: u64 = 256 * 1024;
    let run = tempfile::tempdir().unwrap();
    let guard = start(run.path()).await;
    let directory = open(&guard, run.path(), "bash-0", 3, 1).await.unwrap();
    // It tells how much it has printed so far, which is soon more than a log holds.
    let script =
        "n=0; while :; do head -c 100000 /dev/zero | tr '\\0' x; n=$((n + 1)); echo $n > count; done";
    guard.spawn("bash-0", ["sh", "-c", script].map(str::to_owned).to_vec(), "sh.log").await.unwrap();
    let log = || fs::metadata(directory.join("sh.log")).unwrap().len();
    let printed =
        || fs::read_to_string(directory.join("count")).ok().and_then(|count| count.trim().parse().ok());
    let much = async {
        while printed().unwrap_or(0) < 30 {
            assert!(log() <= BOUND, "{} bytes", log());
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), much).await.expect("it is never kept waiting");
    assert!(log() > 0);
    open(&guard, run.path(), "bash-1", 4, 1).await.expect("the guard serves");
    timeout(GONE_WITHIN, guard.end("bash-0")).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_vm_keeps_its_cid_while_one_of_its_processes_lives() {
    let run = tempfile::tempdir().unwrap();
    let guard = start(run.path()).await;
    open(&guard, run.path(), "bash-0", 3, 1).await.unwrap();
    // A grandchild that neither the guard nor the death signal reaches.
    let argv = ["sh", "-c", "setsid sleep 600 & echo $!"].map(str::to_owned).to_vec();
    guard.spawn("bash-0", argv, "log").await.unwrap();
    guard.exited("bash-0").await;
    let log = run.path().join("vms/bash-0-3-1/log");
    let orphan: u32 = fs::read_to_string(log).unwrap().trim().parse().unwrap();
    guard.end("bash-0").await.unwrap();
    assert!(matches!(open(&guard, run.path(), "bash-0", 3, 2).await, Err(GuardError::IdentityBusy)));
    signal_to("-KILL", orphan).await;
    within(GONE_WITHIN, "the orphan is gone", || !alive(orphan)).await;
    open(&guard, run.path(), "bash-0", 3, 3).await.unwrap();
}

#[tokio::test]
async fn reclaim_kills_what_the_record_names_and_spares_the_living() {
    let run = tempfile::tempdir().unwrap();
    let guard = start(run.path()).await;
    let live = open(&guard, run.path(), "python-0", 3, 1).await.unwrap();
    let live_pid = guard.spawn("python-0", sleep(), "log").await.unwrap();

    // Two VMs that nobody holds: one with a process that is the recorded one, one with a reused pid.
    let mut record: serde_json::Value =
        serde_json::from_slice(&fs::read(live.join("owner.json")).unwrap()).unwrap();
    let mut leftover = Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    let mut stranger = Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    for (cid, child, shift) in [(4, &leftover, 0), (5, &stranger, 1)] {
        let directory = run.path().join(format!("vms/python-{cid}-{cid}-1"));
        let also = run.path().join(format!("memory/{cid}"));
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir_all(&also).unwrap();
        let pid = child.id().unwrap();
        record["cid"] = cid.into();
        record["also"] = serde_json::json!([also]);
        record["processes"] = serde_json::json!([{ "pid": pid, "start_ticks": start_ticks(pid) + shift }]);
        fs::write(directory.join("owner.json"), record.to_string()).unwrap();
    }
    // One whose guard died before it wrote a record, and one that is not ours to understand.
    fs::create_dir(run.path().join("vms/python-6-6-1")).unwrap();
    fs::create_dir(run.path().join("vms/what")).unwrap();

    let reclaimed = reclaim(run.path()).unwrap();
    assert_eq!(reclaimed, Reclaimed { directories: 3, processes: 1, failed: 1 });
    timeout(GONE_WITHIN, leftover.wait()).await.unwrap().unwrap();
    assert!(stranger.try_wait().unwrap().is_none(), "another process with a reused pid lives");
    assert!(live.is_dir() && alive(live_pid), "a live worker's VM is untouched");
    assert!(run.path().join("vms/what").is_dir());
    assert!(!run.path().join("memory/4").exists());
    assert_eq!(reclaim(tempfile::tempdir().unwrap().path()).unwrap(), Reclaimed::default());
}

fn start_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
}
