//! `hearth worker` as people run it, with a real broker, a real VM and a collector of traces.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use hearth_pool::net::Namespace;
use hearth_tests::{
    real::{Collector, Machine, Worker},
    wait::until,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{machine, room};

/// What is bounded by how fast a busy host restores a VM.
const LONG: Duration = Duration::from_secs(240);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A vhost, deleted at the end.
pub struct Vhost(String);

impl Vhost {
    pub fn new(test: &str) -> Option<Self> {
        let vhost = Self(format!("hearth-service-{}-{test}", std::process::id()));
        let made = vhost.ctl(&["add_vhost", &vhost.0])
            && vhost.ctl(&["set_permissions", "-p", &vhost.0, "guest", ".*", ".*", ".*"]);
        if !made {
            eprintln!("SKIPPED: no RabbitMQ on this host");
        }
        made.then_some(vhost)
    }

    fn ctl(&self, arguments: &[&str]) -> bool {
        let output = Command::new("rabbitmqctl").arg("-q").args(arguments).output();
        output.is_ok_and(|output| output.status.success())
    }

    /// Every queue with how many messages it has, a line each.
    pub fn queues(&self) -> String {
        let mut list = Command::new("rabbitmqctl");
        list.args(["-q", "list_queues", "-p", &self.0, "name", "messages"]);
        String::from_utf8(list.output().unwrap().stdout).unwrap()
    }

    fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:5672/{}", self.0)
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.ctl(&["delete_vhost", &self.0]);
        }
    }
}

/// The command, killed at the end.
pub struct Service<'a> {
    machine: &'a Machine,
    child: Child,
    run_dir: TempDir,
    admin: SocketAddr,
    pub vhost: Vhost,
    namespace: Namespace,
}

impl<'a> Service<'a> {
    fn start(machine: &'a Machine, vhost: Vhost, more: &str) -> Self {
        Self::start_in(&Namespace::own().unwrap(), machine, vhost, &format!("[slots]\npython = 1\n{more}"))
    }

