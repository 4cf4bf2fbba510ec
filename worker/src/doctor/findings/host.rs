//! The host: what runs a guest, and where it is kept.

use super::{Finding, Level, Program, Version};
use crate::doctor::facts::{
    BakeTools, Cgroup, Directory, Hypervisor, Kvm, SerialPort, Snapshot, SnapshotState, Vsock,
};

/// The first with `migrate file:`; Debian bookworm itself has 7.2.
const QEMU_LEAST: Version = Version(8, 2, 0);
/// A bake's image, its parts while it is made, and the snapshot's memory, for the largest built-in runtime.
const BAKE_SPACE_MIB: u64 = 3 * 1024;
/// Sockets, locks, records and the logs of QEMU.
const RUN_SPACE_MIB: u64 = 16;
/// What the agent, QEMU and its daemon take beside the guest's memory.
const VM_OVERHEAD_MIB: u64 = 128;
/// What the jailer limits a VM by.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// What lacks for any of them has lines of its own, so this one never fails.
pub fn hypervisor(hypervisor: &Result<Hypervisor, String>) -> Finding {
    match hypervisor {
        Err(why) => Finding::new("hypervisor", Level::Warn, why).remedy("see the lines below"),
        Ok(Hypervisor { firecracker: true, insecure: true, why, transport }) => {
            Finding::new("hypervisor", Level::Warn, format!("firecracker, {why}; over {transport}"))
                .remedy("leave --insecure (HEARTH_INSECURE) out")
        }
        Ok(Hypervisor { firecracker, why, transport, .. }) => {
            let name = if *firecracker { "firecracker" } else { "qemu" };
            Finding::new("hypervisor", Level::Ok, format!("{name}, {why}; over {transport}"))
        }
    }
}

pub fn kvm(kvm: &Kvm) -> Finding {
    let slow = "guests run under TCG, an order of magnitude slower";
    match kvm {
        Kvm::Works => Finding::new("kvm", Level::Ok, "a guest booted with it"),
        Kvm::Absent => Finding::new("kvm", Level::Warn, format!("no /dev/kvm; {slow}"))
            .remedy("switch virtualisation on in the firmware (or nested virtualisation on this VM's host), then modprobe kvm_intel or kvm_amd"),
        Kvm::Denied { why } => {
            Finding::new("kvm", Level::Warn, format!("/dev/kvm cannot be opened ({why}); {slow}"))
                .remedy("run as root, or add this user to the group kvm")
        }
        Kvm::Untried => {
            Finding::new("kvm", Level::Warn, "/dev/kvm is there, which proves nothing until a guest boots with it")
                .remedy("run: hearth doctor --probe")
        }
        Kvm::Broken { why } => {
            Finding::new("kvm", Level::Warn, format!("/dev/kvm is there and no guest boots with it ({why}); {slow}"))
                .remedy("if the host was mended since, run: hearth doctor --probe")
        }
    }
}

pub fn qemu(qemu: &Program) -> Finding {
    let install = "apt-get install --no-install-recommends qemu-system-x86 \
        (on Debian bookworm add -t bookworm-backports: its own 7.2 is too old)";
    match qemu {
        Program::Missing => Finding::new("qemu", Level::Fail, "qemu-system-x86_64 not found").remedy(install),
        Program::Found { path, version: None } => {
            Finding::new("qemu", Level::Warn, format!("{} does not tell its version", path.display()))
                .remedy(install)
        }
        Program::Found { path, version: Some(version) } if *version < QEMU_LEAST => {
            let detail = format!(
                "{version} ({}) cannot snapshot to a file: {QEMU_LEAST} is the first",
                path.display()
            );
            Finding::new("qemu", Level::Fail, detail).remedy(install)
        }
        Program::Found { path, version: Some(version) } => {
            Finding::new("qemu", Level::Ok, format!("{version} ({})", path.display()))
        }
    }
}

pub fn vsock(vsock: &Vsock) -> Finding {
    match (&vsock.daemon, vsock.kernel) {
        (Program::Found { path, version }, kernel) => {
            let version = version.map(|version| format!("{version} ")).unwrap_or_default();
            let kernel = if kernel { "; kernel vhost-vsock is there too" } else { "" };
            Finding::new(
                "vsock",
                Level::Ok,
                format!("vhost-device-vsock {version}({}){kernel}", path.display()),
            )
        }
        (Program::Missing, true) => Finding::new("vsock", Level::Ok, "kernel vhost-vsock"),
        (Program::Missing, false) => Finding::new(
            "vsock",
            Level::Fail,
            "neither vhost-device-vsock nor /dev/vhost-vsock: a guest cannot be reached",
        )
        .remedy("run: cargo install --locked vhost-device-vsock (or: modprobe vhost_vsock)"),
    }
}

pub fn cgroup(cgroup: &Cgroup) -> Finding {
    let inside = "a job's limits hold inside its VM all the same";
    let Some(mount) = &cgroup.mount else {
        return Finding::new("cgroup", Level::Warn, format!("no cgroup v2 on this host; {inside}"))
            .remedy("boot with systemd.unified_cgroup_hierarchy=1 to limit VMs as a whole");
    };
    let missing: Vec<&str> =
        CONTROLLERS.into_iter().filter(|name| !cgroup.controllers.iter().any(|have| have == name)).collect();
    if missing.is_empty() {
        let detail = format!("v2 on {} with {}", mount.display(), cgroup.controllers.join(", "));
        return Finding::new("cgroup", Level::Ok, detail);
    }
    let detail = format!("v2 on {} lacks {}; {inside}", mount.display(), missing.join(", "));
    Finding::new("cgroup", Level::Warn, detail)
        .remedy("boot with systemd.unified_cgroup_hierarchy=1, so that v1 does not hold the controllers")
}

