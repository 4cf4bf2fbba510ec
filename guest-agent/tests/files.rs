//! Files into and out of the working tree, by the real agent on this host.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _};

use hearth_schemas::guest::messages::{
    Fault, FaultKind, Get, Put, PutEntry, PutItem, SkipReason, put_item, reply, request,
};
use support::{Agent, answer, eventually, put_file};

fn wanted(globs: &[&str]) -> Get {
    let globs = globs.iter().map(|glob| (*glob).to_owned()).collect();
    Get { globs, files_max: 100, file_max_bytes: 1 << 30, total_max_bytes: 1 << 30 }
}

fn fault(body: reply::Body) -> Fault {
    match body {
        reply::Body::Fault(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_byte_comes_back_as_it_went() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let binary: Vec<u8> = (0..5_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let files: [(&str, u32, &[u8]); 4] = [
        ("big.bin", 0o600, &binary),
        ("a/b/all", 0o755, &all_bytes),
        ("empty", 0o644, b""),
        ("ü/wörld \u{1f980}", 0o400, b"x"),
    ];
    let done = client.put(&files).await;
    let bytes: usize = files.iter().map(|(_, _, content)| content.len()).sum();
    assert!(matches!(done, reply::Body::PutDone(done) if done.files == 4 && done.bytes == bytes as u64));
    let mode = |path: &str| fs::metadata(agent.tree().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("a/b/all"), mode("a"), mode("empty")), (0o755, 0o755, 0o644));
    let (got, done) = client.get(wanted(&["**"])).await.unwrap();
    assert_eq!((&done.missing, &done.skipped), (&vec![], &vec![]));
    let names: Vec<_> = got.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(names, ["a/b/all", "big.bin", "empty", "ü/wörld \u{1f980}"], "in order");
    assert!(got[0].1 == all_bytes && got[1].1 == binary && got[2].1.is_empty() && got[3].1 == b"x");
}

#[tokio::test]
async fn a_path_that_leaves_the_tree_is_refused_and_nothing_is_written() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    fs::write(agent.directory.path().join("outside"), "secret").unwrap();
    // What a job could plant before a later upload.
    let planted = "ln -s .. up; ln -s ../outside file; mkdir d; ln -s /proc/self/root d/root; mkfifo pipe";
    assert_eq!(client.sh(planted).await.exited.exit_code, Some(0));
    let long = "x".repeat(256);
    for path in [
        "../outside",
        "/etc/hearth",
        "up/outside",
        "d/root/etc/hearth",
        "d/../../outside",
        "d",
        "",
        "a//b",
        &long,
    ] {
        let fault = fault(client.put(&[(path, 0o644, b"x")]).await);
        assert_eq!(fault.kind(), FaultKind::Path, "{path}: {fault:?}");
        assert!(fault.message.starts_with("path") || fault.message.starts_with("cannot write"), "{fault:?}");
    }
    // A link or a pipe in the place of the file is replaced, never written through.
    assert!(matches!(
        client.put(&[("file", 0o644, b"x"), ("pipe", 0o644, b"y")]).await,
        reply::Body::PutDone(_)
    ));
    assert_eq!(fs::read(agent.directory.path().join("outside")).unwrap(), b"secret");
    assert_eq!(fs::read(agent.tree().join("file")).unwrap(), b"x");
    assert!(!std::path::Path::new("/etc/hearth").exists());
}

#[tokio::test]
async fn downloads_follow_no_link_and_wait_for_no_pipe() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    fs::write(agent.directory.path().join("outside"), "secret").unwrap();
    let planted = "ln -s .. up; ln -s ../outside link; mkfifo pipe; echo ok > ok; : > $(printf 'bad\\377')";
    assert_eq!(client.sh(planted).await.exited.exit_code, Some(0));
    let (got, done) = client.get(wanted(&["*", "up/*", "up/**/outside", "none/*.x"])).await.unwrap();
    assert_eq!(got, [("ok".to_owned(), b"ok\n".to_vec())]);
    assert_eq!(done.missing, ["up/*", "up/**/outside", "none/*.x"]);
    let skipped: Vec<_> = done.skipped.iter().map(|one| (one.path.as_str(), one.reason())).collect();
    assert_eq!(
        skipped,
        [
            ("bad\u{fffd}", SkipReason::Name),
            ("link", SkipReason::NotRegular),
            ("pipe", SkipReason::NotRegular),
            ("up", SkipReason::NotRegular),
        ]
    );
    for glob in ["../*", "/etc/*", "", "[a"] {
        let fault = client.get(wanted(&["ok", glob])).await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Unsupported);
        assert!(fault.message.starts_with("globs[1]"), "{fault:?}");
    }
}

