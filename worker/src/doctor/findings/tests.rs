use std::path::PathBuf;

use super::*;
use crate::doctor::facts::{
    BakeTools, Broker, Cgroup, Directory, Hypervisor, Kvm, Network, Redis, SerialPort, Service, Snapshot,
    SnapshotState, Vsock, Worker,
};

fn program(version: Version) -> Program {
    Program::Found { path: "/usr/bin/it".into(), version: Some(version) }
}

fn directory(path: &str, tmpfs: bool) -> Directory {
    Directory { path: path.into(), writable: true, free_mib: Some(10_000), tmpfs }
}

fn snapshot(runtime: &str, state: SnapshotState) -> Snapshot {
    Snapshot { runtime: runtime.into(), vm_memory_mib: 384, state, serial: None }
}

/// A host on which everything is as it should be.
fn good() -> Facts {
    Facts {
        hypervisor: Ok(Hypervisor {
            firecracker: false,
            why: "as told".into(),
            transport: "vhost_user_vsock",
            insecure: false,
        }),
        worker: None,
        kvm: Kvm::Works,
        qemu: program(Version(10, 0, 2)),
        vsock: Vsock { kernel: false, daemon: program(Version(0, 3, 0)) },
        firecracker: program(Version(1, 16, 2)),
        jailer: program(Version(1, 16, 2)),
        cgroup: Cgroup {
            mount: Some("/sys/fs/cgroup".into()),
            controllers: ["cpu", "memory", "pids"].map(str::to_owned).to_vec(),
        },
        data_dir: directory("/var/lib/hearth", false),
        run_dir: directory("/run/hearth", true),
        root: false,
        memory_available_mib: Some(4096),
        network: Network {
            nft: program(Version(1, 0, 6)),
            tun: true,
            forwards: Some(false),
            resolvers: vec!["10.0.0.2".into()],
            links: "198.18.0.0/15".parse().unwrap(),
            in_use: Some(vec!["198.18.0.0/15".into(), "10.200.0.0/16".into()]),
            foreign: vec![],
        },
        bake: BakeTools { missing: vec![], agent: PathBuf::from("/usr/lib/hearth-agent"), agent_found: true },
        snapshots: vec![snapshot("python", SnapshotState::Fits)],
        broker: Service {
            address: "h:5672".into(),
            configured: true,
            answer: Ok(Broker { product: Some("RabbitMQ".into()), version: Some("4.0.5".into()) }),
        },
        redis: Service {
            address: "h:6379".into(),
            configured: true,
            answer: Ok(Redis {
                version: Some("7.0.15".into()),
                append_only: Some(true),
                eviction: Some("noeviction".into()),
            }),
        },
    }
}

/// What is not `Ok`, by name and level.
fn faults(facts: &Facts) -> Vec<(String, Level)> {
    let found = findings(facts);
    for finding in found.iter().filter(|finding| finding.level == Level::Fail) {
        assert!(finding.remedy.is_some(), "{finding:?} says what to do");
    }
    let faulty = found.into_iter().filter(|finding| finding.level != Level::Ok);
    faulty.map(|finding| (finding.name, finding.level)).collect()
}

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = good();
    change(&mut facts);
    facts
}

fn only(name: &str, level: Level) -> Vec<(String, Level)> {
    vec![(name.to_owned(), level)]
}

#[test]
fn a_good_host_has_no_faults() {
    assert_eq!(faults(&good()), []);
    assert!(jobs_can_run(&findings(&good())));
}

#[test]
fn what_jobs_need_fails_and_names_the_remedy() {
    let cases = [
        ("qemu", with(|f| f.qemu = Program::Missing), "apt-get install"),
        ("qemu", with(|f| f.qemu = program(Version(7, 2, 13))), "bookworm-backports"),
        ("vsock", with(|f| f.vsock.daemon = Program::Missing), "cargo install --locked vhost-device-vsock"),
        ("run dir", with(|f| f.run_dir.writable = false), "--run-dir"),
        ("run dir", with(|f| f.run_dir.free_mib = Some(399)), "--run-dir"),
        ("memory", with(|f| f.memory_available_mib = Some(511)), "vm_memory_mib"),
        (
            "snapshot python",
            with(|f| f.snapshots = vec![snapshot("python", SnapshotState::Absent)]),
            "hearth bake python",
        ),
        (
            "snapshot gcc",
            with(|f| f.snapshots = vec![snapshot("gcc", SnapshotState::Unfit("other CPU".into()))]),
            "hearth bake gcc",
        ),
        ("snapshots", with(|f| f.snapshots = vec![]), "--runtimes"),
    ];
    for (name, facts, remedy) in cases {
        assert_eq!(faults(&facts), only(name, Level::Fail));
        let found = findings(&facts);
        assert!(!jobs_can_run(&found));
        let finding = found.iter().find(|finding| finding.name == name).unwrap();
        assert!(finding.remedy.as_deref().unwrap().contains(remedy), "{finding:?}");
    }
}

