//! The API client against a real Firecracker process (which needs no KVM before a VM is started), and against servers
//! that misbehave as no Firecracker should.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may"
)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use hearth_pool::firecracker::api::{
    ApiError, BootSource, DeviceId, Drive, Entropy, Fresh, Limits, Logger, MachineConfig, MemoryBackend,
    Metrics, Serial, SnapshotLoad, TokenBucket, Vsock, VsockOverride,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    process::{Child, Command},
};

/// `FIRECRACKER`, else `firecracker` on the PATH.
fn binary() -> Option<PathBuf> {
    let named = env::var_os("FIRECRACKER").map(PathBuf::from);
    let found = named.or_else(|| {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|directory| directory.join("firecracker")).find(|file| file.is_file())
    });
    if found.is_none() {
        eprintln!("SKIPPED: no firecracker on the PATH, and FIRECRACKER does not name one");
    }
    found
}

struct Process {
    child: Child,
    directory: tempfile::TempDir,
}

impl Process {
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new(binary()?)
            .args(["--api-sock", "api.sock", "--id", "test"])
            .current_dir(directory.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Some(Self { child, directory })
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    async fn connect(&self) -> Fresh {
        Fresh::connect(&self.directory.path().join("api.sock"), Limits::default()).await.unwrap()
    }
}

fn fault(error: ApiError) -> String {
    match error {
        ApiError::Fault { status: 400, message, .. } => message,
        other => panic!("{other:?}"),
    }
}

fn load(from: &str) -> SnapshotLoad {
    SnapshotLoad {
        snapshot_path: from.to_owned(),
        mem_backend: MemoryBackend::File("memory".to_owned()),
        resume_vm: false,
        network_overrides: Vec::new(),
        vsock_override: None,
    }
}

#[tokio::test]
async fn a_vm_is_described_piece_by_piece_and_each_fault_says_what_is_wrong() {
    let Some(process) = Process::start() else { return };
    let mut fresh = process.connect().await;
    for file in ["log", "metrics", "console", "disk"] {
        fs::write(process.path(file), [0; 512]).unwrap();
    }
    let log = Logger { log_path: process.path("log"), level: "Info", show_level: true };
    fresh.logger(log).await.unwrap();
    fresh.metrics(Metrics { metrics_path: process.path("metrics") }).await.unwrap();
    fresh.serial(Serial { serial_out_path: process.path("console"), rate_limiter: None }).await.unwrap();

    let mut booting = fresh.boot();
    booting.machine(MachineConfig { vcpu_count: 1, mem_size_mib: 128, smt: false }).await.unwrap();
    let odd = booting.machine(MachineConfig { vcpu_count: 0, mem_size_mib: 128, smt: false }).await;
    let odd = fault(odd.unwrap_err());
    assert!(odd.contains("number of vCPUs must be"), "{odd}");
    let drive = |path: String| Drive {
        drive_id: DeviceId::new("root").unwrap(),
        path_on_host: path,
        is_root_device: false,
        is_read_only: true,
        rate_limiter: None,
    };
    booting.drive(drive(process.path("disk"))).await.unwrap();
    let absent = fault(booting.drive(drive(process.path("absent"))).await.unwrap_err());
    assert!(absent.contains("No such file or directory"), "{absent}");
    booting.vsock(Vsock { guest_cid: 3, uds_path: "v.sock".to_owned() }).await.unwrap();
    booting.entropy(Entropy::default()).await.unwrap();
    let kernel = BootSource {
        kernel_image_path: process.path("absent"),
        initrd_path: None,
        boot_args: "console=ttyS0".to_owned(),
    };
    assert!(fault(booting.boot_source(kernel).await.unwrap_err()).contains("kernel file cannot be opened"));
    let nothing_to_boot = fault(booting.start().await.unwrap_err());
    assert!(nothing_to_boot.contains("kernel"), "{nothing_to_boot}");
}

#[tokio::test]
async fn a_failed_load_ends_the_process_and_says_why() {
    let Some(mut process) = Process::start() else { return };
    let fresh = process.connect().await;
    fs::write(process.path("vmstate"), vec![7; 4096]).unwrap();
    let why = fault(fresh.load(load("vmstate")).await.unwrap_err());
    assert!(why.contains("Load snapshot error"), "{why}");
    let ended = tokio::time::timeout(Duration::from_secs(10), process.child.wait()).await;
    assert!(!ended.expect("it ends").unwrap().success());
}

#[tokio::test]
async fn what_this_release_does_not_know_is_not_sent() {
    let Some(mut process) = Process::start() else { return };
    let mut fresh = process.connect().await;
    fs::write(process.path("console"), "").unwrap();
    let limited = Serial {
        serial_out_path: process.path("console"),
        rate_limiter: Some(TokenBucket { size: 4096, one_time_burst: None, refill_time: 100 }),
    };
    let features = fresh.features();
    match fresh.serial(limited).await {
        Ok(()) => assert!(features.serial_rate_limiter),
        Err(ApiError::Gated(_)) => assert!(!features.serial_rate_limiter),
        Err(other) => panic!("{other:?}"),
    }
    let elsewhere = Some(VsockOverride { uds_path: "other.sock".to_owned() });
    let refused = fresh.load(SnapshotLoad { vsock_override: elsewhere, ..load("absent") }).await;
    if features.vsock_override {
        // It knows the field, and only misses the file.
        assert!(fault(refused.unwrap_err()).contains("No such file or directory"));
    } else {
        assert!(matches!(refused.unwrap_err(), ApiError::Gated(_)));
        assert!(process.child.try_wait().unwrap().is_none(), "the process lives, nothing was sent");
    }
}

/// Seen in NQRust-MicroVM, whose client configured first and loaded then. Here [`Fresh`] has no call that configures and
/// [`Fresh::boot`] consumes it; the raw calls show what Firecracker would say.
#[tokio::test]
async fn nothing_is_configured_before_a_load() {
    let Some(process) = Process::start() else { return };
    drop(process.connect().await);
    let socket = process.directory.path().join("api.sock");
    let machine = raw(&socket, "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":128}"#).await;
    assert!(machine.starts_with("HTTP/1.1 204"), "{machine}");
    let load = r#"{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"m"}}"#;
    let refused = raw(&socket, "/snapshot/load", load).await;
    let reason = "Loading a microVM snapshot not allowed after configuring boot-specific resources";
    assert!(refused.starts_with("HTTP/1.1 400") && refused.contains(reason), "{refused}");
}

async fn raw(socket: &Path, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let length = body.len();
    let request = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

/// Answers the first connection with these bytes and keeps it open.
fn server(answer: &'static [u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Before the request is there, HTTP/1 knows of no answer.
        stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
        stream.write_all(answer).await.unwrap();
        std::future::pending::<()>().await;
    });
    (directory, socket)
}

