//! What a restore costs here, against Firecracker alone: by hand, with the same jailer and files, in the same run. Ratios only:
//! inside the rig every time is emulated.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use futures_util::future::join_all;
use hearth_pool::{
    firecracker::{
        Confinement, Firecracker,
        api::{Fresh, Limits, MemoryBackend, SnapshotLoad},
    },
    hypervisor::Hypervisor,
    snapshot::Verification,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
    time::Instant,
};

use super::{Rig, identity, slot, vmms, wake};

/// Rounds of each series, one after the other, so that whatever else the machine does hits all of them.
const ROUNDS: u32 = 7;
/// VMs at once.
const AT_ONCE: u32 = 10;

/// A clone that was made with nothing of ours but the client of the API. Ended when dropped.
struct ByHand {
    _child: Child,
    directory: tempfile::TempDir,
}

impl Drop for ByHand {
    fn drop(&mut self) {
        // With a jailer the process is a child of its own.
        let root = self.directory.path().display().to_string();
        for pid in vmms() {
            let link = fs::read_link(format!("/proc/{pid}/root")).unwrap_or_default();
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            if link.starts_with(&root) || cwd.starts_with(&root) {
                super::kill(pid);
            }
        }
    }
}

/// Links and a copy of the scratch disk, spawn, load with resume, first answer of the guest's vsock.
async fn by_hand(rig: &Rig, jailer: Option<&Path>, nth: u32) -> ByHand {
    let jails = rig.config.data_dir.join("by-hand");
    fs::create_dir_all(&jails).unwrap();
    let directory = tempfile::tempdir_in(jails).unwrap();
    let (id, program) = (format!("hand-{nth}"), &rig.config.firecracker);
    let name = program.file_name().unwrap();
    let root = match jailer {
        Some(_) => directory.path().join(name).join(&id).join("root"),
        None => directory.path().to_owned(),
    };
    fs::create_dir_all(&root).unwrap();
    let snapshot = rig.config.store().current("bash", &rig.here, Verification::Size).unwrap();
    for (from, to) in
        [(snapshot.root(), "root.img"), (snapshot.memory(), "memory"), (snapshot.state(), "state")]
    {
        fs::hard_link(from, root.join(to)).unwrap();
    }
    let scratch = root.join("scratch.img");
    let mut copy = std::process::Command::new("cp");
    copy.arg("--sparse=always").arg(snapshot.scratch()).arg(&scratch);
    assert!(copy.status().unwrap().success());
    fs::set_permissions(&scratch, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let uid = 210_000 + nth;
    std::os::unix::fs::chown(&scratch, Some(uid), Some(uid)).unwrap();
    let mut command = match jailer {
        Some(jailer) => {
            let mut command = Command::new(jailer);
            let uid = uid.to_string();
            command.args(["--id", &id, "--uid", &uid, "--gid", &uid, "--exec-file"]).arg(program);
            command.arg("--chroot-base-dir").arg(directory.path());
            command.args(["--cgroup-version", "2", "--parent-cgroup", "by-hand", "--"]);
            command
        }
        None => Command::new(program),
    };
    command.args(["--api-sock", "api.sock", "--level", "Warning"]).current_dir(&root);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let fresh = Fresh::connect(&root.join("api.sock"), Limits::default()).await.unwrap();
    let load = SnapshotLoad {
        snapshot_path: "state".to_owned(),
        mem_backend: MemoryBackend::File("memory".to_owned()),
        resume_vm: true,
        network_overrides: Vec::new(),
        vsock_override: None,
    };
    fresh.load(load).await.unwrap();
    loop {
        let mut stream = UnixStream::connect(root.join("vsock.sock")).await.unwrap();
        stream.write_all(b"CONNECT 1000\n").await.unwrap();
        if stream.read_u8().await.is_ok() {
            return ByHand { _child: child, directory };
        }
    }
}

/// Restored, greeted and woken.
async fn ours(firecracker: &Firecracker, nth: u32) -> hearth_pool::firecracker::FirecrackerVm {
    let restored = firecracker.restore(&slot(nth), &identity(nth)).await.unwrap();
    drop(wake(firecracker, &restored.vm, nth).await);
    restored.vm
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Memory that only this process has, in KiB.
fn private_kib(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let lines = rollup.lines().filter_map(|line| line.strip_prefix("Private_"));
    lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

async fn gone() {
    super::until(super::LIMIT, "every VM is gone", || vmms().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "not a test: measures; `tests/rig/test-firecracker.sh --ignored real::bench` runs it"]
async fn role_bench() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    let jailer = match &rig.config.confinement {
        Confinement::Jailer(jailer) => Some(jailer.jailer.clone()),
        Confinement::InsecureDirect => None,
    };
    let mut series: [Vec<f64>; 3] = Default::default();
    let (mut bare_kib, mut our_kib) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (times, jailer) in series.iter_mut().zip([None::<&PathBuf>, jailer.as_ref()]) {
            let begun = Instant::now();
            let clone = by_hand(&rig, jailer.map(PathBuf::as_path), round).await;
            times.push(begun.elapsed().as_secs_f64());
            bare_kib.extend(vmms().first().map(|pid| private_kib(*pid) as f64));
            drop(clone);
            gone().await;
        }
        let begun = Instant::now();
        let vm = ours(&firecracker, round).await;
        series[2].push(begun.elapsed().as_secs_f64());
        our_kib.extend(vmms().first().map(|pid| private_kib(*pid) as f64));
        firecracker.destroy(&slot(round), Some(vm)).await.unwrap();
        gone().await;
    }
    let [direct, jailed, woken] = series.map(median);
    let begun = Instant::now();
    let hands = join_all((0..AT_ONCE).map(|nth| by_hand(&rig, jailer.as_deref(), nth))).await;
    let hands_took = begun.elapsed().as_secs_f64();
    drop(hands);
    gone().await;
    let begun = Instant::now();
    let vms = join_all((0..AT_ONCE).map(|nth| ours(&firecracker, nth))).await;
    let ours_took = begun.elapsed().as_secs_f64();
    for (vm, nth) in vms.into_iter().zip(0..) {
        firecracker.destroy(&slot(nth), Some(vm)).await.unwrap();
    }
    println!("bench: restore to wake confirmed over the floor by hand, same jailer: {:.2}", woken / jailed);
    println!("bench: the floor with the jailer over the floor without it: {:.2}", jailed / direct);
    println!("bench: {AT_ONCE} at once over {AT_ONCE} by hand: {:.2}", ours_took / hands_took);
    println!(
        "bench: private memory of a woken VM over a bare clone's: {:.2}",
        median(our_kib) / median(bare_kib)
    );
    rig.nothing_is_left();
}
