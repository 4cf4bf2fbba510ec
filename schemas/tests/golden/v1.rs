//! One of every message and frame of version 1, every field set.

use bytes::Bytes;
use hearth_schemas::guest::{
    frame::{Frame, Kind},
    live::LiveLost,
    messages::{
        Exec, ExecLimits, Exited, Fault, FaultKind, Get, GetDone, GetEntry, GetEntryEnd, Given, Hello,
        HelloReply, Identity, Kill, LimitHit, Live, LiveOpened, Network, Output, Ping, Pong, Put, PutDone,
        PutEntry, PutEntryEnd, PutItem, Quiesce, Quiesced, Reply, Request, Shutdown, ShuttingDown,
        SkipReason, Skipped, Started, Usage, User, Wake, Woken, put_item, reply, request,
    },
};

use crate::Golden;

fn request(golden: &mut Golden, name: &str, body: request::Body) {
    golden.message(&format!("request-{name}"), &Request { body: Some(body) });
}

fn reply(golden: &mut Golden, name: &str, body: reply::Body) {
    golden.message(&format!("reply-{name}"), &Reply { body: Some(body) });
}

pub fn frames(golden: &mut Golden) {
    let mut frame = |name: &str, kind, payload: &'static [u8]| {
        golden.frame(
            &format!("frame-{name}"),
            &Frame { stream: 0x0102_0304, kind, payload: Bytes::from_static(payload) },
        );
    };
    frame("control", Kind::Control, b"\x08\x01");
    frame("data", Kind::Data, b"\x00\xffdata");
    frame("data-empty", Kind::Data, b"");
    frame("credit", Kind::Credit, &[0, 0, 4, 0]);
    frame("end", Kind::End, b"");
    frame("reset", Kind::Reset, b"");
    frame("open-both", Kind::Open, &[0]);
    frame("open-to-agent", Kind::Open, &[1]);
    frame("open-to-host", Kind::Open, &[2]);
}

pub fn greeting_and_waking(golden: &mut Golden) {
    golden.message("hello", &Hello { version_min: 1, version_max: 2 });
    let controllers = vec!["cpu".into(), "memory".into(), "pids".into()];
    let hello = HelloReply {
        version: 1,
        version_min: 1,
        version_max: 1,
        agent: "0.1.0".into(),
        controllers,
        awake: true,
        disk_quota: true,
        ..HelloReply::default()
    };
    golden.message("hello-reply", &hello);
    golden.message("hello-reply-live", &HelloReply { live: true, ..hello.clone() });
    let able = HelloReply { file_limits: true, ip: true, ..hello.clone() };
    golden.message("hello-reply-file-limits", &able);
    golden.message("hello-reply-network", &HelloReply { network: true, ..hello.clone() });
    golden.message("hello-reply-fresh-copy", &HelloReply { fresh_copy: true, ..hello });
    request(golden, "ping", request::Body::Ping(Ping {}));
    reply(golden, "pong", reply::Body::Pong(Pong { monotonic_ns: 1_234_567_890_123 }));
    let identity = Some(Identity { cid: 7, port: 9001, token: u64::MAX });
    let wake = Wake {
        now_unix_ns: 1_794_000_000_123_456_789,
        entropy: (0..64).collect(),
        hostname: "hearth-7".into(),
        identity: identity.clone(),
        nonce: vec![9; 32],
        network: None,
    };
    request(golden, "wake", request::Body::Wake(wake.clone()));
    let network =
        Some(Network { address: 0xc000_0002, prefix_bits: 30, gateway: 0xc000_0001, resolver: 0xc000_0001 });
    request(golden, "wake-network", request::Body::Wake(Wake { network: network.clone(), ..wake }));
    let woken = Woken {
        entropy_bytes: 64,
        reseeded: true,
        clock_step_ns: -1_500_000_000,
        hostname: "hearth-7".into(),
        identity,
        scratch_bytes: 510_873_600,
        machine_id: "841363cf601644c5a151ab8b40029ecb".into(),
        network: None,
    };
    reply(golden, "woken", reply::Body::Woken(woken.clone()));
    reply(golden, "woken-network", reply::Body::Woken(Woken { network, ..woken }));
    request(golden, "quiesce", request::Body::Quiesce(Quiesce {}));
    reply(golden, "quiesced", reply::Body::Quiesced(Quiesced {}));
    request(golden, "shutdown", request::Body::Shutdown(Shutdown {}));
    reply(golden, "shutting-down", reply::Body::ShuttingDown(ShuttingDown {}));
    for kind in [
        FaultKind::Internal,
        FaultKind::Unsupported,
        FaultKind::Path,
        FaultKind::Checksum,
        FaultKind::Exec,
        FaultKind::NoSpace,
        FaultKind::NotAwake,
    ] {
        let fault = Fault { kind: kind.into(), message: "path \"../x\": has an empty component".into() };
        reply(golden, &format!("fault-{}", kind as i32), reply::Body::Fault(fault));
    }
}