#[test]
fn what_jobs_can_do_without_is_a_warning() {
    let cases = [
        ("kvm", with(|f| f.kvm = Kvm::Absent)),
        ("kvm", with(|f| f.kvm = Kvm::Denied { why: "permission denied".into() })),
        ("kvm", with(|f| f.kvm = Kvm::Untried)),
        ("kvm", with(|f| f.kvm = Kvm::Broken { why: "no agent in 20 s".into() })),
        ("firecracker", with(|f| f.firecracker = Program::Missing)),
        ("jailer", with(|f| f.jailer = Program::Missing)),
        ("cgroup", with(|f| f.cgroup.mount = None)),
        ("cgroup", with(|f| f.cgroup.controllers = vec!["cpu".into()])),
        ("data dir", with(|f| f.data_dir.writable = false)),
        ("data dir", with(|f| f.data_dir.free_mib = Some(100))),
        ("run dir", with(|f| f.run_dir.tmpfs = false)),
        ("memory", with(|f| f.memory_available_mib = None)),
        ("bake", with(|f| f.bake.agent_found = false)),
        ("bake", with(|f| f.bake.missing = vec![("mke2fs", "e2fsprogs")])),
        ("broker", with(|f| f.broker.answer = Err("nothing listens there".into()))),
        ("redis", with(|f| f.redis.answer = Err("nothing listens there".into()))),
    ];
    for (name, facts) in cases {
        assert_eq!(faults(&facts), only(name, Level::Warn));
    }
}

#[test]
fn firecracker_does_without_qemu_and_says_what_is_insecure() {
    let by = |insecure| {
        Ok(Hypervisor { firecracker: true, why: "in jails".into(), transport: "hybrid_vsock", insecure })
    };
    let facts = with(|f| {
        f.hypervisor = by(false);
        (f.qemu, f.vsock.daemon) = (Program::Missing, Program::Missing);
    });
    let (qemu, vsock) = (("qemu".to_owned(), Level::Warn), ("vsock".to_owned(), Level::Warn));
    assert_eq!(faults(&facts), [qemu, vsock]);
    assert!(jobs_can_run(&findings(&facts)));
    assert_eq!(faults(&with(|f| f.hypervisor = by(true))), only("hypervisor", Level::Warn));
}

#[test]
fn the_hypervisors_line_says_why_and_over_what() {
    let said = &findings(&good())[0];
    assert_eq!(
        (said.name.as_str(), said.detail.as_str()),
        ("hypervisor", "qemu, as told; over vhost_user_vsock")
    );
}

#[test]
fn a_workers_settings_are_judged_where_they_are_named() {
    let settings = Worker {
        file: "/etc/hearth/worker.toml".into(),
        slots: [("python".to_owned(), 4), ("bash+net".to_owned(), 2)].into(),
        dormant: [("python".to_owned(), 3)].into(),
        unbaked: vec![],
    };
    let facts = |worker| with(|f| f.worker = Some(worker));
    let of = |facts: &Facts| findings(facts).into_iter().find(|finding| finding.name == "worker").unwrap();
    let fine = facts(Ok(settings.clone()));
    assert_eq!(faults(&fine), []);
    assert_eq!(
        of(&fine).detail,
        "/etc/hearth/worker.toml: slots of bash+net: 2, python: 4; dormant python: 3"
    );
    let bare = facts(Ok(Worker { file: "w".into(), ..Worker::default() }));
    assert_eq!(of(&bare).detail, "w: one slot of each runtime that is baked; none dormant");
    let unbaked = facts(Ok(Worker { unbaked: vec!["bash+net".into()], ..settings }));
    assert_eq!(faults(&unbaked), only("worker", Level::Fail));
    assert_eq!(of(&unbaked).remedy.as_deref(), Some("run: hearth bake bash+net"));
    let wrong = facts(Err("w: slots.python: 0 given".into()));
    assert_eq!(faults(&wrong), only("worker", Level::Fail));
}

