//! `hearth worker` with Firecracker: nothing in its settings or its jobs says so.

use std::{
    env, fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
    time::Duration,
};

use hearth_schemas::result::{JobResult, OutputContent, Verdict};
use hearth_tests::{broker::RealBroker, real::Leftovers, redis::RealRedis, wait::until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{GONE_WITHIN, Rig, jails, result};

/// What is bounded by how fast an emulated machine restores a VM.
const LONG: Duration = Duration::from_secs(240);

/// Broker and Redis, and what keeps them alive.
struct Servers {
    amqp: String,
    redis: String,
    _own: Option<(RealBroker, RealRedis)>,
}

impl Servers {
    /// Those that the rig was told of, or its own. `None`, said aloud, where there is nothing to start.
    async fn find() -> Option<Self> {
        if let (Ok(amqp), Ok(redis)) = (env::var("HEARTH_RIG_AMQP"), env::var("HEARTH_RIG_REDIS")) {
            return Some(Self { amqp, redis, _own: None });
        }
        let own = (RealBroker::start().await?, RealRedis::start().await?);
        Some(Self { amqp: own.0.url(), redis: own.1.url(), _own: Some(own) })
    }
}

/// Says in a file where they are, and keeps them until stdin ends.
#[tokio::test]
#[ignore = "not a test: broker and Redis outside of the rig"]
async fn role_servers() {
    let Some(file) = env::var_os("HEARTH_RIG_SERVERS") else { return };
    let servers = Servers::find().await;
    let said = servers.as_ref().map_or_else(String::new, |servers| {
        format!("HEARTH_RIG_AMQP={}\nHEARTH_RIG_REDIS={}\n", servers.amqp, servers.redis)
    });
    // Whole or not at all.
    let draft = std::path::Path::new(&file).with_extension("draft");
    fs::write(&draft, said).unwrap();
    fs::rename(draft, file).unwrap();
    let waited = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
    waited.unwrap().unwrap();
}

struct Running<'a> {
    rig: &'a Rig,
    servers: Servers,
    child: Child,
    admin: String,
}

impl<'a> Running<'a> {
    fn start(rig: &'a Rig, servers: Servers, settings: &str) -> Self {
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let Servers { amqp, redis, .. } = &servers;
        let settings = format!(
            "[broker]\nurl = \"{amqp}\"\nshards = 1\n[redis]\nurl = \"{redis}\"\n[worker]\nadmin = \"{admin}\"\n{settings}"
        );
        let path = rig.run_dir.path().join("worker.toml");
        fs::write(&path, settings).unwrap();
        let log = fs::File::create(rig.run_dir.path().join("log")).unwrap();
        let mut command = rig.command(&["worker", "--config", path.to_str().unwrap()]);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { rig, servers, child, admin }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.rig.run_dir.path().join("log")).unwrap()
    }

    fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.admin).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    async fn ready(&mut self) {
        until(LONG, "it is ready", async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{status}: {}", self.log());
            }
            self.page("/ready").is_some_and(|page| page.contains("200 OK"))
        })
        .await;
    }

    fn submit(&self, job: &Value) -> JobResult {
        let path = self.rig.run_dir.path().join("job.json");
        fs::write(&path, job.to_string()).unwrap();
        let path = path.to_str().unwrap();
        let mut command = self.rig.command(&["submit", path, "--wait", "--broker", &self.servers.amqp]);
        result(&command.output().unwrap())
    }

    /// Drains.
    fn end(mut self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        assert_eq!(Leftovers::within(self.rig.run_dir.path(), GONE_WITHIN), Leftovers::default());
        assert_eq!(jails(&self.rig.data), Vec::<std::path::PathBuf>::new());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One VM is ready and the next waits as a process without a guest.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_its_queue_with_dormant_vms_and_drains() {
    let Some(rig) = Rig::start() else { return };
    let Some(servers) = Servers::find().await else { return };
    let settings = "[slots]\nbash = 2\n[pool]\nmode = \"auto\"\ndormant = { bash = 1 }\n";
    let mut worker = Running::start(&rig, servers, settings);
    worker.ready().await;
    until(LONG, "a Firecracker is dormant", async || {
        let metrics = worker.page("/metrics").unwrap_or_default();
        let slots = metrics.lines().filter(|line| line.starts_with("hearth_pool_slots{"));
        slots.filter(|line| line.contains("phase=\"dormant\"")).any(|line| line.ends_with(" 1"))
    })
    .await;
    assert!(!rig.jailer || !jails(&rig.data).is_empty(), "{}", worker.log());
    for number in 0..4 {
        let said = format!("job {number}");
        let result = worker.submit(&json!({
            "id": format!("rig-{number}"), "runtime": "bash",
            "files": [{"path": "in.txt", "text": said}],
            "stages": [{"name": "run", "argv": ["sh", "-c", "cat in.txt; cp in.txt out.txt"]}],
            "outputs": ["out.txt"]
        }));
        assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:?}");
        assert_eq!(result.outputs[0].content, OutputContent::Text(said));
    }
    worker.end();
}

/// The job is run again, and has one result.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_vmm_is_killed_is_run_again_by_its_worker() {
    let Some(rig) = Rig::start() else { return };
    let Some(servers) = Servers::find().await else { return };
    let mut worker = Running::start(&rig, servers, "[slots]\nbash = 1\n");
    worker.ready().await;
    let job = json!({
        "id": "killed", "runtime": "bash",
        "stages": [{"name": "run", "argv": ["sleep", "5"]}],
    });
    let result = std::thread::scope(|scope| {
        let submitted = scope.spawn(|| worker.submit(&job));
        while !worker.log().contains("\"claimed\"") {
            std::thread::yield_now();
        }
        for pid in vmms() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        submitted.join().unwrap()
    });
    assert_eq!((result.verdict, result.attempt), (Some(Verdict::Accepted), 2), "{result:?}");
    worker.end();
}

/// Processes that run Firecracker.
fn vmms() -> Vec<i32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pids.filter(|pid| name(pid).trim() == "firecracker").collect()
}