fn short() -> Limits {
    Limits { setup: Duration::from_millis(200), ..Limits::default() }
}

#[tokio::test]
async fn the_release_that_loses_vsock_is_refused_at_the_first_call() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\n{\"firecracker_version\": \"1.16.0\"}";
    let (_directory, socket) = server(answer);
    let refused = Fresh::connect(&socket, Limits::default()).await.unwrap_err().to_string();
    assert!(refused.contains("1.16.0") && refused.contains("silent"), "{refused}");
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    let (_directory, socket) = server(b"");
    let error = Fresh::connect(&socket, short()).await.unwrap_err();
    assert!(matches!(&error, ApiError::Timeout { request, .. } if request == "GET /version"), "{error:?}");
    let absent = Path::new("/nonexistent/api.sock");
    let error = Fresh::connect(absent, short()).await.unwrap_err();
    assert!(matches!(error, ApiError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn an_odd_answer_is_an_error_with_the_calls_name() {
    for (answer, means) in [
        (b"no HTTP at all\r\n\r\n".as_slice(), "GET /version"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "firecracker_version"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"firecracker_version\":\"x\"} ", "GET /version"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nbusy", "busy (HTTP 500)"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{", "GET /version"),
    ] {
        let (_directory, socket) = server(answer);
        let error = Fresh::connect(&socket, short()).await.unwrap_err().to_string();
        assert!(error.contains(means), "{error}");
    }
}