#[test]
fn root_keeps_memory_elsewhere_than_in_the_run_dir() {
    let facts = with(|f| {
        f.root = true;
        f.run_dir = Directory { free_mib: Some(16), tmpfs: false, ..f.run_dir.clone() };
    });
    assert_eq!(faults(&facts), []);
}

#[test]
fn what_jobs_with_a_network_lack_is_a_warning_and_says_what_helps() {
    for (facts, remedy) in [
        (with(|f| f.network.nft = Program::Missing), "nftables"),
        (with(|f| f.network.tun = false), "modprobe tun"),
        (with(|f| f.network.resolvers = vec![]), "network.resolvers"),
        (
            with(|f| f.network.foreign = vec![("198.19.4.0/24".parse().unwrap(), "bench0".into())]),
            "network.links",
        ),
    ] {
        let found = findings(&facts).into_iter().find(|finding| finding.name == "network").unwrap();
        assert_eq!(found.level, Level::Warn, "{found:?}");
        assert!(found.remedy.as_deref().unwrap().contains(remedy), "{found:?}");
    }
    let said_of =
        |facts: &Facts| findings(facts).into_iter().find(|finding| finding.name == "network").unwrap().detail;
    let said = "nft 1.0.6; ip_forward is off, and turned on by the first worker with networks; names by 10.0.0.2; \
                links in use: 198.18.0.0/15, 10.200.0.0/16";
    assert_eq!(said_of(&with(|f| f.root = true)), said);
    assert!(said_of(&good()).contains("without root"));
}

#[test]
fn a_snapshot_over_the_serial_port_says_so() {
    let said = |serial| {
        let facts = with(|f| f.snapshots[0].serial = serial);
        findings(&facts).into_iter().find(|finding| finding.name == "snapshot python").unwrap().detail
    };
    assert!(said(Some(SerialPort::Always)).contains("over the serial port, which is slow"));
    assert!(said(Some(SerialPort::WithoutVsock)).contains("where vsock does not answer"));
    assert!(!said(None).contains("serial"));
}

#[test]
fn one_fitting_snapshot_is_enough() {
    let facts = with(|f| f.snapshots.push(snapshot("zig", SnapshotState::Absent)));
    assert_eq!(faults(&facts), only("snapshot zig", Level::Warn));
    assert!(jobs_can_run(&findings(&facts)));
}

#[test]
fn firecracker_is_judged_by_its_version() {
    let said = |version| firecracker("firecracker", &program(version));
    assert_eq!(said(Version(1, 15, 1)).level, Level::Ok);
    assert_eq!(said(Version(1, 17, 0)).level, Level::Ok);
    for refused in [Version(1, 16, 0), Version(1, 14, 2)] {
        let finding = said(refused);
        assert_eq!(finding.level, Level::Warn);
        assert!(finding.detail.contains("is refused: "), "{finding:?}");
    }
    assert!(said(Version(1, 16, 1)).detail.contains("works for jobs"));
}

#[test]
fn kernel_vsock_does_without_the_daemon() {
    let facts = with(|f| f.vsock = Vsock { kernel: true, daemon: Program::Missing });
    assert_eq!(faults(&facts), []);
}

#[test]
fn redis_must_keep_what_it_is_told() {
    let about = |append_only, eviction: &str| {
        let redis = Redis { version: None, append_only, eviction: Some(eviction.into()) };
        with(|f| f.redis.answer = Ok(redis))
    };
    for facts in
        [about(Some(false), "noeviction"), about(Some(true), "allkeys-lru"), about(None, "noeviction")]
    {
        assert_eq!(faults(&facts), only("redis", Level::Warn));
    }
    let both = findings(&about(Some(false), "volatile-lru")).pop().unwrap();
    let remedy = both.remedy.unwrap();
    assert!(remedy.contains("appendonly yes") && remedy.contains("maxmemory-policy noeviction"), "{remedy}");
}
