//! The local lease store over real files, real locks and real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use hearth_pool::{
    guard::locks_directory,
    lease::{
        Identity, LeaseError, LeaseStore, Ranges, Release, Renewal,
        local::{LocalConfig, LocalLeases},
    },
};
use rustix::fs::{FlockOperation, flock};

/// Tells a child of these tests where to work.
const DIR: &str = "HEARTH_TEST_DIR";

fn config(dir: &Path, n: u32) -> LocalConfig {
    let ranges = Ranges { cids: 3..=2 + n, ports: 9000..=8999 + n as u16 };
    LocalConfig { ranges, ..LocalConfig::new(dir) }
}

fn open(dir: &Path, n: u32) -> LocalLeases {
    LocalLeases::open(config(dir, n)).unwrap()
}

fn child(test: &str, dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(DIR, dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// `None` when it is not a test that started this process.
fn child_dir() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "how a test's child is told where to work")]
    std::env::var(DIR).ok().map(PathBuf::from)
}

fn exclusive(path: &Path) -> Option<File> {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| file)
}

#[tokio::test]
async fn a_lease_is_given_renewed_released_and_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let leases = open(dir.path(), 1);
    let before = tokio::time::Instant::now();
    let first = leases.acquire("a").await.unwrap();
    assert_eq!((first.identity.cid, first.identity.port), (3, 9000));
    assert!(first.expires >= before + Duration::from_secs(60));
    assert_eq!(leases.acquire("a").await.unwrap().identity, first.identity, "the same request again");
    assert!(matches!(leases.acquire("b").await, Err(LeaseError::Exhausted { what: "CID", .. })));
    let strange = Identity { token: 1, ..first.identity };
    let renewed = leases.renew(&[strange, first.identity]).await.unwrap();
    assert!(matches!(renewed[..], [Renewal::Lost, Renewal::Until(_)]), "{renewed:?}");
    assert_eq!(leases.release(&strange).await.unwrap(), Release::NotHeld);
    assert_eq!(leases.release(&first.identity).await.unwrap(), Release::Released);
    assert_eq!(leases.release(&first.identity).await.unwrap(), Release::NotHeld);
    let second = leases.acquire("b").await.unwrap().identity;
    assert_eq!((second.cid, second.port), (3, 9000));
    assert!(second.token > first.identity.token);
}

#[tokio::test]
async fn a_restart_forgets_its_leases_and_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), 4).acquire("a").await.unwrap().identity;
    let again = open(dir.path(), 4).acquire("a").await.unwrap().identity;
    assert_eq!((again.cid, again.port), (first.cid, first.port), "the holder is gone");
    assert!(again.token > first.token);
}

#[tokio::test]
async fn two_stores_of_one_directory_share_it() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(dir.path(), 2), open(dir.path(), 2));
    let first = one.acquire("a").await.unwrap().identity;
    let second = two.acquire("a").await.unwrap().identity;
    assert_ne!((first.cid, first.port), (second.cid, second.port));
    assert!(matches!(one.acquire("b").await, Err(LeaseError::Exhausted { .. })));
    drop(two);
    assert_eq!(one.acquire("b").await.unwrap().identity.cid, second.cid);
}

#[tokio::test]
async fn a_cid_whose_vm_lives_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let vm = exclusive(&locks_directory(dir.path()).join("3.lock")).unwrap();
    let leases = open(dir.path(), 2);
    assert_eq!(leases.acquire("a").await.unwrap().identity.cid, 4);
    assert!(matches!(leases.acquire("b").await, Err(LeaseError::Exhausted { .. })));
    drop(vm);
    assert_eq!(leases.acquire("b").await.unwrap().identity.cid, 3);
}

#[tokio::test]
async fn a_corrupt_file_is_set_aside_only_when_nobody_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leases/leases.json");
    let first = open(dir.path(), 2);
    let token = first.acquire("a").await.unwrap().identity.token;
    fs::write(&path, b"{\"version\":1,\"boo").unwrap();
    assert!(matches!(first.acquire("b").await, Err(LeaseError::Unavailable { .. })));
    let refused = LocalLeases::open(config(dir.path(), 2)).unwrap_err();
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(source.contains("leases.json is not a lease file"), "{source}");
    drop(first);
    let fresh = open(dir.path(), 2).acquire("a").await.unwrap().identity;
    assert!(fresh.token > token, "tokens grow by the clock where the counter was lost");
    let names = fs::read_dir(path.parent().unwrap()).unwrap();
    assert!(names.flatten().any(|e| e.file_name().to_string_lossy().contains("corrupt-")));
}

#[tokio::test]
async fn a_newer_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leases/leases.json");
    drop(open(dir.path(), 2));
    fs::write(&path, br#"{"version":2}"#).unwrap();
    assert!(LocalLeases::open(config(dir.path(), 2)).is_err());
    assert_eq!(fs::read(&path).unwrap(), br#"{"version":2}"#);
}

#[tokio::test]
async fn the_leases_of_a_killed_process_are_free_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = child("child_that_holds", dir.path());
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let held = lines.find(|line| line.as_ref().unwrap().contains("holds 3")).is_some();
    assert!(held, "the child has a lease");
    let leases = open(dir.path(), 1);
    assert!(matches!(leases.acquire("a").await, Err(LeaseError::Exhausted { .. })));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(leases.acquire("a").await.unwrap().identity.cid, 3);
}

/// Does nothing unless another test started it.
#[tokio::test]
async fn child_that_holds() {
    let Some(dir) = child_dir() else { return };
    let leases = open(&dir, 1);
    println!("\nholds {}", leases.acquire("a").await.unwrap().identity.cid);
    let _ = std::io::stdin().read(&mut [0]);
}

/// Rounds of each child. Each takes and gives back two leases.
const ROUNDS: u32 = 100;

#[test]
fn nothing_is_given_twice_by_several_processes_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..3).map(|_| child("child_that_hammers", dir.path())).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Does nothing unless another test started it.
#[tokio::test]
async fn child_that_hammers() {
    let Some(dir) = child_dir() else { return };
    // Five for three that want two each: somebody is refused now and then.
    let leases = open(&dir, 5);
    for round in 0..ROUNDS {
        let mut held = Vec::new();
        for n in 0..2 {
            match leases.acquire(&format!("{round}-{n}")).await {
                Ok(lease) => held.push(Checked::take(&dir, lease.identity)),
                Err(LeaseError::Exhausted { .. }) => {}
                Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
            }
        }
        let identities: Vec<_> = held.iter().map(|h| h.identity).collect();
        let renewed = leases.renew(&identities).await.unwrap();
        assert!(renewed.iter().all(|r| matches!(r, Renewal::Until(_))));
        for checked in held {
            let identity = checked.identity;
            drop(checked);
            assert_eq!(leases.release(&identity).await.unwrap(), Release::Released);
        }
    }
}

/// Proof that no other process holds this CID or port: locks of the test's own.
struct Checked {
    identity: Identity,
    _locks: [File; 2],
}

impl Checked {
    fn take(dir: &Path, identity: Identity) -> Self {
        let names = [format!("check/cid-{}", identity.cid), format!("check/port-{}", identity.port)];
        let locks = names.map(|name| {
            let mut file = exclusive(&dir.join(&name)).unwrap_or_else(|| panic!("{name} was given twice"));
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            let last = text.lines().last().map_or(0, |line| line.parse().unwrap());
            assert!(identity.token > last, "{name}: {} after {last}", identity.token);
            writeln!(file, "{}", identity.token).unwrap();
            file
        });
        Self { identity, _locks: locks }
    }
}
