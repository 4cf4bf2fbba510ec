//! Bytes and messages that no host of ours would send: the agent must outlive them all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod support;

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use hearth_schemas::guest::{
    PRELUDE,
    frame::{Frame, Kind, encode},
    messages::{
        Exec, ExecLimits, Get, Hello, Identity, Ping, Put, PutEntry, PutEntryEnd, PutItem, Quiesce, Request,
        Wake, put_item, request,
    },
};
use proptest::{collection::vec, option, prelude::*, test_runner::TestRunner};
use prost::Message as _;
use support::{Agent, Client, LONG};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::{Builder, Runtime},
    time::timeout,
};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Sends raw bytes as a host, hangs up, and then asks on a new connection whether the agent lives.
fn outlives(agent: &mut Agent, bytes: &[u8]) {
    runtime().block_on(async {
        let mut raw = UnixStream::connect(agent.socket()).await.unwrap();
        let (mut reader, mut writer) = raw.split();
        let send = async {
            // It may hang up first.
            let _ = writer.write_all(bytes).await;
            let _ = writer.shutdown().await;
        };
        let mut sink = Vec::new();
        let (_, read) = tokio::join!(send, timeout(LONG, reader.read_to_end(&mut sink)));
        let _ = read.expect("it hangs up in the end");
        Client::new(&agent.socket()).await.ping().await;
    });
    assert!(agent.is_alive());
}

fn frame(stream: u32, kind: Kind, payload: impl Into<Bytes>, out: &mut BytesMut) {
    encode(&Frame { stream, kind, payload: payload.into() }, out);
}

fn greeting() -> BytesMut {
    let mut bytes = BytesMut::from(&PRELUDE[..]);
    let hello = Hello { version_min: 1, version_max: 1 };
    frame(0, Kind::Control, hello.encode_to_vec(), &mut bytes);
    bytes
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Control),
        Just(Kind::Data),
        Just(Kind::Credit),
        Just(Kind::End),
        Just(Kind::Reset),
        Just(Kind::Open),
    ]
}

fn any_path() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{1,3}", "[a-c/.]{0,12}", "\\PC{0,8}", Just("x".repeat(2000))]
}

fn any_limit() -> impl Strategy<Value = Option<u64>> {
    option::of(prop_oneof![Just(0), 1u64..200, Just(u64::MAX)])
}

/// Anything but harm to the host that runs the test: a command can only be one that does nothing.
fn any_exec() -> impl Strategy<Value = Exec> {
    let argv =
        vec(prop_oneof![Just("true".to_owned()), Just("/nonexistent".into()), Just("a\0b".into())], 0..3);
    let env = proptest::collection::btree_map("[A-Z=]{0,4}", "[a-z\0/:]{0,6}", 0..4);
    let streams = (0u32..8, 0u32..8, 0u32..8);
    let limits = (any_limit(), any_limit(), any_limit(), any_limit(), any_limit(), any_limit(), any_limit());
    let limits = option::of(limits);
    let rest = (-1i32..3, any::<bool>());
    (argv, env, any_path(), streams, limits, rest).prop_map(
        |(argv, env, cwd, streams, limits, (user, fresh))| Exec {
            argv,
            env,
            cwd,
            stdin: streams.0,
            stdout: streams.1,
            stderr: streams.2,
            limits: limits.map(
                |(wall_ms, cpu_ms, memory_bytes, processes, output_bytes, open_files, file_size_bytes)| {
                    ExecLimits {
                        wall_ms,
                        cpu_ms,
                        memory_bytes,
                        processes,
                        output_bytes,
                        open_files,
                        file_size_bytes,
                        ..ExecLimits::default()
                    }
                },
            ),
            user,
            ip: user == 1,
            fresh,
            live: streams.0,
            ..Exec::default()
        },
    )
}

fn any_request() -> impl Strategy<Value = request::Body> {
    let identity = option::of((any::<u32>(), any::<u32>(), any::<u64>()));
    let wake = (any::<u64>(), vec(any::<u8>(), 0..600), any_path(), identity);
    prop_oneof![
        Just(request::Body::Ping(Ping {})),
        Just(request::Body::Put(Put {})),
        Just(request::Body::Quiesce(Quiesce {})),
        any_exec().prop_map(request::Body::Exec),
        (vec(any_path(), 0..80), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
            |(globs, files, file, total)| {
                request::Body::Get(Get {
                    globs,
                    files_max: files,
                    file_max_bytes: file,
                    total_max_bytes: total,
                })
            }
        ),
        wake.prop_map(|(now_unix_ns, entropy, hostname, identity)| {
            let identity = identity.map(|(cid, port, token)| Identity { cid, port, token });
            request::Body::Wake(Wake { now_unix_ns, entropy, hostname, identity, ..Wake::default() })
        }),
    ]
}

