//! Real brokers for tests: a vhost of our own on the one that runs here, and private ones that may be killed.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::{
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hearth_worker::amqp::{
    link::{Endpoint, Link},
    names::Names,
    permissions::Permissions,
};
use lapin::{
    BasicProperties, Channel,
    message::BasicGetMessage,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::time::Instant;

pub mod redis;

const HERE: &str = "127.0.0.1:5672";
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A vhost that is deleted with its last user.
pub struct Vhost {
    name: String,
    _private: Option<Arc<Private>>,
    pub endpoint: Endpoint,
    /// The same for a command line.
    pub url: String,
}

/// The vhost that tests of this binary share, each under its own prefix. `None`, said aloud, without a broker.
pub fn vhost() -> Option<Arc<Vhost>> {
    static SHARED: Mutex<Weak<Vhost>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    if let Some(vhost) = shared.upgrade() {
        return Some(vhost);
    }
    let vhost = if other_release().is_none() && TcpStream::connect(HERE).is_ok() && ctl(&["status"]) {
        let name = format!("hearth-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        assert!(ctl(&["add_vhost", &name]), "rabbitmqctl add_vhost");
        assert!(ctl(&["set_permissions", "-p", &name, "guest", ".*", ".*", ".*"]));
        let url = format!("amqp://guest:guest@{HERE}/{name}");
        Arc::new(Vhost { name, _private: None, endpoint: Endpoint::new(&url).unwrap(), url })
    } else {
        // A patient one: jobs of most tests take their time.
        let private = Private::start_with(1_800_000, "")?;
        private.listens();
        let (endpoint, url) = (private.endpoint(), private.url());
        Arc::new(Vhost { name: "/".into(), _private: Some(Arc::new(private)), endpoint, url })
    };
    *shared = Arc::downgrade(&vhost);
    Some(vhost)
}

impl Drop for Vhost {
    fn drop(&mut self) {
        if self._private.is_none() {
            ctl(&["delete_vhost", &self.name]);
        }
    }
}

/// A directory with another release of RabbitMQ in it, which the tests shall be run against (`tests/rig/rabbitmq4.sh`).
#[allow(clippy::disallowed_methods, reason = "the environment of a test run")]
fn other_release() -> Option<PathBuf> {
    std::env::var_os("HEARTH_TEST_RABBITMQ").map(PathBuf::from)
}

/// Whether tests that take long shall be run in full.
#[allow(clippy::disallowed_methods, reason = "the environment of a test run")]
pub fn full() -> bool {
    std::env::var_os("HEARTH_TEST_FULL").is_some()
}

fn ctl(arguments: &[&str]) -> bool {
    let command = Command::new("rabbitmqctl").arg("-q").args(arguments).stdout(Stdio::null()).output();
    command.is_ok_and(|output| output.status.success())
}

/// A user of a vhost, deleted when dropped.
pub struct User {
    pub name: String,
    pub endpoint: Endpoint,
    vhost: Arc<Vhost>,
}

impl Vhost {
    /// A new user with these permissions.
    pub fn user(self: &Arc<Self>, permissions: &Permissions) -> User {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("hearth-test-{}-{number}", std::process::id());
        let Permissions { configure, write, read, .. } = permissions;
        self.ctl(&["add_user", &name, "secret"]);
        self.ctl(&["set_permissions", "-p", &self.name, &name, configure, write, read]);
        let url = self.url.replace("guest:guest@", &format!("{name}:secret@"));
        User { name, endpoint: Endpoint::new(&url).unwrap(), vhost: self.clone() }
    }

    fn ctl(&self, arguments: &[&str]) {
        match &self._private {
            Some(private) => private.ctl(arguments),
            None => assert!(ctl(arguments), "rabbitmqctl {arguments:?}"),
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.vhost.ctl(&["delete_user", &self.name]);
    }
}

/// Names that no other test has.
pub fn names() -> Names {
    Names::new(&prefix()).unwrap()
}

/// A prefix that no other test has.
pub fn prefix() -> String {
    format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A broker of our own with its own node name, cookie, ports and port mapper; killed when dropped, and after ten minutes
/// whatever happens.
pub struct Private {
    /// Where RabbitMQ is installed, when that is not this host.
    root: Option<PathBuf>,
    directory: tempfile::TempDir,
    /// Of the broker, between nodes, and of the port mapper.
    ports: [u16; 3],
    node: String,
    mapper: Child,
    process: Mutex<Option<Child>>,
}

impl Private {
    /// Starts one. `None`, said aloud, where RabbitMQ is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(3000, "")
    }

    /// The same, with a consumer timeout in milliseconds and more lines of rabbitmq.conf.
    pub fn start_with(consumer_timeout: u32, more: &str) -> Option<Self> {
        let root = other_release();
        let server = root.as_deref().unwrap_or(Path::new("/")).join("usr/lib/rabbitmq/bin/rabbitmq-server");
        if !server.exists() {
            eprintln!("SKIPPED: no RabbitMQ is installed here: {}", server.display());
            return None;
        }
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.map(|listener| listener.local_addr().unwrap().port());
        let directory = match &root {
            Some(root) => tempfile::tempdir_in(root.join("tmp")).unwrap(),
            None => tempfile::tempdir().unwrap(),
        };
        let node =
            format!("hearth{}x{}@localhost", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let config = format!(
            "loopback_users = none\nconsumer_timeout = {consumer_timeout}\ndisk_free_limit.absolute = 1MB\n{more}"
        );
        std::fs::write(directory.path().join("rabbitmq.conf"), config).unwrap();
        std::fs::write(directory.path().join("plugins"), "[].\n").unwrap();
        // How often consumer timeouts are looked for; otherwise once a minute.
        let advanced = "[{rabbit, [{channel_tick_interval, 1000}]}].\n";
        std::fs::write(directory.path().join("advanced.config"), advanced).unwrap();
        // The broker would start one that outlives it.
        let port = ports[2].to_string();
        let mut mapper = inside(root.as_deref(), "timeout");
        mapper.args(["--signal=KILL", "600", "epmd", "-port", &port, "-address", "127.0.0.1"]);
        let mapper = mapper.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        let private = Self { root, directory, ports, node, mapper, process: Mutex::new(None) };
        private.begin();
        Some(private)
    }

    fn command(&self, program: &str) -> Command {
        let whole = self.directory.path();
        // As it is seen in there.
        let seen = match &self.root {
            Some(root) => Path::new("/").join(whole.strip_prefix(root).unwrap()),
            None => whole.to_owned(),
        };
        let at = |name: &str| seen.join(name);
        let mut command = inside(self.root.as_deref(), program);
        command
            .current_dir(whole)
            .env("HOME", &seen)
            .env("ERL_EPMD_PORT", self.ports[2].to_string())
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.ports[0].to_string())
            .env("RABBITMQ_DIST_PORT", self.ports[1].to_string())
            .env("RABBITMQ_CONF_ENV_FILE", at("none"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts it again after [`Self::kill`], with its data.
    pub fn begin(&self) {
        let mut command = self.command("timeout");
        command.args(["--signal=KILL", "600", "/usr/lib/rabbitmq/bin/rabbitmq-server"]).process_group(0);
        *self.process.lock().unwrap() = Some(command.spawn().unwrap());
    }

    /// Waits until it listens. Blocks.
    #[allow(
        clippy::disallowed_methods,
        reason = "a pause between two looks, with a deadline, where nothing can be awaited"
    )]
    fn listens(&self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(("127.0.0.1", self.ports[0])).is_err() {
            assert!(Instant::now() < deadline, "the private broker does not start");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until it answers.
    pub async fn ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(90);
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        while Link::open(&self.endpoint(), "test").await.is_err() {
            assert!(Instant::now() < deadline, "the private broker does not start");
            tick.tick().await;
        }
    }

    /// Kills it and everything that it has started.
    pub fn kill(&self) {
        if let Some(mut child) = self.process.lock().unwrap().take() {
            kill_group(&mut child);
        }
    }

    /// `rabbitmqctl` for this broker.
    pub fn ctl(&self, arguments: &[&str]) {
        let status = self
            .command("/usr/lib/rabbitmq/bin/rabbitmqctl")
            .arg("-q")
            .args(["-n", &self.node])
            .args(arguments)
            .status();
        assert!(status.unwrap().success(), "rabbitmqctl {arguments:?}");
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(&self.url()).unwrap()
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports[0])
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.kill();
        kill_group(&mut self.mapper);
    }
}

fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    let _ = child.wait();
}

/// A program of the host, or of a directory that has a system of its own.
fn inside(root: Option<&Path>, program: &str) -> Command {
    match root {
        None => Command::new(program),
        Some(root) => {
            // It asks /proc how much memory there is. The mount is gone with the last process that sees it.
            let script = "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" \"$@\"";
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(root).arg(program);
            command
        }
    }
}

/// A plain AMQP client, as a producer is.
pub struct Client {
    pub link: Link,
    pub channel: Channel,
}

impl Client {
    pub async fn new(endpoint: &Endpoint) -> Self {
        let link = Link::open(endpoint, "test").await.unwrap();
        let channel = link.channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { link, channel }
    }

    /// An exclusive queue with a name that the broker gives.
    pub async fn own_queue(&self) -> String {
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        queue.name().to_string()
    }

    pub async fn publish(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent =
            self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap();
        let confirmation = sent.await.unwrap();
        assert!(confirmation.is_ack());
        assert!(confirmation.take_message().is_none(), "{exchange} {key}: not routed");
    }

    /// The next message of a queue, acknowledged; panics when there is none within half a minute.
    pub async fn get(&self, queue: &str) -> BasicGetMessage {
        self.get_within(queue, Duration::from_secs(30)).await.unwrap_or_else(|| panic!("{queue} stays empty"))
    }

    /// The next message of a queue, acknowledged.
    pub async fn get_within(&self, queue: &str, limit: Duration) -> Option<BasicGetMessage> {
        let deadline = Instant::now() + limit;
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            let message = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
            if let Some(message) = message {
                message.ack(BasicAckOptions::default()).await.unwrap();
                return Some(message);
            }
            if Instant::now() > deadline {
                return None;
            }
        }
    }

    /// How many messages of a queue are ready.
    pub async fn count(&self, queue: &str) -> u32 {
        let channel = self.link.channel().await.unwrap();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
    }
}

/// Waits until something is so.
pub async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    until_within(what, Duration::from_secs(60), is_so).await;
}

/// The same, where it may take longer.
pub async fn until_within(what: &str, limit: Duration, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tick.tick().await;
    }
}
