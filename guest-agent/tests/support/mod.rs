//! A small client of the agent, and the real agent as a process.

#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use hearth_schemas::guest::{
    messages::{
        Exec, Exited, Fault, Get, GetDone, HelloReply, Identity, Kill, Ping, Put, PutEntry, PutEntryEnd,
        PutItem, Reply, Request, Shutdown, Wake, put_item, reply, request,
    },
    mux::{Direction, Received},
};
use hearth_wire::{Connection, Stream, StreamReceiver, connect};
use sha2::{Digest as _, Sha256};
use tokio::{net::UnixStream, time::timeout};

/// Longer than anything here takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// A session with an agent.
pub struct Client {
    pub connection: Connection,
    pub hello: HelloReply,
    zero: Stream,
}

/// A command and what it wrote.
#[derive(Debug)]
pub struct Ran {
    pub exited: Exited,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// A command that runs.
pub struct Running {
    pub control: Stream,
    pub stdin: Option<Stream>,
    pub stdout: Stream,
    pub stderr: Stream,
}

impl Client {
    pub async fn new(socket: &Path) -> Self {
        let io = timeout(LONG, UnixStream::connect(socket)).await.unwrap().unwrap();
        let (connection, zero, hello) = timeout(LONG, connect(io)).await.expect("a hello").unwrap();
        Self { connection, hello, zero }
    }

    pub async fn open(&self, body: request::Body) -> Stream {
        let stream = self.connection.open(Direction::Both).await.unwrap();
        stream.sender.message(&Request { body: Some(body) }).await.unwrap();
        stream
    }

    /// The only answer to a request.
    pub async fn ask(&self, body: request::Body) -> reply::Body {
        let mut stream = self.open(body).await;
        answer(&mut stream).await
    }

    pub async fn ping(&self) {
        let answer = self.ask(request::Body::Ping(Ping {})).await;
        assert!(matches!(answer, reply::Body::Pong(pong) if pong.monotonic_ns > 0));
    }

    /// Uploads these files: path, mode and content each.
    pub async fn put(&self, files: &[(&str, u32, &[u8])]) -> reply::Body {
        let stream = self.open(request::Body::Put(Put {})).await;
        for (path, mode, content) in files {
            put_file(&stream, path, *mode, content).await;
        }
        let Stream { sender, mut receiver } = stream;
        sender.end().await.unwrap();
        answer_on(&mut receiver).await
    }

