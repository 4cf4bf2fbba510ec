//! The host's real session with the real agent.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod support;

use bytes::Bytes;
use hearth_pool::session::{Channel, Command, GetLimits, Piece, Session, SessionError};
use hearth_schemas::guest::messages::{ExecLimits, FaultKind, LimitHit, User};
use support::{Agent, LONG, eventually, process_is_alive};
use tokio::net::UnixStream;

async fn session(agent: &Agent) -> Session {
    Session::connect(UnixStream::connect(agent.socket()).await.unwrap(), LONG).await.unwrap()
}

fn command(script: &str) -> Command {
    Command {
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        cwd: String::new(),
        limits: ExecLimits::default(),
        user: User::Job,
        ip: false,
        fresh: false,
    }
}

#[tokio::test]
async fn a_whole_life() {
    let mut agent = Agent::start().await;
    let session = session(&agent).await;
    assert!(!session.hello().awake);
    session.ping(LONG).await.unwrap();
    session.quiesce(LONG).await.unwrap();
    let woken = session.wake(support::wake(4), LONG).await.unwrap();
    assert_eq!(woken.identity.unwrap().token, 4);

    let content = vec![0xffu8; 3_000_000];
    let mut upload = session.put().await.unwrap();
    upload.file("in/data", 0o644, content.len() as u64, &content[..]).await.unwrap();
    upload.file("in/empty", 0o644, 0, &b""[..]).await.unwrap();
    assert_eq!(upload.finish(LONG).await.unwrap().files, 2);

    let running =
        session.exec(command("cat > out; wc -c < in/data; echo no >&2; exit 3"), true).await.unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let output = |channel, bytes: Bytes| match channel {
        Channel::Stdout => stdout.extend_from_slice(&bytes),
        Channel::Stderr => stderr.extend_from_slice(&bytes),
    };
    let exited = running.finish(Bytes::from_static(b"fed"), output, std::future::pending()).await.unwrap();
    assert_eq!(
        (exited.exit_code, stdout.as_slice(), stderr.as_slice()),
        (Some(3), &b"3000000\n"[..], &b"no\n"[..])
    );

    let limits = GetLimits { files_max: 9, file_max_bytes: 1 << 30, total_max_bytes: 1 << 30 };
    let mut download = session.get(vec!["out".into(), "in/*".into(), "none".into()], limits).await.unwrap();
    let mut got = Vec::new();
    while let Some(head) = download.next().await.unwrap() {
        let mut bytes = Vec::new();
        while let Piece::Data(data) = download.piece().await.unwrap() {
            bytes.extend_from_slice(&data);
        }
        got.push((head.path, bytes));
    }
    assert!(
        got == [
            ("in/data".to_owned(), content),
            ("in/empty".into(), vec![]),
            ("out".into(), b"fed".to_vec())
        ]
    );
    assert_eq!(download.done().unwrap().missing, ["none"]);

    session.shutdown(LONG).await.unwrap();
    drop(session);
    assert!(agent.ended().await.success());
}

#[tokio::test]
async fn a_refused_upload_says_why_however_much_was_still_to_come() {
    let agent = Agent::start().await;
    let session = session(&agent).await;
    let mut upload = session.put().await.unwrap();
    let content = vec![1u8; 5_000_000];
    let sent = upload.file("../x", 0o644, content.len() as u64, &content[..]).await;
    let refused = match sent {
        Ok(()) => upload.finish(LONG).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(&refused, SessionError::Fault { kind: FaultKind::Path, .. }), "{refused:?}");
}

#[tokio::test]
async fn a_kill_and_a_dropped_command_end_the_tree() {
    let agent = Agent::start().await;
    let session = session(&agent).await;
    let script = "trap '' TERM; (setsid sleep 1000 &); echo $$; while :; do sleep 1; done";
    let (heard, mut hears) = tokio::sync::mpsc::channel(9);
    let output = |_, bytes: Bytes| drop(heard.try_send(bytes));
    let running = session.exec(command(script), false).await.unwrap();
    let kill = async { drop(hears.recv().await) };
    let exited = running.finish(Bytes::new(), output, kill).await.unwrap();
    assert!(exited.killed && exited.signal == Some(9) && exited.limit_hit() == LimitHit::None);

    let (heard, mut hears) = tokio::sync::mpsc::channel(9);
    let output = |_, bytes: Bytes| drop(heard.try_send(bytes));
    let running = session.exec(command(script), false).await.unwrap();
    let line = tokio::select! {
        line = hears.recv() => line.unwrap(),
        end = running.finish(Bytes::new(), output, std::future::pending()) => panic!("{end:?}"),
    };
    let pid = std::str::from_utf8(&line).unwrap().trim().parse().unwrap();
    eventually(|| !process_is_alive(pid), "what nobody waits for is killed").await;
}