#[tokio::test]
async fn limits_of_a_download_are_kept_and_told() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    client.put(&[("a", 0o644, &[1; 900]), ("b", 0o644, &[2; 2000]), ("c", 0o644, &[3; 200])]).await;
    let limits = Get { files_max: 5, file_max_bytes: 1000, total_max_bytes: 1000, ..wanted(&["*"]) };
    let (got, done) = client.get(limits).await.unwrap();
    assert_eq!(got.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["a"]);
    let skipped: Vec<_> =
        done.skipped.iter().map(|one| (one.path.as_str(), one.reason(), one.size_bytes)).collect();
    assert_eq!(skipped, [("b", SkipReason::TooLarge, 2000), ("c", SkipReason::TooMany, 200)]);
}

#[tokio::test]
async fn an_upload_that_is_cut_leaves_nothing_of_its_last_file() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let stream = client.open(request::Body::Put(Put {})).await;
    put_file(&stream, "whole", 0o644, b"whole").await;
    let entry = PutEntry { path: "half".into(), mode: 0o644, size_bytes: 100 };
    stream.sender.message(&PutItem { body: Some(put_item::Body::Entry(entry)) }).await.unwrap();
    stream.sender.data(vec![1; 50].into()).await.unwrap();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(agent.tree()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    eventually(|| names().len() == 2, "the file is being written").await;
    drop(stream);
    eventually(|| names() == ["whole"], "and is gone").await;
}

#[tokio::test]
async fn an_upload_that_does_not_match_is_refused_at_once() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let item = |body| PutItem { body: Some(body) };
    let entry =
        |size_bytes| item(put_item::Body::Entry(PutEntry { path: "f".into(), mode: 0o644, size_bytes }));
    // The answer comes although the host has not ended its side.
    let mut stream = client.open(request::Body::Put(Put {})).await;
    stream.sender.message(&entry(3)).await.unwrap();
    stream.sender.data(vec![1; 4].into()).await.unwrap();
    assert_eq!(fault(answer(&mut stream).await).kind(), FaultKind::Checksum);
    let mut stream = client.open(request::Body::Put(Put {})).await;
    stream.sender.data(vec![1; 4].into()).await.unwrap();
    assert_eq!(fault(answer(&mut stream).await).kind(), FaultKind::Unsupported);
    let setuid = fault(client.put(&[("f", 0o4755, b"")]).await);
    assert!(setuid.kind() == FaultKind::Unsupported && setuid.message.contains("mode"), "{setuid:?}");
    assert_eq!(fs::read_dir(agent.tree()).unwrap().count(), 0);
}

#[tokio::test]
async fn uploads_and_downloads_go_on_at_once() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let content = vec![7u8; 2_000_000];
    let files: [(&str, u32, &[u8]); 2] = [("x/1", 0o644, &content), ("x/2", 0o644, &content)];
    let others: [(&str, u32, &[u8]); 2] = [("x/3", 0o644, &content), ("y/4", 0o644, &content)];
    let (one, two, ()) = tokio::join!(client.put(&files), client.put(&others), async {
        for _ in 0..20 {
            client.ping().await;
        }
    });
    assert!(matches!((one, two), (reply::Body::PutDone(_), reply::Body::PutDone(_))));
    let (left, right) = tokio::join!(client.get(wanted(&["x/*"])), client.get(wanted(&["**/4"])));
    assert_eq!((left.unwrap().0.len(), right.unwrap().0.len()), (3, 1));
}

#[tokio::test]
async fn a_tree_of_many_files_does_not_grow_the_agent() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    for directory in 0..40 {
        let path = agent.tree().join(format!("{directory:02}"));
        fs::create_dir(&path).unwrap();
        for file in 0..500 {
            fs::write(path.join(format!("a-name-that-takes-some-room-{file:04}")), "").unwrap();
        }
    }
    let before = support::resident_kib(agent.pid());
    let (got, done) = client.get(Get { files_max: 10, ..wanted(&["**"]) }).await.unwrap();
    assert_eq!(got.len(), 10);
    assert_eq!(done.skipped.len() as u64 + done.skipped_more, 20_000 - 10);
    let grown = support::resident_kib(agent.pid()).saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB");
}
