//! A real RabbitMQ of a test's own, which may be killed.

use std::{
    io::Write,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hearth_worker::amqp::link::{Endpoint, Link};
use tempfile::TempDir;

use crate::wait::until;

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// For how long a server may take to start.
const STARTS_WITHIN: Duration = Duration::from_secs(120);
/// It is ended after this time in seconds, whatever becomes of the test.
const LIFE_S: &str = "3600";

/// A broker with a directory and ports of its own. Killed when dropped.
#[derive(Debug)]
pub struct RealBroker {
    directory: TempDir,
    ports: [u16; 2],
    process: Option<Child>,
}

impl RealBroker {
    /// Starts a broker, or says aloud that there is none to start.
    pub async fn start() -> Option<Self> {
        if !Path::new(SERVER).exists() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            // Not `eprintln!`: what a test that passes prints is kept from whoever runs it.
            std::io::stderr().write_all(format!("SKIPPED {test}: no RabbitMQ\n").as_bytes()).unwrap();
            return None;
        }
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
        drop(listeners);
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        file("rabbitmq.conf", "loopback_users = none\ndisk_free_limit.absolute = 1MB\n");
        file("plugins", "[].\n");
        let mut broker = Self { directory, ports, process: None };
        broker.begin().await;
        Some(broker)
    }

    async fn begin(&mut self) {
        let at = |name: &str| self.directory.path().join(name);
        let mut command = Command::new("timeout");
        command
            .args(["--signal=KILL", LIFE_S, SERVER])
            .current_dir(self.directory.path())
            .env("HOME", self.directory.path())
            .env("RABBITMQ_NODENAME", format!("hearth{}@localhost", self.ports[0]))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.ports[0].to_string())
            .env("RABBITMQ_DIST_PORT", self.ports[1].to_string())
            .env("RABBITMQ_CONF_ENV_FILE", at("none"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        self.process = Some(command.spawn().unwrap());
        let endpoint = self.endpoint();
        until(STARTS_WITHIN, "the broker answers", async || Link::open(&endpoint, "test").await.is_ok())
            .await;
    }

    /// Kills it with everything that it has started, as a crash of its host would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
            let _ = child.wait();
        }
    }

    /// Kills it and starts it again with what it had written.
    pub async fn restart(&mut self) {
        self.kill();
        self.begin().await;
    }

    /// Where it is.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(&self.url()).unwrap()
    }

    /// The same for a command line.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports[0])
    }
}

impl Drop for RealBroker {
    fn drop(&mut self) {
        self.kill();
    }
}