fn any_item() -> impl Strategy<Value = PutItem> {
    let entry = (any_path(), any::<u32>(), prop_oneof![0u64..10, any::<u64>()]);
    option::of(prop_oneof![
        entry.prop_map(|(path, mode, size_bytes)| put_item::Body::Entry(PutEntry { path, mode, size_bytes })),
        vec(any::<u8>(), 0..40).prop_map(|sha256| put_item::Body::End(PutEntryEnd { sha256 })),
    ])
    .prop_map(|body| PutItem { body })
}

/// What may follow the greeting on one of a few streams.
fn any_frame() -> impl Strategy<Value = (u32, Kind, Vec<u8>)> {
    let payload = prop_oneof![
        vec(any::<u8>(), 0..64),
        any_request().prop_map(|body| Request { body: Some(body) }.encode_to_vec()),
        any_item().prop_map(|item| item.encode_to_vec()),
    ];
    (0u32..8, any_kind(), payload).prop_map(|(stream, kind, payload)| {
        let payload = match kind {
            Kind::Open => std::vec![payload.first().map_or(0, |byte| byte % 4)],
            Kind::Credit => (payload.len() as u32).to_le_bytes().to_vec(),
            Kind::End | Kind::Reset => std::vec![],
            Kind::Control | Kind::Data => payload,
        };
        (stream, kind, payload)
    })
}

/// Tries many values on one agent.
fn try_all<S: Strategy>(strategy: S, to_bytes: impl Fn(S::Value) -> BytesMut) {
    let agent = RefCell::new(runtime().block_on(Agent::start()));
    let config =
        ProptestConfig { cases: 96, max_shrink_iters: 50, failure_persistence: None, ..Default::default() };
    let attempt = |value| {
        outlives(&mut agent.borrow_mut(), &to_bytes(value));
        Ok(())
    };
    TestRunner::new(config).run(&strategy, attempt).unwrap();
}

#[test]
fn it_outlives_any_bytes() {
    try_all((vec(any::<u8>(), 0..2000), any::<bool>()), |(bytes, greeted)| {
        let mut all = if greeted { greeting() } else { BytesMut::new() };
        all.extend_from_slice(&bytes);
        all
    });
}

#[test]
fn it_outlives_any_order_of_frames() {
    try_all(vec(any_frame(), 0..40), |frames| {
        let mut all = greeting();
        for (stream, kind, payload) in frames {
            frame(stream, kind, payload, &mut all);
        }
        all
    });
}

#[test]
fn it_answers_any_request_or_refuses_it() {
    try_all((any_request(), vec(any_item(), 0..4)), |(body, items)| {
        let mut all = greeting();
        for stream in 1..=3 {
            frame(stream, Kind::Open, std::vec![if stream == 1 { 1 } else { 2 }], &mut all);
        }
        frame(4, Kind::Open, std::vec![0], &mut all);
        frame(4, Kind::Control, Request { body: Some(body) }.encode_to_vec(), &mut all);
        for item in items {
            frame(4, Kind::Control, item.encode_to_vec(), &mut all);
            frame(4, Kind::Data, std::vec![7; 5], &mut all);
        }
        frame(4, Kind::End, std::vec![], &mut all);
        all
    });
}

#[test]
fn an_unknown_request_is_refused_and_the_session_goes_on() {
    runtime().block_on(async {
        let agent = Agent::start().await;
        let client = agent.client().await;
        let mut stream = client.connection.open(hearth_schemas::guest::mux::Direction::Both).await.unwrap();
        stream.sender.message(&Request { body: None }).await.unwrap();
        let answer = support::answer(&mut stream).await;
        assert!(format!("{answer:?}").contains("Unsupported"), "{answer:?}");
        client.ping().await;
    });
}

#[test]
fn silent_connections_do_not_keep_others_out() {
    runtime().block_on(async {
        let agent = Agent::start().await;
        // More than the agent serves at once; each is dropped when it does not say hello in time.
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(UnixStream::connect(agent.socket()).await.unwrap());
        }
        agent.client().await.ping().await;
    });
}
