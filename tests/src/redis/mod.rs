//! A real Redis server of a test's own, and a line to it that can be cut.

mod proxy;

use std::{
    io::Write,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hearth_pool::redis_server::{RedisConfig, RedisServer};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

pub use self::proxy::{Line, Weather};
use crate::wait::until_some;

/// For how long a server may take to start.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// A server with a directory and a port of its own. Killed when dropped.
#[derive(Debug)]
pub struct RealRedis {
    directory: TempDir,
    port: u16,
    process: Option<Child>,
    options: Vec<String>,
}

impl RealRedis {
    /// Starts a server that loses nothing (`appendfsync always`), or says aloud that there is none to start.
    pub async fn start() -> Option<Self> {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    /// Starts a server with options of `redis-server`.
    pub async fn start_with(options: &[&str]) -> Option<Self> {
        let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        if found.is_err() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            // Not `eprintln!`: what a test that passes prints is kept from whoever runs it.
            std::io::stderr().write_all(format!("SKIPPED {test}: no redis-server\n").as_bytes()).unwrap();
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        let mut redis = Self { directory: tempfile::tempdir().unwrap(), port, process: None, options };
        redis.run().await;
        Some(redis)
    }

    async fn run(&mut self) {
        // The server must not outlive a test that is killed. The thread that starts it is the test's own.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "redis-server", "--port", &self.port.to_string()]);
        command.args(["--bind", "127.0.0.1", "--save", "", "--logfile", "log"]);
        command.arg("--dir").arg(self.directory.path()).args(&self.options);
        self.process = Some(command.current_dir(self.directory.path()).spawn().unwrap());
        let url = self.url();
        let answers = async || {
            let client = redis::Client::open(url.as_str()).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            redis::cmd("PING").query_async::<String>(&mut connection).await.ok()
        };
        until_some(STARTS_WITHIN, "redis-server answers", answers).await;
    }

    /// Kills the server as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Kills the server and starts it again with what it had written.
    pub async fn restart(&mut self) {
        self.kill();
        self.run().await;
    }

    /// Kills the server and starts it again with nothing.
    pub async fn restart_without_data(&mut self) {
        self.kill();
        self.directory = tempfile::tempdir().unwrap();
        self.run().await;
    }

    /// Stops the process where it is. Connections stay, answers do not come.
    pub fn stall(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets a stalled process go on.
    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.process.as_ref().expect("the server runs").id();
        kill(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The server as Hearth uses it.
    pub fn server(&self) -> RedisServer {
        RedisServer::new(RedisConfig::new(self.url())).unwrap()
    }

    /// A connection that is no part of Hearth, to look at what is there and to meddle with it.
    pub async fn aside(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
