//! Real VMs: bake, restore, dial, destroy. Needs QEMU, vhost-device-vsock, root, Debian's tools and the guest agent;
//! says aloud what it misses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may"
)]

mod bare;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hearth_pool::{
    guard::{Guard, GuardCommand, serve},
    hypervisor::{Hypervisor, RestoreError, Slot},
    image::{self, Image, ImageRequest, Progress},
    kvm::known_kvm,
    lease::Identity,
    qemu::{BakeRequest, Qemu, QemuConfig, QemuVm, bake_snapshot, probe_kvm},
    runtime::{AgentTransport, Runtime, Runtimes},
    session::Session,
    snapshot::{Baked, HostFacts, SnapshotStore, Verification, host_facts},
};
use hearth_schemas::manifest::Accelerator;
use tokio::time::{Instant, timeout};

const LIMIT: Duration = Duration::from_secs(60);

fn this_binary(role: &str) -> GuardCommand {
    GuardCommand {
        program: std::env::current_exe().unwrap(),
        arguments: ["--exact", role, "--ignored", "--nocapture", "--test-threads=1"].map(Into::into).to_vec(),
    }
}

#[test]
#[ignore = "not a test: the guard process of the others"]
fn role_guard() {
    serve().unwrap();
}

struct Print;

impl Progress for Print {
    fn report(&self, step: &'static str, message: &str) {
        println!("{step}: {message}");
    }
}

/// Everything that lasts longer than one test run: images and snapshots.
fn data_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("data")
}

fn agent() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../x86_64-unknown-linux-musl/agent/hearth-agent")
}

fn which(program: &str) -> Option<PathBuf> {
    let places = ["/usr/local/bin", "/usr/bin", "/root/.cargo/bin", "/usr/sbin"];
    places.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists())
}

struct Rig {
    run: tempfile::TempDir,
    config: QemuConfig,
    guard: Guard,
    here: HostFacts,
    runtime: Runtime,
    image: Image,
}

/// `None` when this host lacks something, which is said.
async fn rig() -> Option<Rig> {
    let missing = |what: &str| {
        println!("SKIPPED: {what}");
        None
    };
    let Some(qemu) = which("qemu-system-x86_64") else { return missing("no qemu-system-x86_64") };
    let Some(vsock_daemon) = which("vhost-device-vsock") else { return missing("no vhost-device-vsock") };
    if !agent().exists() {
        return missing("no guest agent (make agent)");
    }
    let run = tempfile::tempdir().unwrap();
    let data_dir = data_dir();
    let config = QemuConfig {
        qemu,
        vsock_daemon,
        run_dir: run.path().to_owned(),
        memory_dir: run.path().join("memory"),
        scratch_dir: run.path().join("scratch"),
        rates: Default::default(),
        insecure_seccomp: false,
        worker: "test".to_owned(),
        data_dir,
    };
    let runtime = Runtimes::load(None).unwrap().get("bash").unwrap().clone();
    let request = ImageRequest { data: &config.data_dir, runtime: &runtime, agent: &agent(), refresh: false };
    let image = match image::build(&request, &Print).await {
        Ok(image) => image,
        Err(error) => return missing(&format!("no image: {error}")),
    };
    let guard = Guard::start(&this_binary("role_guard"), run.path(), "test").await.unwrap();
    let here = host_facts(&config.qemu, Accelerator::Tcg).await.unwrap();
    Some(Rig { run, config, guard, here, runtime, image })
}

impl Rig {
    async fn bake(&self, again: bool) -> Baked {
        let request = BakeRequest {
            config: &self.config,
            guard: &self.guard,
            here: &self.here,
            runtime: &self.runtime,
            image: &self.image,
            network: None,
            again,
        };
        bake_snapshot(&request, &Print).await.unwrap()
    }

    fn qemu(&self) -> Qemu {
        Qemu::new(self.config.clone(), self.here.clone(), self.guard.clone())
    }

    fn nothing_is_left(&self) {
        for directory in ["vms", "memory", "scratch"] {
            let entries = fs::read_dir(self.run.path().join(directory));
            assert!(entries.map_or(true, |mut entries| entries.next().is_none()), "{directory}");
        }
        let needle = self.run.path().display().to_string();
        for process in fs::read_dir("/proc").unwrap() {
            let line = fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&line).contains(&needle), "a process is left");
        }
    }
}