    /// Downloads what matches: path and content each, and the answer.
    pub async fn get(&self, get: Get) -> Result<(Vec<(String, Vec<u8>)>, GetDone), Fault> {
        let mut stream = self.open(request::Body::Get(get)).await;
        let mut files = Vec::new();
        loop {
            match answer(&mut stream).await {
                reply::Body::GetEntry(entry) => files.push((entry.path, file(&mut stream).await)),
                reply::Body::GetDone(done) => return Ok((files, done)),
                reply::Body::Fault(fault) => return Err(fault),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Starts a command; streams are filled in.
    pub async fn start(&self, mut exec: Exec, with_stdin: bool) -> Running {
        let stdout = self.connection.open(Direction::Receive).await.unwrap();
        let stderr = self.connection.open(Direction::Receive).await.unwrap();
        let stdin =
            if with_stdin { Some(self.connection.open(Direction::Send).await.unwrap()) } else { None };
        (exec.stdout, exec.stderr) = (stdout.id(), stderr.id());
        exec.stdin = stdin.as_ref().map_or(0, Stream::id);
        let control = self.open(request::Body::Exec(exec)).await;
        Running { control, stdin, stdout, stderr }
    }

    pub async fn run(&self, exec: Exec) -> Result<Ran, Fault> {
        self.start(exec, false).await.finish().await
    }

    /// Runs a line of shell.
    pub async fn sh(&self, script: &str) -> Ran {
        self.run(sh(script)).await.expect("it starts")
    }

    pub async fn shutdown(&self) {
        let answer = self.ask(request::Body::Shutdown(Shutdown {})).await;
        assert!(matches!(answer, reply::Body::ShuttingDown(_)));
    }
}

impl Running {
    /// Waits until the command is running.
    pub async fn started(&mut self) -> Result<u32, Fault> {
        match answer(&mut self.control).await {
            reply::Body::Started(started) => Ok(started.pid),
            reply::Body::Fault(fault) => Err(fault),
            other => panic!("{other:?}"),
        }
    }

    pub async fn kill(&self) {
        self.control.sender.message(&Kill {}).await.unwrap();
    }

    /// Reads all output until the tree is gone.
    pub async fn finish(mut self) -> Result<Ran, Fault> {
        self.started().await?;
        self.end().await
    }

    /// As [`Running::finish`], after the start.
    pub async fn end(self) -> Result<Ran, Fault> {
        let Self { mut control, stdin: _stdin, stdout, stderr } = self;
        let (stdout, stderr, end) = tokio::join!(all(stdout), all(stderr), answer(&mut control));
        match end {
            reply::Body::Exited(exited) => Ok(Ran { exited, stdout, stderr }),
            reply::Body::Fault(fault) => Err(fault),
            other => panic!("{other:?}"),
        }
    }
}

/// A line of shell as a request.
pub fn sh(script: &str) -> Exec {
    command(&["sh", "-c", script])
}

/// A command with a plain environment.
pub fn command(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())].into(),
        ..Exec::default()
    }
}

pub async fn answer(stream: &mut Stream) -> reply::Body {
    answer_on(&mut stream.receiver).await
}

async fn answer_on(receiver: &mut StreamReceiver) -> reply::Body {
    let reply: Reply = timeout(LONG, receiver.message()).await.expect("an answer").unwrap();
    reply.body.expect("a known answer")
}

/// Sends one file of an upload.
pub async fn put_file(stream: &Stream, path: &str, mode: u32, content: &[u8]) {
    let entry = PutEntry { path: path.into(), mode, size_bytes: content.len() as u64 };
    let item = |body| PutItem { body: Some(body) };
    stream.sender.message(&item(put_item::Body::Entry(entry))).await.unwrap();
    stream.sender.data(content.to_vec().into()).await.unwrap();
    let sha256 = Sha256::digest(content).to_vec();
    stream.sender.message(&item(put_item::Body::End(PutEntryEnd { sha256 }))).await.unwrap();
}

/// The bytes of a downloaded file, checked.
async fn file(stream: &mut Stream) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        match timeout(LONG, stream.receiver.next()).await.expect("a file").unwrap() {
            Some(Received::Data(data)) => content.extend_from_slice(&data),
            Some(Received::Control(bytes)) => {
                let reply = <Reply as prost::Message>::decode(bytes).unwrap();
                let Some(reply::Body::GetEntryEnd(end)) = reply.body else { panic!("{reply:?}") };
                assert_eq!(end.sha256, Sha256::digest(&content).to_vec());
                return content;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Everything on a stream until its end.
pub async fn all(mut stream: Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(data) = timeout(LONG, stream.receiver.data()).await.expect("output").unwrap() {
        bytes.extend_from_slice(&data);
    }
    bytes
}

/// A wake with every field in order.
pub fn wake(token: u64) -> Wake {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Wake {
        now_unix_ns: u64::try_from(now.as_nanos()).unwrap(),
        entropy: vec![7; 64],
        hostname: "hearth-3".into(),
        identity: Some(Identity { cid: 3, port: 9000, token }),
        nonce: vec![1; 32],
        network: None,
    }
}

/// Waits until `happens`.
pub async fn eventually(happens: impl Fn() -> bool, what: &str) {
    let waiting = async {
        while !happens() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A process that is a zombie has ended.
pub fn process_is_alive(pid: u32) -> bool {
    stat_of(pid).is_some_and(|stat| !stat.starts_with('Z'))
}

/// The fields of /proc/PID/stat from the state on.
fn stat_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

/// Children of a process, zombies included.
pub fn children_of(parent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        stat_of(*pid).and_then(|stat| stat.split(' ').nth(1)?.parse::<u32>().ok()) == Some(parent)
    };
    pids.filter(is_child).collect()
}

pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The directory of a process's cgroup.
pub fn cgroup_of(pid: u32) -> PathBuf {
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    PathBuf::from(mount.unwrap()[1]).join(path)
}

/// The real agent on this host, with a working tree of its own.
pub struct Agent {
    pub directory: tempfile::TempDir,
    process: Child,
}

impl Agent {
    /// Starts it and waits until it listens.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("tree")).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let process = std::process::Command::new(env!("CARGO_BIN_EXE_hearth-agent"))
            .arg("--unix")
            .arg(directory.path().join("socket"))
            .arg("--tree")
            .arg(directory.path().join("tree"))
            .stderr(log)
            .spawn()
            .unwrap();
        let mut agent = Self { directory, process };
        let listening = async {
            while UnixStream::connect(agent.socket()).await.is_err() {
                assert!(agent.process.try_wait().unwrap().is_none(), "the agent has ended");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, listening).await.expect("it listens");
        agent
    }

    pub fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("socket")
    }

    pub fn tree(&self) -> std::path::PathBuf {
        self.directory.path().join("tree")
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub async fn client(&self) -> Client {
        Client::new(&self.socket()).await
    }

    pub fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Waits for its end, which a request or a signal has asked for.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.process.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, ended).await.expect("it ends")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = self.process.wait();
        }
        if !std::thread::panicking() {
            // A task of its own would have taken the panic; PID 1 would have taken the machine with it.
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap();
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}
