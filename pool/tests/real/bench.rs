//! What a restore costs here, against Firecracker alone: by hand, with the same jailer and files, in the same run. Ratios only:
//! inside the rig every time is emulated.

mod transfers;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use futures_util::{StreamExt, stream};
use hearth_pool::{
    firecracker::{
        Confinement, Firecracker, FirecrackerVm,
        api::{Fresh, Limits, MemoryBackend, SnapshotLoad},
    },
    hypervisor::{Hypervisor, RestoreStep},
    snapshot::Verification,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
    time::Instant,
};

use super::{LIMIT, Rig, identity, slot, vmms, wake};

/// Rounds of each series, one after the other, so that whatever else the machine does hits all of them.
const ROUNDS: u32 = 15;
/// VMs at once, and how many of them are being made at a time: fifty by turns, as a pool does it.
const AT_ONCE: [(u32, usize); 2] = [(10, 10), (50, 4)];
/// Bounds of the floor's calls: ten of them want two processors.
const LIMITS: Limits = Limits { setup: LIMIT, load: LIMIT, create: LIMIT };

/// How long parts of restores took, in seconds.
#[derive(Default)]
struct Steps(Vec<&'static str>, BTreeMap<&'static str, Vec<f64>>);

impl Steps {
    fn add(&mut self, name: &'static str, took: f64) {
        if !self.0.contains(&name) {
            self.0.push(name);
        }
        self.1.entry(name).or_default().push(took);
    }

    fn add_all(&mut self, steps: &[RestoreStep]) {
        steps.iter().for_each(|step| self.add(step.name, step.took.as_secs_f64()));
    }