fn slot(number: u32) -> Slot {
    Slot { runtime: "bash".to_owned(), number }
}

fn identity(cid: u32, token: u64) -> Identity {
    Identity { cid, port: 9000, token }
}

async fn greet(qemu: &Qemu, vm: &QemuVm) {
    let session = Session::connect(qemu.dial(vm).await.unwrap(), LIMIT).await.unwrap();
    assert!(!session.hello().awake);
    session.ping(LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_baked_runtime_restores_answers_and_leaves_nothing() {
    let Some(rig) = rig().await else { return };
    let baked = rig.bake(false).await;
    println!("{baked:?}");
    let begun = Instant::now();
    assert!(matches!(rig.bake(false).await, Baked::Unchanged(_)), "nothing has changed");
    assert!(begun.elapsed() < Duration::from_secs(1));

    let qemu = Arc::new(rig.qemu());
    for round in 0..5 {
        let begun = Instant::now();
        let restored = qemu.restore(&slot(0), &identity(3, round)).await.unwrap();
        let restore = begun.elapsed();
        greet(&qemu, &restored.vm).await;
        println!("restore {restore:?}, answered {:?}: {:?}", begun.elapsed(), restored.steps);
        let busy = qemu.restore(&slot(1), &identity(3, 100)).await.unwrap_err();
        assert!(matches!(busy, RestoreError::IdentityBusy { cid: 3 }), "{busy}");
        qemu.destroy(&slot(0), Some(restored.vm)).await.unwrap();
    }
    let rounds = (0..4).map(|number| {
        let qemu = Arc::clone(&qemu);
        tokio::spawn(async move {
            let slot = slot(number);
            let begun = Instant::now();
            let restored = qemu.restore(&slot, &identity(10 + number, 1)).await.unwrap();
            greet(&qemu, &restored.vm).await;
            println!("one of four answered {:?}: {:?}", begun.elapsed(), restored.steps);
            qemu.destroy(&slot, Some(restored.vm)).await.unwrap();
            qemu.destroy(&slot, None).await.unwrap();
        })
    });
    for round in rounds.collect::<Vec<_>>() {
        round.await.unwrap();
    }
    rig.nothing_is_left();
}

/// Where KVM is broken (it is emulated by many nested hosts) the probe must say no; where it works, yes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_of_kvm_ends_in_time_and_its_answer_is_remembered() {
    let Some(rig) = rig().await else { return };
    let data = tempfile::tempdir().unwrap();
    let config = QemuConfig { data_dir: data.path().to_owned(), ..rig.config.clone() };
    let probe = probe_kvm(&config, &rig.guard, &rig.here, &rig.runtime, &rig.image, &Print);
    let answer = timeout(LIMIT, probe).await.unwrap().unwrap();
    println!("KVM: {answer:?}");
    rig.nothing_is_left();
    assert_eq!(known_kvm(data.path(), &rig.here), Some(answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_dropped_anywhere_leaves_nothing_after_destroy() {
    let Some(rig) = rig().await else { return };
    rig.bake(false).await;
    let qemu = rig.qemu();
    for (token, after_ms) in (0..).step_by(8).map(Duration::from_millis).enumerate().take(25) {
        let identity = identity(3, u64::try_from(token).unwrap());
        let dropped = timeout(after_ms, qemu.restore(&slot(0), &identity)).await;
        drop(dropped);
        qemu.destroy(&slot(0), None).await.unwrap();
        rig.nothing_is_left();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_whose_process_dies_is_noticed_and_a_snapshot_that_does_not_fit_is_refused() {
    let Some(mut rig) = rig().await else { return };
    rig.bake(false).await;
    let qemu = rig.qemu();
    let restored = qemu.restore(&slot(0), &identity(3, 1)).await.unwrap();
    assert!(timeout(Duration::from_millis(20), qemu.exited(&restored.vm)).await.is_err());
    let processes = fs::read(rig.run.path().join("vms/bash-0-3-1/owner.json")).unwrap();
    let processes: serde_json::Value = serde_json::from_slice(&processes).unwrap();
    let pid = processes["processes"][0]["pid"].to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    timeout(LIMIT, qemu.exited(&restored.vm)).await.expect("noticed");
    qemu.destroy(&slot(0), Some(restored.vm)).await.unwrap();

    rig.here.hypervisor_version = "11.0".to_owned();
    let refused = rig.qemu().restore(&slot(0), &identity(3, 2)).await.unwrap_err();
    assert!(refused.to_string().ends_with("here is 11.0: run `hearth bake bash`"), "{refused}");
    let store = SnapshotStore::new(&rig.config.data_dir);
    assert!(store.current("bash", &rig.here, Verification::Size).is_err());
    rig.nothing_is_left();
}

/// The worker's guard is killed: its VMs die with it, and destroy clears up without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroy_without_a_guard_leaves_nothing() {
    let Some(rig) = rig().await else { return };
    rig.bake(false).await;
    let qemu = rig.qemu();
    let restored = qemu.restore(&slot(0), &identity(3, 1)).await.unwrap();
    let pid = rig.guard.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    timeout(LIMIT, qemu.exited(&restored.vm)).await.expect("noticed");
    let deadline = Instant::now() + LIMIT;
    // The first tries may come before the kernel is through with the processes.
    while let Err(error) = qemu.destroy(&slot(0), None).await {
        assert!(Instant::now() < deadline, "{error}: {}", error.what);
    }
    rig.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_without_vsock_is_reached_over_its_serial_port_where_its_snapshot_allows_that() {
    let Some(rig) = rig().await else { return };
    let data = rig.config.data_dir.join("serial");
    fs::create_dir_all(&data).unwrap();
    let config = QemuConfig { data_dir: data.clone(), ..rig.config.clone() };
    let image = bare::without_vsock(&rig.image, &data);
    let runtime = |name: &str, transport| Runtime { name: name.to_owned(), transport, ..rig.runtime.clone() };
    let either = AgentTransport::VsockOrSerial;
    let qemu = Qemu::new(config.clone(), rig.here.clone(), rig.guard.clone());
    for (runtime, image, transport) in [
        (runtime("either", either), &rig.image, "vhost_user_vsock"),
        (runtime("without", either), &image, "serial"),
        (runtime("serial", AgentTransport::Serial), &rig.image, "serial"),
    ] {
        let request = BakeRequest {
            config: &config,
            guard: &rig.guard,
            here: &rig.here,
            runtime: &runtime,
            image,
            network: None,
            again: true,
        };
        bake_snapshot(&request, &Print).await.unwrap();
        // Clones of one snapshot, each with a port of its own.
        let slots = [0, 1].map(|number| Slot { runtime: runtime.name.clone(), number });
        let mut vms = Vec::new();
        for (slot, cid) in slots.iter().zip(3..) {
            vms.push(qemu.restore(slot, &identity(cid, 1)).await.unwrap());
        }
        for (slot, restored) in slots.iter().zip(vms) {
            let vm = restored.vm;
            greet(&qemu, &vm).await;
            assert_eq!(qemu.transport(&vm), transport, "{}: {:?}", runtime.name, restored.steps);
            assert_eq!(qemu.listen(&vm, 9000).is_ok(), transport != "serial");
            if transport == "serial" {
                // A host that comes again begins anew.
                greet(&qemu, &vm).await;
            }
            qemu.destroy(slot, Some(vm)).await.unwrap();
        }
    }
    // What a snapshot does not allow is no way out.
    let stubborn = runtime("stubborn", AgentTransport::Vsock);
    let request = BakeRequest {
        config: &config,
        guard: &rig.guard,
        here: &rig.here,
        runtime: &stubborn,
        image: &image,
        network: None,
        again: true,
    };
    bake_snapshot(&request, &Print).await.unwrap();
    let slot = Slot { runtime: stubborn.name.clone(), number: 0 };
    let error = qemu.restore(&slot, &identity(3, 2)).await.unwrap_err();
    assert!(matches!(error, RestoreError::Timeout { step: "driver", .. }), "{error}");
    qemu.destroy(&slot, None).await.unwrap();
    rig.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leased_port_has_a_listener_of_its_own() {
    let Some(rig) = rig().await else { return };
    rig.bake(false).await;
    let qemu = rig.qemu();
    let restored = qemu.restore(&slot(0), &identity(3, 1)).await.unwrap();
    let listener = qemu.listen(&restored.vm, 9000).unwrap();
    assert!(rig.run.path().join("vms/bash-0-3-1/vsock_9000").exists());
    drop(listener);
    qemu.destroy(&slot(0), Some(restored.vm)).await.unwrap();
    rig.nothing_is_left();
}