    /// On a host that is a namespace.
    pub fn start_in(namespace: &Namespace, machine: &'a Machine, vhost: Vhost, more: &str) -> Self {
        let run_dir = Worker::run_dir().unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings =
            format!("[broker]\nurl = \"{}\"\nshards = 1\n[worker]\nadmin = \"{admin}\"\n{more}", vhost.url());
        std::fs::write(run_dir.path().join("worker.toml"), settings).unwrap();
        let log = std::fs::File::create(run_dir.path().join("log")).unwrap();
        let mut command = machine.command(run_dir.path());
        command.args(["worker", "--config", run_dir.path().join("worker.toml").to_str().unwrap()]);
        command.stdin(Stdio::null()).stderr(log);
        let child = namespace.run(move || command.spawn()).unwrap();
        Self { machine, child, run_dir, admin, vhost, namespace: namespace.clone() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.run_dir.path().join(name)
    }

    fn page(&self, path: &str) -> Option<String> {
        let mut stream = self.namespace.run(|| TcpStream::connect(self.admin)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub async fn ready(&mut self) {
        until(LONG, "it is ready", async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{status}: {}", std::fs::read_to_string(self.path("log")).unwrap());
            }
            self.page("/ready").is_some_and(|page| page.contains("200 OK"))
        })
        .await;
    }

    /// What it has logged, line by line.
    fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("log")).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    pub async fn submit(&self, job: &Value) -> Value {
        let path = self.path("job.json");
        std::fs::write(&path, job.to_string()).unwrap();
        let mut command = self.machine.command(self.run_dir.path());
        command.args(["submit", path.to_str().unwrap(), "--wait", "--broker", &self.vhost.url()]);
        command.env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// Drains, and gives the vhost back.
    pub async fn drain(mut self) -> Vhost {
        self.signal(self.child.id(), Signal::SIGTERM);
        assert_eq!(self.exit().await, Some(0));
        std::mem::replace(&mut self.vhost, Vhost(String::new()))
    }

    fn signal(&self, pid: u32, signal: Signal) {
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    async fn exit(&mut self) -> Option<i32> {
        let mut status = None;
        until(LONG, "it ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().code()
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spans(collector: &Collector) -> Vec<Span> {
    let requests =
        collector.bodies().into_iter().map(|body| ExportTraceServiceRequest::decode(&body[..]).unwrap());
    let resources = requests.flat_map(|request| request.resource_spans);
    let scopes = resources.flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_logs_traces_measures_reloads_and_drains() {
    let Some(machine) = machine() else { return };
    let Some(vhost) = Vhost::new("a") else { return };
    let _room = room().await;
    machine.baked("python").unwrap();
    let collector = Collector::start().await.unwrap();
    let telemetry = format!("[telemetry]\notlp_endpoint = \"http://{}\"\n", collector.address);
    let mut service = Service::start(machine, vhost, &telemetry);
    service.ready().await;
    let job = json!({
        "id": "traced", "runtime": "python", "outputs": ["out"],
        "files": [{"path": "main.py", "text": "open('out', 'w').write('x' * 1000); print('hello')"}],
        "stages": [{"name": "run", "argv": ["python3", "main.py"]}],
    });
    assert_eq!(service.submit(&job).await["verdict"], "accepted");

    let steps = ["claim", "wake", "upload", "stage", "download", "commit", "publish"];
    let mut seen = BTreeMap::new();
    until(LONG, "all steps are traced", async || {
        let traced = spans(&collector).into_iter().filter(|span| hex(&span.trace_id) == TRACE);
        seen = traced.map(|span| (span.name.clone(), span)).collect();
        steps.iter().chain(&["job"]).all(|name| seen.contains_key(*name))
    })
    .await;
    assert_eq!(hex(&seen["job"].parent_span_id), PARENT);
    for step in steps {
        assert_eq!(seen[step].parent_span_id, seen["job"].span_id, "{step}");
        assert!(seen[step].end_time_unix_nano >= seen[step].start_time_unix_nano);
    }

    let lines: Vec<_> = service.log().into_iter().filter(|line| line["job"] == "traced").collect();
    assert!(lines.iter().any(|line| line["message"] == "claimed"), "{:#?}", service.log());
    for line in &lines {
        let (worker, slot, attempt) = (&line["worker"], &line["slot"], &line["attempt"]);
        assert!(worker.is_string() && slot == "python-0" && attempt == 1 && line["cid"].is_u64(), "{line}");
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["target"].is_string());
    }

    let metrics = service.page("/metrics").unwrap();
    let moved = |series: &str| {
        let line =
            metrics.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("{metrics}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    let from_vm = ["vhost_user_vsock", "vhost_vsock"].map(|transport| {
        moved(&format!("hearth_transfer_bytes_total{{direction=\"from_vm\",transport=\"{transport}\""))
    });
    assert!(from_vm.iter().sum::<f64>() >= 1006.0, "{from_vm:?}");

    let file = service.path("worker.toml");
    let old = std::fs::read_to_string(&file).unwrap();
    let new = old.replace("python = 1", "python = 2")
        + "log = \"debug,lapin=off\"\n[tenants]\ntrusted = [\"ops\"]\n";
    std::fs::write(&file, new).unwrap();
    service.signal(service.child.id(), Signal::SIGHUP);
    until(LONG, "it has read them", async || {
        let reload = service.log().into_iter().find(|line| line["message"] == "read the settings again");
        reload.is_some_and(|line| {
            let (applied, restart) = (line["applied"].to_string(), line["need_restart"].to_string());
            assert!(applied.contains("tenants") && applied.contains("telemetry.log"), "{line}");
            assert!(restart.contains("slots") && !restart.contains("broker"), "{line}");
            true
        })
    })
    .await;
    let another = json!({"runtime": "python", "code": "print(1)"});
    assert_eq!(service.submit(&another).await["verdict"], "accepted");
    until(LONG, "it says more", async || service.log().iter().any(|line| line["level"] == "DEBUG")).await;
    service.signal(service.child.id(), Signal::SIGTERM);
    assert_eq!(service.exit().await, Some(0));
}

/// The guard of a worker.
fn guard_of(worker: u32) -> Option<u32> {
    let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        let parent: u32 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        (parent == worker && command.ends_with(b"guard\0")).then_some(pid)
    });
    children.into_iter().next()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_guard_dies_says_so_gives_its_jobs_back_and_ends() {
    let Some(machine) = machine() else { return };
    let Some(vhost) = Vhost::new("b") else { return };
    let _room = room().await;
    machine.baked("python").unwrap();
    let mut service = Service::start(machine, vhost, "");
    service.ready().await;
    let job = json!({"id": "again", "runtime": "python", "code": "import time; time.sleep(20); print('done')",
                     "limits": {"wall_ms": 60000}});
    let path = service.path("job.json");
    std::fs::write(&path, job.to_string()).unwrap();
    let sent = service
        .machine
        .command(service.run_dir.path())
        .args(["submit", path.to_str().unwrap(), "--broker", &service.vhost.url()])
        .status();
    assert!(sent.unwrap().success());
    until(LONG, "it runs", async || service.log().iter().any(|line| line["message"] == "claimed")).await;
    service.signal(guard_of(service.child.id()).expect("a worker has a guard"), Signal::SIGKILL);
    assert_eq!(service.exit().await, Some(70));
    let text = std::fs::read_to_string(service.path("log")).unwrap();
    assert!(text.contains("the guard is dead") && text.contains("start the worker again"), "{text}");
    let vms: Vec<_> = std::fs::read_dir(service.path("vms")).unwrap().collect();
    assert!(vms.is_empty(), "what the guard could not remove the worker has: {vms:?}");
    // The job was not blamed, and is there for the next worker.
    // The broker counts anew every few seconds.
    let mut count = String::new();
    until(LONG, "the job waits in a queue", async || {
        count = service.vhost.queues();
        let waits = |line: &&str| line.starts_with("hearth.intake") || line.starts_with("hearth.run.");
        let messages = |line: &str| line.split_ascii_whitespace().nth(1)?.parse::<u32>().ok();
        count.lines().filter(waits).filter_map(messages).sum::<u32>() == 1
    })
    .await;
    assert!(
        count.lines().any(|line| line.starts_with("hearth.results.unclaimed") && line.ends_with("\t0")),
        "{count}"
    );
}