    /// Medians, in milliseconds.
    fn print(&self, whose: &str) {
        let part = |name: &&str| format!("{name} {:.1}", 1000.0 * median(self.1[name].clone()));
        println!("bench: {whose}, ms: {}", self.0.iter().map(part).collect::<Vec<_>>().join(", "));
    }
}

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
async fn by_hand(rig: &Rig, jailer: Option<&Path>, nth: u32, steps: &mut Steps) -> ByHand {
    let begun = Instant::now();
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
    steps.add("files", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
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
    let fresh = Fresh::connect(&root.join("api.sock"), LIMITS).await.unwrap();
    steps.add("start", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let load = SnapshotLoad {
        snapshot_path: "state".to_owned(),
        mem_backend: MemoryBackend::File("memory".to_owned()),
        resume_vm: true,
        network_overrides: Vec::new(),
        vsock_override: None,
    };
    fresh.load(load).await.unwrap();
    steps.add("load", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    loop {
        let mut stream = UnixStream::connect(root.join("vsock.sock")).await.unwrap();
        stream.write_all(b"CONNECT 1000\n").await.unwrap();
        if stream.read_u8().await.is_ok() {
            steps.add("answer", begun.elapsed().as_secs_f64());
            return ByHand { _child: child, directory };
        }
    }
}

/// Restored, greeted and woken.
async fn ours(firecracker: &Firecracker, nth: u32, steps: &mut Steps) -> FirecrackerVm {
    let begun = Instant::now();
    let restored = firecracker.restore(&slot(nth), &identity(nth)).await.unwrap();
    steps.add("until it runs", begun.elapsed().as_secs_f64());
    steps.add_all(&restored.steps);
    woken(firecracker, restored.vm, nth, steps).await
}

async fn woken(firecracker: &Firecracker, vm: FirecrackerVm, nth: u32, steps: &mut Steps) -> FirecrackerVm {
    let begun = Instant::now();
    drop(wake(firecracker, &vm, nth).await);
    steps.add("greeting and wake", begun.elapsed().as_secs_f64());
    vm
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

/// So many VMs that live at once, `turns` of them being made at any time, over as many by hand.
async fn at_once(rig: &Rig, jailer: Option<&Path>, count: u32, turns: usize) -> f64 {
    let firecracker = &rig.firecracker();
    let begun = Instant::now();
    let hand = |nth| async move { by_hand(rig, jailer, nth, &mut Steps::default()).await };
    let hands: Vec<_> = stream::iter((0..count).map(hand)).buffered(turns).collect().await;
    let hands_took = begun.elapsed().as_secs_f64();
    drop(hands);
    gone().await;
    let begun = Instant::now();
    let our = |nth| async move { ours(firecracker, nth, &mut Steps::default()).await };
    let vms: Vec<_> = stream::iter((0..count).map(our)).buffered(turns).collect().await;
    let ours_took = begun.elapsed().as_secs_f64();
    assert_eq!(vmms().len(), count as usize);
    for (vm, nth) in vms.into_iter().zip(0..) {
        firecracker.destroy(&slot(nth), Some(vm)).await.unwrap();
    }
    ours_took / hands_took
}

fn jailer_of(rig: &Rig) -> Option<PathBuf> {
    match &rig.config.confinement {
        Confinement::Jailer(jailer) => Some(jailer.jailer.clone()),
        Confinement::InsecureDirect => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "not a test: measures; `tests/rig/test-firecracker.sh --ignored real::bench` runs it"]
async fn role_restores() {
    let Some(rig) = Rig::start().await else { return };
    let firecracker = rig.firecracker();
    let jailer = jailer_of(&rig);
    let mut series: [Vec<f64>; 4] = Default::default();
    let mut steps: [Steps; 4] = Default::default();
    let (mut bare_kib, mut our_kib) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (nth, jailer) in [None::<&PathBuf>, jailer.as_ref()].into_iter().enumerate() {
            let begun = Instant::now();
            let clone = by_hand(&rig, jailer.map(PathBuf::as_path), round, &mut steps[nth]).await;
            series[nth].push(begun.elapsed().as_secs_f64());
            bare_kib.extend(vmms().first().map(|pid| private_kib(*pid) as f64));
            drop(clone);
            gone().await;
        }
        let begun = Instant::now();
        let vm = ours(&firecracker, round, &mut steps[2]).await;
        series[2].push(begun.elapsed().as_secs_f64());
        our_kib.extend(vmms().first().map(|pid| private_kib(*pid) as f64));
        firecracker.destroy(&slot(round), Some(vm)).await.unwrap();
        gone().await;

        let dormant = firecracker.start(&slot(round), &identity(round)).await.unwrap();
        let begun = Instant::now();
        let restored = firecracker.load(dormant).await.unwrap();
        steps[3].add_all(&restored.steps);
        let vm = woken(&firecracker, restored.vm, round, &mut steps[3]).await;
        series[3].push(begun.elapsed().as_secs_f64());
        firecracker.destroy(&slot(round), Some(vm)).await.unwrap();
        gone().await;
    }
    for (steps, whose) in steps.iter().zip(["by hand", "by hand, jailed", "ours", "ours, from dormant"]) {
        steps.print(whose);
    }
    let [direct, jailed, woken, from_dormant] = series.map(median);
    println!("bench: restore to wake confirmed over the floor by hand, same jailer: {:.2}", woken / jailed);
    println!(
        "bench: restore from dormant to wake confirmed over the jailed floor: {:.2}",
        from_dormant / jailed
    );
    println!("bench: the floor with the jailer over the floor without it: {:.2}", jailed / direct);
    println!(
        "bench: private memory of a woken VM over a bare clone's: {:.2}",
        median(our_kib) / median(bare_kib)
    );
    rig.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "not a test: measures; `tests/rig/test-firecracker.sh --ignored real::bench` runs it"]
async fn role_transfers() {
    let Some(rig) = Rig::start().await else { return };
    transfers::measure(&rig.firecracker()).await;
    rig.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "not a test: measures; `tests/rig/test-firecracker.sh --ignored real::bench` runs it"]
async fn role_many_at_once() {
    let Some(rig) = Rig::start().await else { return };
    let jailer = jailer_of(&rig);
    for (count, turns) in AT_ONCE {
        // The first pass is not counted: an emulated machine is slower with pages that a guest has had before, since QEMU drops
        // what it had translated of them, and whoever comes first has none of those.
        at_once(&rig, jailer.as_deref(), count, turns).await;
        let over = at_once(&rig, jailer.as_deref(), count, turns).await;
        println!("bench: {count} at once, {turns} of them made at a time, over {count} by hand: {over:.2}");
    }
    rig.nothing_is_left();
}
