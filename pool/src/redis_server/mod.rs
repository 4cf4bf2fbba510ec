//! The Redis server that coordinates workers, as its users see it: scripts that are asked until they are answered.
//!
//! Every script can be asked again: a lost answer does not say whether the script ran. What the driver does not do
//! by itself is done here: it gives up after 500 ms, and the command that finds a connection broken fails.
//! One server, or the primary of a replicated one; not a cluster, since the scripts use keys of several slots.

mod ask;
mod durability;
mod link;

use std::{sync::Arc, time::Duration};

pub use redis::{ClientTlsConfig, TlsCertificates};
use redis::{FromRedisValue, Script, ScriptInvocation};
use tokio::time::Instant;

use self::link::Link;
pub use self::{durability::NotKept, link::ServerError};

/// Longest wait for one answer unless told otherwise. The driver's own 500 ms is less than a save or a slow disk takes.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a connection unless told otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For how long a script is asked again before its caller is told unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(6);
/// How far one script may move the age of the data unless told otherwise.
pub const CLOCK_STEP_MAX: Duration = Duration::from_secs(5);

/// How the server is reached and what is expected of it.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://[user:password@]host:port/database`, `rediss://` by TLS, or `redis+unix:///path`.
    pub url: String,
    /// For `rediss://`; without, whoever this host trusts is trusted.
    pub certificates: Option<TlsCertificates>,
    /// Stands before every key.
    pub prefix: String,
    /// Longest wait for one answer.
    pub response_timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// For how long a script is asked again before its caller is told.
    pub patience: Duration,
    /// How far one script may move the age of the data, which is what leases are counted in: a server whose clock
    /// is set forward ends leases at most this much too soon. At most the leases' grace.
    pub clock_step_max: Duration,
    /// Use the server even if it may forget what it was told.
    pub accept_loss: bool,
}

impl RedisConfig {
    /// The defaults for a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            certificates: None,
            prefix: "hearth:".into(),
            response_timeout: RESPONSE_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            patience: PATIENCE,
            clock_step_max: CLOCK_STEP_MAX,
            accept_loss: false,
        }
    }
}

/// The configuration names no server.
#[derive(Debug, thiserror::Error)]
#[error("no server by this redis URL")]
pub struct RedisUrlError(#[from] Box<dyn std::error::Error + Send + Sync>);

/// An answer, and when the question that it answers was asked.
#[derive(Clone, Copy, Debug)]
pub struct Answer<T> {
    /// What the script answered.
    pub value: T,
    /// Before the question left this process. What the script granted counts from here.
    pub asked: Instant,
}

/// The server. Clones share one connection, over which questions of many tasks go without waiting for each other.
#[derive(Clone, Debug)]
pub struct RedisServer {
    link: Arc<Link>,
    config: Arc<RedisConfig>,
}

impl RedisServer {
    /// Describes a server; connects when it is first asked, and again whenever that is needed.
    pub fn new(config: RedisConfig) -> Result<Self, RedisUrlError> {
        let link = Link::new(&config)?;
        Ok(Self { link: Arc::new(link), config: Arc::new(config) })
    }

    /// A key under the configured prefix.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.config.prefix)
    }

    /// How far one script may move the age of the data.
    pub fn clock_step_max(&self) -> Duration {
        self.config.clock_step_max
    }

    /// Begins a question: the script's first key is the epoch, its first argument the longest step of the age.
    pub fn question<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut invocation = script.prepare_invoke();
        invocation.key(self.key("epoch")).arg(micros(self.config.clock_step_max));
        invocation
    }

    /// Asks until there is an answer or the patience ends. The script must be made for being asked again.
    /// Not cancel safe: after an error too, it may have run.
    pub async fn ask<T: FromRedisValue>(
        &self,
        question: &ScriptInvocation<'_>,
    ) -> Result<Answer<T>, ServerError> {
        ask::ask(&self.link, question, self.config.patience).await
    }

    /// Asks the server for its age and whether it keeps what it is told. For readiness. Cancel safe.
    pub async fn check(&self) -> Result<DataAge, ServerError> {
        self.link.check_durability().await?;
        let age: Answer<u64> = self.ask(&self.question(&age_script())).await?;
        Ok(DataAge(Duration::from_micros(age.value)))
    }

    /// Declares that nobody held anything in data that is gone, so that new data need not wait for holders to
    /// register again: for the first start of an installation. Wrong while workers run.
    pub async fn trust_new_data(&self) -> Result<(), ServerError> {
        let question = script(include_str!("trust.lua"));
        self.ask::<()>(&self.question(&question)).await.map(|_| ())
    }
}

/// For how long the data has existed, outages not counted. Until it is older than the longest lease, whoever holds
/// something is given the time to register it again, and nothing is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataAge(pub Duration);

/// A script, with what stands before every script: `num`, `wall` and `age`.
pub fn script(body: &str) -> Script {
    Script::new(&[include_str!("age.lua"), body].concat())
}

fn age_script() -> Script {
    script("return num(age)")
}

/// Microseconds, the unit of all scripts.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