pub fn files(golden: &mut Golden) {
    request(golden, "put", request::Body::Put(Put {}));
    let entry = PutEntry { path: "a/b.py".into(), mode: 0o644, size_bytes: 5_000_000_000 };
    golden.message("put-item-entry", &PutItem { body: Some(put_item::Body::Entry(entry)) });
    let end = PutEntryEnd { sha256: (0..32).collect() };
    golden.message("put-item-end", &PutItem { body: Some(put_item::Body::End(end)) });
    reply(golden, "put-done", reply::Body::PutDone(PutDone { files: 2, bytes: 5_000_000_001 }));
    let get = Get {
        globs: vec!["plots/*.png".into(), "**/ü".into()],
        files_max: 256,
        file_max_bytes: 1 << 23,
        total_max_bytes: 1 << 24,
    };
    request(golden, "get", request::Body::Get(get));
    let entry = GetEntry { path: "plots/1.png".into(), mode: 0o600, size_bytes: 12_345 };
    reply(golden, "get-entry", reply::Body::GetEntry(entry));
    reply(golden, "get-entry-end", reply::Body::GetEntryEnd(GetEntryEnd { sha256: (0..32).rev().collect() }));
    reply(golden, "get-entry-void", reply::Body::GetEntryEnd(GetEntryEnd { sha256: vec![] }));
    let skipped = [
        SkipReason::Unknown,
        SkipReason::NotRegular,
        SkipReason::TooLarge,
        SkipReason::TooMany,
        SkipReason::Name,
        SkipReason::Unreadable,
    ];
    let skipped = skipped.map(|reason| Skipped { path: "x".into(), reason: reason.into(), size_bytes: 99 });
    let done = GetDone { missing: vec!["no/*".into()], skipped: skipped.into(), skipped_more: 1000 };
    reply(golden, "get-done", reply::Body::GetDone(done));
}

/// Commands in copies of the working tree.
pub fn copies(golden: &mut Golden) {
    let fresh = Exec { argv: vec!["true".into()], stdout: 2, stderr: 3, fresh: true, ..Exec::default() };
    request(golden, "exec-fresh", request::Body::Exec(fresh));
    let given = vec![Given { name: "answer".into(), stream: 4 }];
    let given =
        Exec { argv: vec!["true".into()], stdout: 2, stderr: 3, fresh: true, given, ..Exec::default() };
    request(golden, "exec-given", request::Body::Exec(given));
    let stdin_bytes = "1 2\n".into();
    let inline = Exec { argv: vec!["cat".into()], fresh: true, inline: true, stdin_bytes, ..Exec::default() };
    request(golden, "exec-inline", request::Body::Exec(inline));
    reply(golden, "output", reply::Body::Output(Output { stderr: true, data: "so\0".into() }));
    let rests = ("3\n".into(), "warned".into());
    let exited = Exited {
        exit_code: Some(0),
        stdout_bytes: 2,
        stderr_bytes: 6,
        stdout_rest: rests.0,
        stderr_rest: rests.1,
        ..Exited::default()
    };
    reply(golden, "exited-rest", reply::Body::Exited(exited));
}

pub fn live(golden: &mut Golden) {
    request(golden, "live", request::Body::Live(Live {}));
    reply(golden, "live-opened", reply::Body::LiveOpened(LiveOpened {}));
    golden.message("live-lost", &LiveLost { bytes: 5_000_000_000, chunks: 77 });
    let exec = Exec { argv: vec!["yes".into()], stdout: 2, stderr: 3, live: 7, ..Exec::default() };
    request(golden, "exec-live", request::Body::Exec(exec));
}

pub fn commands(golden: &mut Golden) {
    let limits = ExecLimits {
        wall_ms: Some(10_000),
        cpu_ms: Some(5000),
        memory_bytes: Some(192 << 20),
        processes: Some(64),
        output_bytes: Some(1 << 20),
        disk_bytes: Some(256 << 20),
        files: Some(1024),
        ..ExecLimits::default()
    };
    let exec = Exec {
        argv: vec!["python3".into(), "main.py".into(), String::new()],
        env: [("PATH".into(), "/usr/bin".into()), ("LANG".into(), "C.UTF-8".into())].into(),
        cwd: "sub/dir".into(),
        stdin: 1,
        stdout: 2,
        stderr: 3,
        limits: Some(limits.clone()),
        user: User::Root.into(),
        ..Exec::default()
    };
    request(golden, "exec", request::Body::Exec(exec.clone()));
    let limits = ExecLimits { open_files: Some(64), file_size_bytes: Some(5 << 30), ..limits };
    let limited = Exec { limits: Some(limits), ip: true, ..exec };
    request(golden, "exec-file-limits", request::Body::Exec(limited));
    let plain = Exec { argv: vec!["true".into()], stdout: 2, stderr: 3, ..Exec::default() };
    request(golden, "exec-plain", request::Body::Exec(plain));
    golden.message("kill", &Kill {});
    reply(golden, "started", reply::Body::Started(Started { pid: 4242 }));
    let usage = Usage {
        wall_us: 1_000_001,
        user_us: 900_000,
        system_us: 100_000,
        memory_peak_bytes: Some(33_554_432),
        processes_peak: Some(5),
        disk_bytes: Some(8_388_608),
    };
    let code = Exited {
        exit_code: Some(0),
        usage: Some(usage),
        stdout_bytes: 6,
        stderr_bytes: 1,
        ..Exited::default()
    };
    reply(golden, "exited-code", reply::Body::Exited(code));
    for limit in [
        LimitHit::None,
        LimitHit::Wall,
        LimitHit::Cpu,
        LimitHit::Memory,
        LimitHit::Processes,
        LimitHit::Output,
        LimitHit::Disk,
        LimitHit::Files,
        LimitHit::FileSize,
    ] {
        let killed = limit == LimitHit::None;
        let exited = Exited {
            signal: Some(9),
            limit_hit: limit.into(),
            killed,
            usage: Some(Usage::default()),
            ..Exited::default()
        };
        reply(golden, &format!("exited-signal-{}", limit as i32), reply::Body::Exited(exited));
    }
}