pub fn data_dir(directory: &Directory) -> Finding {
    let path = directory.path.display();
    if !directory.writable {
        return Finding::new("data dir", Level::Warn, format!("{path} cannot be written: no bake here"))
            .remedy("run as root, or give --data-dir (HEARTH_DATA)");
    }
    match directory.free_mib {
        None => Finding::new("data dir", Level::Warn, format!("{path}: free space unknown")),
        Some(free) if free < BAKE_SPACE_MIB => Finding::new(
            "data dir",
            Level::Warn,
            format!("{path}: {free} MiB free, a bake may need {BAKE_SPACE_MIB}"),
        )
        .remedy("make room, or give --data-dir (HEARTH_DATA) on another disk"),
        Some(free) => Finding::new("data dir", Level::Ok, format!("{path}: {free} MiB free")),
    }
}

pub fn run_dir(directory: &Directory, root: bool, snapshots: &[Snapshot]) -> Finding {
    let path = directory.path.display();
    let elsewhere = "give --run-dir (HEARTH_RUN), best on tmpfs";
    if !directory.writable {
        return Finding::new("run dir", Level::Fail, format!("{path} cannot be written: no VM can start"))
            .remedy(format!("run as root, or {elsewhere}"));
    }
    // Root mounts a tmpfs of its own for the memory of VMs; who may not keeps it here.
    let memory_mib = if root { 0 } else { least_memory_mib(snapshots) };
    let needed = RUN_SPACE_MIB + memory_mib;
    match directory.free_mib {
        Some(free) if free < needed => {
            Finding::new("run dir", Level::Fail, format!("{path}: {free} MiB free, a VM needs {needed}"))
                .remedy(format!("make room, or {elsewhere}"))
        }
        _ if !root && !directory.tmpfs => Finding::new(
            "run dir",
            Level::Warn,
            format!("{path} is on disk, and the memory of VMs is written there"),
        )
        .remedy(format!("run as root, or {elsewhere}")),
        Some(free) => Finding::new("run dir", Level::Ok, format!("{path}: {free} MiB free")),
        None => Finding::new("run dir", Level::Warn, format!("{path}: free space unknown")),
    }
}

pub fn memory(available_mib: Option<u64>, snapshots: &[Snapshot]) -> Finding {
    let needed = least_memory_mib(snapshots).saturating_add(VM_OVERHEAD_MIB);
    match available_mib {
        None => Finding::new("memory", Level::Warn, "/proc/meminfo does not say how much is available"),
        Some(available) if available < needed => {
            Finding::new("memory", Level::Fail, format!("{available} MiB available, a VM needs {needed}"))
                .remedy("end something else, or bake a runtime with a smaller vm_memory_mib")
        }
        Some(available) => Finding::new("memory", Level::Ok, format!("{available} MiB available")),
    }
}

pub fn bake(tools: &BakeTools) -> Finding {
    if !tools.missing.is_empty() {
        let (commands, packages): (Vec<&str>, Vec<&str>) = tools.missing.iter().copied().unzip();
        return Finding::new("bake", Level::Warn, format!("no bake here without {}", commands.join(", ")))
            .remedy(format!("apt-get install --no-install-recommends {}", packages.join(" ")));
    }
    let agent = tools.agent.display();
    if !tools.agent_found {
        return Finding::new("bake", Level::Warn, format!("no guest agent at {agent}: no bake here"))
            .remedy("run: make agent, or give --agent (HEARTH_AGENT)");
    }
    Finding::new("bake", Level::Ok, format!("every tool is there; agent {agent}"))
}

/// One line per runtime; a missing snapshot is no fault as long as there is another one.
pub fn snapshots(snapshots: &[Snapshot]) -> Vec<Finding> {
    let any = snapshots.iter().any(|snapshot| snapshot.state == SnapshotState::Fits);
    let without = if any { Level::Warn } else { Level::Fail };
    let finding = |snapshot: &Snapshot| {
        let name = format!("snapshot {}", snapshot.runtime);
        let bake = format!("run: hearth bake {}", snapshot.runtime);
        match &snapshot.state {
            SnapshotState::Fits => Finding::new(
                &name,
                Level::Ok,
                format!("fits this host ({} MiB per VM){}", snapshot.vm_memory_mib, over(snapshot.serial)),
            ),
            SnapshotState::Absent => Finding::new(&name, without, "not baked").remedy(bake),
            SnapshotState::Unfit(why) => Finding::new(&name, without, why).remedy(bake),
        }
    };
    if snapshots.is_empty() {
        return vec![Finding::new("snapshots", Level::Fail, "no runtimes").remedy("give --runtimes DIR")];
    }
    snapshots.iter().map(finding).collect()
}

fn over(serial: Option<SerialPort>) -> &'static str {
    match serial {
        None => "",
        Some(SerialPort::Always) => "; its agent is reached over the serial port, which is slow",
        Some(SerialPort::WithoutVsock) => "; over the serial port where vsock does not answer",
    }
}

/// Memory of the smallest VM that can run here, in MiB; of the smallest runtime when none is baked.
fn least_memory_mib(snapshots: &[Snapshot]) -> u64 {
    let fitting = snapshots.iter().filter(|snapshot| snapshot.state == SnapshotState::Fits);
    let least = fitting.map(|snapshot| snapshot.vm_memory_mib).min();
    least.or_else(|| snapshots.iter().map(|snapshot| snapshot.vm_memory_mib).min()).unwrap_or(0)
}
