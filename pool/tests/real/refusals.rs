//! What is refused, by Firecracker or before it is asked.

use std::{fs, os::unix::fs::PermissionsExt};

use hearth_pool::{
    firecracker::{
        Confinement, Firecracker, FirecrackerConfig,
        api::{Fresh, Limits},
    },
    hypervisor::{Hypervisor, RestoreError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{Rig, identity, slot, wake};

/// Without a jail, whose root has no shell for it: what is started is a script that starts Firecracker without its filters.
#[tokio::test]
async fn a_firecracker_without_filters_is_refused_unless_that_is_allowed() {
    let Some(rig) = Rig::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let wrapper = directory.path().join("firecracker");
    let real = rig.config.firecracker.display();
    fs::write(&wrapper, format!("#!/bin/sh\nexec {real} --no-seccomp \"$@\"\n")).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let firecracker = |insecure_seccomp| {
        let config = FirecrackerConfig {
            firecracker: wrapper.clone(),
            confinement: Confinement::InsecureDirect,
            insecure_seccomp,
            ..rig.config.clone()
        };
        Firecracker::new(config, rig.here.clone(), rig.guard.clone())
    };
    let strict = firecracker(false);
    let Err(RestoreError::Vmm(why)) = strict.restore(&slot(0), &identity(0)).await else {
        panic!("it was restored")
    };
    assert!(why.contains("without a system call filter (allow it with insecure.seccomp): "), "{why}");
    strict.destroy(&slot(0), None).await.unwrap();
    let lax = firecracker(true);
    let restored = lax.restore(&slot(0), &identity(1)).await.unwrap();
    wake(&lax, &restored.vm, 1).await;
    lax.destroy(&slot(0), Some(restored.vm)).await.unwrap();
    rig.nothing_is_left();
}

/// Seen in NQRust: "Loading a microVM snapshot not allowed after configuring boot-specific resources". The first half shows
/// Firecracker's own answer, by hand; a process that is being described has no `load` here, and a fresh one has.
#[tokio::test]
async fn a_snapshot_is_loaded_before_anything_is_configured() {
    let Some(rig) = Rig::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let mut child = tokio::process::Command::new(&rig.config.firecracker)
        .arg("--api-sock")
        .arg(&socket)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    drop(Fresh::connect(&socket, Limits::default()).await.unwrap());
    let configured = put(&socket, "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":128}"#).await;
    assert!(configured.starts_with("HTTP/1.1 204"), "{configured}");
    let load = r#"{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"m"}}"#;
    let refused = put(&socket, "/snapshot/load", load).await;
    assert!(refused.contains("not allowed after configuring boot-specific resources"), "{refused}");
    child.kill().await.unwrap();
}

async fn put(socket: &std::path::Path, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let length = body.len();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
