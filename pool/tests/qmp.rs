//! The QMP client against a real QEMU without a machine, and against one that misbehaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may"
)]

use std::{process::Stdio, time::Duration};

use hearth_pool::qemu::qmp::{
    Qmp, QmpError,
    commands::{
        ChardevAdd, ChardevBackend, Cont, QueryMigrate, QueryStatus, QueryVersion, QueryVirtioStatus, Quit,
        SocketAddress, Stop,
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    process::{Child, Command},
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(10);

/// QEMU, connected to us, or `None` (said aloud) where there is none.
async fn qemu() -> Option<(Qmp, Child, tempfile::TempDir)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let started = Command::new("qemu-system-x86_64")
        .args(["-M", "none", "-nodefaults", "-display", "none", "-mon", "chardev=q,mode=control", "-chardev"])
        .arg(format!("socket,id=q,path={}", path.display()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(child) = started else {
        println!("SKIPPED: no qemu-system-x86_64");
        return None;
    };
    let (socket, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    Some((Qmp::open(socket, LIMIT).await.unwrap(), child, directory))
}

#[tokio::test]
async fn commands_have_typed_answers_and_a_refusal_has_class_and_words() {
    let Some((mut qmp, mut child, _directory)) = qemu().await else { return };
    assert!(qmp.execute(&QueryVersion {}).await.unwrap().qemu.major >= 8);
    assert!(qmp.execute(&QueryStatus {}).await.unwrap().running);
    assert_eq!(qmp.execute(&QueryMigrate {}).await.unwrap().status, None);

    qmp.execute(&Stop {}).await.unwrap();
    qmp.execute(&Cont {}).await.unwrap();
    let resumed = qmp.event("RESUME", |event| (event.name == "RESUME").then_some(())).await;
    resumed.expect("events that came between commands are kept");

    let refused = qmp.execute(&QueryVirtioStatus { path: "/machine/peripheral/none" }).await.unwrap_err();
    assert!(matches!(&refused, QmpError::Refused { command: "x-query-virtio-status", .. }), "{refused}");
    let addr = SocketAddress::Unix { path: "/no/such/socket".to_owned() };
    let backend = ChardevBackend::Socket { addr, server: false };
    let refused = qmp.execute(&ChardevAdd { id: "c", backend }).await.unwrap_err();
    assert!(refused.to_string().contains("No such file") && refused.to_string().contains("GenericError"));

    qmp.execute(&Quit {}).await.unwrap();
    assert!(timeout(LIMIT, child.wait()).await.unwrap().unwrap().success());
    let closed = qmp.execute(&QueryStatus {}).await.unwrap_err();
    assert!(matches!(closed, QmpError::Closed | QmpError::Io(_)), "{closed}");
}

#[tokio::test]
async fn a_cancelled_command_does_not_answer_the_next_one() {
    let Some((mut qmp, _child, _directory)) = qemu().await else { return };
    for _ in 0..50 {
        drop(timeout(Duration::ZERO, qmp.execute(&QueryVersion {})).await);
        assert!(qmp.execute(&QueryStatus {}).await.unwrap().running);
    }
}

/// A peer that greets, then answers each command with the next of `answers`.
async fn scripted(answers: &'static [&'static str], limit: Duration) -> Result<Qmp, QmpError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        let (read, mut write) = theirs.into_split();
        write.write_all(b"{\"QMP\": {}}\n").await.unwrap();
        let mut lines = BufReader::new(read).lines();
        for answer in ["{\"return\": {}, \"id\": 1}"].iter().chain(answers) {
            lines.next_line().await.unwrap();
            write.write_all(answer.as_bytes()).await.unwrap();
            write.write_all(b"\n").await.unwrap();
        }
        lines.next_line().await.unwrap();
    });
    Qmp::open(ours, limit).await
}

#[tokio::test]
async fn odd_answers_are_errors_and_not_hangs() {
    let mut qmp = scripted(&["nonsense", "{\"return\": 7, \"id\": 3}"], LIMIT).await.unwrap();
    for _ in 0..2 {
        let odd = qmp.execute(&QueryStatus {}).await.unwrap_err();
        assert!(matches!(odd, QmpError::Protocol { .. }), "{odd}");
    }
    assert!(matches!(qmp.execute(&QueryStatus {}).await.unwrap_err(), QmpError::Closed | QmpError::Io(_)));

    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"HTTP/1.1 400 Bad Request\n").await.unwrap();
    assert!(matches!(Qmp::open(ours, LIMIT).await.unwrap_err(), QmpError::Protocol { .. }));
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_timeout_that_names_the_command() {
    let short = Duration::from_millis(50);
    let mut qmp = scripted(&["{\"event\": \"RESUME\"}"], short).await.unwrap();
    let late = qmp.execute(&QueryStatus {}).await.unwrap_err();
    assert!(matches!(late, QmpError::Timeout { command: "query-status", .. }), "{late}");
}
