//! A Redis server of a test's own, killed when dropped.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hearth_pool::redis_server::{RedisConfig, RedisServer};
use hearth_worker::ledger::{RedisLedger, RedisLedgerConfig};
use tokio::time::Instant;

pub struct Redis {
    directory: tempfile::TempDir,
    pub port: u16,
    process: Option<Child>,
}

impl Redis {
    /// Starts one that keeps what it is told. `None`, said aloud, where there is none to start.
    pub async fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("SKIPPED: no redis-server is installed here");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut redis = Self { directory: tempfile::tempdir().unwrap(), port, process: None };
        redis.begin().await;
        Some(redis)
    }

    /// Starts it again after [`Self::kill`], with its data.
    pub async fn begin(&mut self) {
        // It must not outlive a test that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "redis-server", "--port", &self.port.to_string()]);
        command.args(["--bind", "127.0.0.1", "--save", "", "--logfile", "log"]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(self.directory.path());
        self.process = Some(command.current_dir(self.directory.path()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        let server = self.server();
        while server.check().await.is_err() {
            assert!(Instant::now() < deadline, "redis-server does not answer");
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn server(&self) -> RedisServer {
        RedisServer::new(RedisConfig::new(self.url())).unwrap()
    }

    /// A field of a hash, as it is there.
    pub async fn field(&self, key: &str, field: &str) -> Option<String> {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("HGET").arg(key).arg(field).query_async(&mut connection).await.unwrap()
    }

    /// How often scripts were called.
    pub async fn scripts_called(&self) -> u64 {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
        let calls = info.split("cmdstat_evalsha:calls=").nth(1).and_then(|rest| rest.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    /// A ledger in it, whose data nobody has used before.
    pub async fn ledger(&self) -> RedisLedger {
        self.server().trust_new_data().await.unwrap();
        RedisLedger::new(self.server(), RedisLedgerConfig::new(Duration::from_secs(65)))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
