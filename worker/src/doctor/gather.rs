//! Looks at this host. Nothing here judges.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use hearth_pool::{
    firecracker::Confinement, qemu::transport_of_host, runtime::Runtimes, snapshot::Verification,
};
use hearth_schemas::manifest::Transport;
use hearth_worker::{
    local::Vmm,
    settings::Settings,
    tls::{self, Certificates},
};

use super::{
    address::{self, Address},
    amqp,
    facts::{BakeTools, Cgroup, Directory, Facts, Hypervisor, Program, Service, Version, Vsock, Worker},
    network::network,
    redis, vms,
};
use crate::cli::{Choice, exit::Failure};
use crate::config::{Config, Services, find_program, setting};

/// A service on the same network answers within milliseconds.
const SERVICE_LIMIT: Duration = Duration::from_secs(2);
/// Commands that a bake runs, each with its Debian package.
const BAKE_COMMANDS: [(&str, &str); 6] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("unshare", "util-linux"),
    ("apt-get", "apt"),
];
const TMPFS_MAGIC: i64 = 0x0102_1994; // linux/magic.h

/// Looks at everything. Blocks, at worst a few seconds for each service that does not answer.
///
/// `choice` is what makes VMs here and what snapshots are compared with, or why nothing does; `settings` a worker's file.
pub fn gather(
    config: &Config,
    services: &Services,
    settings: Option<&Path>,
    runtimes: &Runtimes,
    choice: Result<Choice, String>,
) -> Facts {
    Facts {
        worker: settings.map(|file| worker(file, config, choice.as_ref().ok())),
        kvm: vms::kvm(&config.data_dir, choice.as_ref().ok()),
        qemu: program("qemu-system-x86_64"),
        vsock: Vsock {
            kernel: fs::File::open("/dev/vhost-vsock").is_ok(),
            daemon: program("vhost-device-vsock"),
        },
        firecracker: program("firecracker"),
        jailer: program("jailer"),
        cgroup: host_cgroup(),
        data_dir: directory(&config.data_dir),
        run_dir: directory(&config.run_dir),
        root: rustix::process::geteuid().is_root(),
        memory_available_mib: available(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        network: network(program("nft")),
        bake: bake_tools(config),
        snapshots: vms::snapshots(&config.data_dir, runtimes, choice.as_ref().ok()),
        hypervisor: choice.map(|choice| hypervisor(&choice)),
        broker: service(
            services.broker.as_deref(),
            &AMQP,
            services.broker_tls.certificates(),
            |stream, _| amqp::greet(stream),
        ),
        redis: service(
            services.redis.as_deref(),
            &REDIS,
            services.redis_certificates(),
            |stream, address| redis::ask(stream, address.credentials.as_ref()),
        ),
    }
}

fn hypervisor(choice: &Choice) -> Hypervisor {
    let (firecracker, insecure, transport) = match &choice.vmm {
        Vmm::Qemu { .. } => (false, false, transport_of_host()),
        Vmm::Firecracker { confinement, insecure_seccomp, .. } => {
            let insecure = *insecure_seccomp || *confinement == Confinement::InsecureDirect;
            (true, insecure, Transport::HybridVsock)
        }
    };
    Hypervisor { firecracker, why: choice.why.clone(), transport: transport.as_str(), insecure }
}

/// As `hearth worker` would read them.
fn worker(file: &Path, config: &Config, choice: Option<&Choice>) -> Result<Worker, String> {
    let said = |what: String| format!("{}: {}", file.display(), what.replace('\n', "; "));
    let text = fs::read_to_string(file).map_err(|error| said(error.to_string()))?;
    let settings = Settings::parse(&text, &setting).map_err(|error| said(error.to_string()))?;
    let fits = |runtime: &String| {
        choice.is_none_or(|choice| {
            let store = choice.vmm.store(&config.data_dir);
            store.current(runtime, &choice.facts, Verification::Size).is_ok()
        })
    };
    let unbaked = settings.slots.keys().filter(|runtime| !fits(runtime)).cloned().collect();
    Ok(Worker { file: file.to_owned(), slots: settings.slots, dormant: settings.pool.dormant, unbaked })
}

fn program(name: &str) -> Program {
    let Some(path) = find_program(name) else { return Program::Missing };
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output();
    let version = output.ok().and_then(|output| {
        let said = [output.stdout, output.stderr].concat();
        Version::find(&String::from_utf8_lossy(&said))
    });
    Program::Found { path, version }
}

/// cgroup v2 of this host.
pub fn host_cgroup() -> Cgroup {
    cgroup(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// The first cgroup2 of mountinfo (proc(5): fields, `-`, type, source, options; the fifth field is where).
fn cgroup(mountinfo: &str) -> Cgroup {
    let mount = mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let where_ = before.split(' ').nth(4)?;
        (after.split(' ').next() == Some("cgroup2")).then(|| PathBuf::from(where_))
    });
    let listed = mount.as_ref().and_then(|mount| fs::read_to_string(mount.join("cgroup.controllers")).ok());
    let controllers = listed.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    Cgroup { mount, controllers }
}

fn directory(path: &Path) -> Directory {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    let writable = existing.is_dir()
        && rustix::fs::access(existing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok();
    let stat = rustix::fs::statfs(existing).ok();
    let free = |stat: &rustix::fs::StatFs| {
        u64::try_from(stat.f_bsize).ok().map(|block| stat.f_bavail.saturating_mul(block) / (1024 * 1024))
    };
    Directory {
        path: path.to_owned(),
        writable,
        free_mib: stat.as_ref().and_then(free),
        tmpfs: stat.is_some_and(|stat| stat.f_type == TMPFS_MAGIC),
    }
}

/// `MemAvailable` of /proc/meminfo in MiB.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

fn bake_tools(config: &Config) -> BakeTools {
    let missing = BAKE_COMMANDS.into_iter().filter(|(command, _)| find_program(command).is_none()).collect();
    let agent = config.agent_path().unwrap_or_else(|_| PathBuf::from("hearth-agent"));
    BakeTools { missing, agent_found: agent.is_file(), agent }
}

/// What is spoken to a service.
struct Scheme {
    name: &'static str,
    /// What messages and flags call it.
    service: &'static str,
    port: u16,
    tls_port: u16,
}

const AMQP: Scheme = Scheme { name: "amqp", service: "broker", port: 5672, tls_port: 5671 };
const REDIS: Scheme = Scheme { name: "redis", service: "redis", port: 6379, tls_port: 6380 };

/// A connection, in TLS or not.
trait Pipe: Read + Write {}
impl<T: Read + Write> Pipe for T {}

fn service<T>(
    url: Option<&str>,
    scheme: &Scheme,
    certificates: Result<Certificates, Failure>,
    ask: impl FnOnce(Box<dyn Pipe>, &Address) -> io::Result<T>,
) -> Service<T> {
    let Scheme { name, service, port, tls_port } = *scheme;
    let usual = Address { tls: false, host: "127.0.0.1".to_owned(), port, credentials: None };
    let address = match url.map(|url| address::parse(url, name, port, tls_port)) {
        None => usual,
        Some(Ok(address)) => address,
        Some(Err(why)) => {
            return Service { address: format!("{name} URL"), configured: true, answer: Err(why) };
        }
    };
    let pipe = || -> io::Result<Box<dyn Pipe>> {
        let stream = connect(&address)?;
        match address.tls {
            false => Ok(Box::new(stream)),
            true => {
                let certificates = certificates.map_err(|failure| io::Error::other(failure.message))?;
                Ok(Box::new(certificates.connect(stream, &address.host)?))
            }
        }
    };
    let answer = pipe()
        .and_then(|pipe| ask(pipe, &address))
        .map_err(|error| tls::remedy(&error.to_string(), service).unwrap_or_else(|| explain(&error)));
    Service { address: address.to_string(), configured: url.is_some(), answer }
}

fn connect(address: &Address) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for place in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&place, SERVICE_LIMIT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(SERVICE_LIMIT))?;
                stream.set_write_timeout(Some(SERVICE_LIMIT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer within {SERVICE_LIMIT:?}"),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "it closed the connection".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_first_cgroup2_is_found_among_v1() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
            31 23 0:27 / /nowhere/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = cgroup(mountinfo);
        assert_eq!(found.mount, Some("/nowhere/unified".into()));
        assert!(found.controllers.is_empty());
        assert_eq!(cgroup("").mount, None);
    }

    #[test]
    fn a_missing_directory_is_judged_by_its_parent() {
        let parent = tempfile::tempdir().unwrap();
        let found = directory(&parent.path().join("a/b"));
        assert!(found.writable && found.free_mib.is_some());
        assert!(!directory(Path::new("/proc/nothing")).tmpfs);
    }

    #[test]
    fn available_memory_is_read_in_mib() {
        assert_eq!(available("MemTotal: 4096 kB\nMemAvailable:    2048 kB\n"), Some(2));
        assert_eq!(available("MemTotal: 4096 kB\n"), None);
    }

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let qemu = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-1~bpo12+1)";
        assert_eq!(Version::find(qemu), Some(Version(10, 0, 2)));
        assert_eq!(Version::find("Firecracker v1.16.1\n"), Some(Version(1, 16, 1)));
        assert_eq!(Version::find("vhost-device-vsock 0.3"), Some(Version(0, 3, 0)));
        assert_eq!(Version::find("none here 12"), None);
    }

    #[test]
    fn services_that_do_not_answer_say_why() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("amqp://user:secret@{}", listener.local_addr().unwrap());
        let closing = std::thread::spawn(move || drop(listener.accept()));
        let closed = service(Some(&url), &AMQP, Ok(Certificates::default()), |stream, _| amqp::greet(stream));
        closing.join().unwrap();
        assert!(closed.answer.is_err() && !closed.address.contains("secret"), "{closed:?}");
        let refused =
            service(Some(&url), &AMQP, Ok(Certificates::default()), |stream, _| amqp::greet(stream));
        assert_eq!(refused.answer, Err("nothing listens there".to_owned()));
        let bad =
            service(Some("secret"), &AMQP, Ok(Certificates::default()), |stream, _| amqp::greet(stream));
        assert!(!bad.answer.unwrap_err().contains("secret"));
    }
}
