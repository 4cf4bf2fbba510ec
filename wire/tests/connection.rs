//! Both ends over a pipe, and one end against bytes that no peer of ours would send.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

use std::time::Duration;

use bytes::Bytes;
use hearth_schemas::guest::{
    PRELUDE,
    messages::{HelloReply, Kill, Ping, Request, request},
    mux::{Direction, Received},
};
use hearth_wire::{Connection, HelloError, Stream, StreamError, accept, connect};
use proptest::prelude::*;
use tokio::{io::AsyncWriteExt, time::timeout};

const LONG: Duration = Duration::from_secs(20);

async fn pair() -> ((Connection, Stream), (Connection, Stream)) {
    let (host_io, agent_io) = tokio::io::duplex(64 * 1024);
    let (host, agent) = tokio::join!(connect(host_io), accept(agent_io, HelloReply::default()));
    let (host, host_zero, _) = host.unwrap();
    ((host, host_zero), agent.unwrap())
}

#[tokio::test]
async fn bytes_go_both_ways_whole_and_in_order() {
    let ((host, _hz), (agent, _az)) = pair().await;
    let sent: Bytes = (0..3_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    let echo = tokio::spawn(async move {
        let mut stream = agent.next_request().await.unwrap();
        while let Some(data) = stream.receiver.data().await.unwrap() {
            stream.sender.data(data).await.unwrap();
        }
        stream.sender.end().await.unwrap();
        agent.ended().await
    });
    let stream = host.open(Direction::Both).await.unwrap();
    let (sender, mut receiver) = (stream.sender, stream.receiver);
    let data = sent.clone();
    let sending = tokio::spawn(async move {
        sender.data(data).await.unwrap();
        sender.end().await.unwrap();
    });
    let mut back = Vec::new();
    while let Some(data) = receiver.data().await.unwrap() {
        back.extend_from_slice(&data);
    }
    sending.await.unwrap();
    assert!(back == sent);
    drop((host, receiver, _hz));
    timeout(LONG, echo).await.expect("the agent learns that the host is gone").unwrap();
}

#[tokio::test]
async fn a_ping_passes_a_stalled_bulk_stream() {
    let ((host, _hz), (agent, _az)) = pair().await;
    tokio::spawn(async move {
        let _bulk = agent.next_request().await.unwrap();
        let mut ping = agent.next_request().await.unwrap();
        let _: Request = ping.receiver.message().await.unwrap();
        ping.sender.message(&Kill {}).await.unwrap();
        std::future::pending::<()>().await;
    });
    let bulk = host.open(Direction::Both).await.unwrap();
    let stuck = tokio::spawn(async move { bulk.sender.data(vec![0; 50_000_000].into()).await });
    let mut ping = host.open(Direction::Both).await.unwrap();
    ping.sender.message(&Request { body: Some(request::Body::Ping(Ping {})) }).await.unwrap();
    timeout(LONG, ping.receiver.message::<Kill>()).await.expect("control waits behind data").unwrap();
    assert!(!stuck.is_finished(), "50 MB do not fit a window");
}

#[tokio::test]
async fn one_way_streams_are_taken_by_their_number() {
    let ((host, _hz), (agent, _az)) = pair().await;
    let mut out = host.open(Direction::Receive).await.unwrap();
    let request = host.open(Direction::Both).await.unwrap();
    request.sender.message(&Kill {}).await.unwrap();
    let _request = agent.next_request().await.unwrap();
    let theirs = agent.take(out.id()).await.unwrap();
    assert!(agent.take(out.id()).await.is_none(), "once");
    theirs.sender.data(Bytes::from_static(b"hi")).await.unwrap();
    theirs.sender.end().await.unwrap();
    assert_eq!(out.receiver.next().await.unwrap(), Some(Received::Data(Bytes::from_static(b"hi"))));
    assert_eq!(out.receiver.next().await.unwrap(), None);
}

#[tokio::test]
async fn thousands_of_dropped_streams_leave_room_for_more() {
    let ((host, _hz), (agent, _az)) = pair().await;
    tokio::spawn(async move {
        while let Some(stream) = agent.next_request().await {
            let _ = stream.sender.message(&Kill {}).await;
        }
    });
    for _ in 0..2000 {
        let mut stream = timeout(LONG, host.open(Direction::Both)).await.unwrap().unwrap();
        let answer =
            timeout(LONG, stream.receiver.message::<Kill>()).await.expect("an answer to every stream");
        answer.unwrap();
    }
}

#[tokio::test]
async fn noise_before_the_prelude_is_skipped() {
    let (mut host_io, agent_io) = tokio::io::duplex(64 * 1024);
    let agent = tokio::spawn(accept(agent_io, HelloReply::default()));
    host_io.write_all(b"[    0.000000] Linux version 6.1\r\n\0HEART").await.unwrap();
    let host = timeout(LONG, connect(host_io)).await.unwrap();
    assert!(host.is_ok() && agent.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_peer_without_a_common_version_is_named() {
    let (host_io, agent_io) = tokio::io::duplex(64 * 1024);
    let old = HelloReply { version: 0, version_min: 7, version_max: 9, ..HelloReply::default() };
    tokio::spawn(async move {
        let (connection, zero) = accept(agent_io, HelloReply::default()).await.unwrap();
        drop((connection, zero));
    });
    assert!(connect(host_io).await.is_ok(), "our own versions agree");
    let (host_io, mut raw) = tokio::io::duplex(64 * 1024);
    let mut bytes = bytes::BytesMut::from(&PRELUDE[..]);
    let payload = prost::Message::encode_to_vec(&old).into();
    let reply = hearth_schemas::guest::frame::Frame {
        stream: 0,
        kind: hearth_schemas::guest::frame::Kind::Control,
        payload,
    };
    hearth_schemas::guest::frame::encode(&reply, &mut bytes);
    raw.write_all(&bytes).await.unwrap();
    assert!(matches!(connect(host_io).await, Err(HelloError::Version { min: 7, max: 9 })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_hostile_agent_ends_the_session_and_nothing_else(
        bytes in proptest::collection::vec(any::<u8>(), 0..4096), prelude in any::<bool>()
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome: Result<(), StreamError> = runtime.block_on(async {
            let (host_io, mut raw) = tokio::io::duplex(64 * 1024);
            if prelude {
                raw.write_all(&PRELUDE).await.unwrap();
            }
            raw.write_all(&bytes).await.unwrap();
            drop(raw);
            match timeout(LONG, connect(host_io)).await.expect("never hangs") {
                Ok(_) => Ok(()),
                Err(HelloError::Stream(error)) => Err(error),
                Err(HelloError::Version { .. }) => Ok(()),
            }
        });
        let _ = outcome;
    }
}
