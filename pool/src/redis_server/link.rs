//! The connection: kept until it fails, then replaced.
//!
//! deadpool-redis makes connections and bounds how long that takes. A checkout from it costs a PING, so one
//! connection is kept checked out, in effect, and shared by all tasks: it is multiplexed.

use std::{fmt, time::Duration};

use deadpool_redis::{Manager, Pool, PoolError, Runtime};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, ServerErrorKind,
    aio::MultiplexedConnection,
};
use tokio::sync::Mutex;

use super::{
    RedisConfig, RedisUrlError,
    durability::{NotKept, is_loading, judge},
};

/// Why the server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No connection.
    #[error("cannot connect to redis")]
    Connect(#[source] PoolError),
    /// The command failed, was refused, or its answer did not come. It may have run.
    #[error("a command to redis failed")]
    Command(#[source] redis::RedisError),
    /// No answer within the patience.
    #[error("redis gave no answer for {patience:?}")]
    Silent {
        /// For how long it was asked.
        patience: Duration,
    },
    /// The server was started and reads its data.
    #[error("redis is loading its data")]
    Loading,
    /// The server may forget what it is told.
    #[error("redis may lose what it is told: {0}")]
    NotKept(NotKept),
}

impl ServerError {
    /// Whether asking again may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect(PoolError::Backend(error)) | Self::Command(error) => passes(error.kind()),
            Self::Connect(PoolError::Timeout(_)) | Self::Loading => true,
            Self::Connect(_) | Self::Silent { .. } | Self::NotKept(_) => false,
        }
    }
}

/// A server that is gone may come back, one that loads its data will have loaded it, and a replica may be promoted.
fn passes(kind: ErrorKind) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly, TryAgain};
    matches!(kind, ErrorKind::Io | ErrorKind::Server(BusyLoading | MasterDown | ReadOnly | TryAgain))
}

fn address(config: &RedisConfig) -> Result<ConnectionInfo, RedisError> {
    let client = match &config.certificates {
        None => Client::open(config.url.as_str())?,
        Some(certificates) => Client::build_with_tls(config.url.as_str(), certificates.clone())?,
    };
    let address = client.get_connection_info().clone();
    if matches!(address.addr(), ConnectionAddr::TcpTls { .. }) {
        // Where two providers are built in, the driver would not choose one. It may be there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    Ok(address)
}

/// The way to the server.
pub(super) struct Link {
    pool: Pool,
    accept_loss: bool,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    number: u64,
    commands: Option<MultiplexedConnection>,
}

/// One task's use of the connection.
pub(super) struct Connection {
    number: u64,
    pub(super) commands: MultiplexedConnection,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("pool", &self.pool.status()).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, RedisUrlError> {
        let connection = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connect_timeout))
            .set_response_timeout(Some(config.response_timeout));
        let address = address(config).map_err(|e| RedisUrlError(Box::new(e)))?;
        let manager =
            Manager::new_with_config(address, connection).map_err(|e| RedisUrlError(Box::new(e)))?;
        let pool = Pool::builder(manager)
            .max_size(1)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(config.connect_timeout))
            .wait_timeout(Some(config.connect_timeout))
            .recycle_timeout(Some(config.connect_timeout))
            .build()
            .map_err(|e| RedisUrlError(Box::new(e)))?;
        Ok(Self { pool, accept_loss: config.accept_loss, current: Mutex::default() })
    }

    /// The connection, made anew if there is none. Tasks wait for one of them to make it.
    pub(super) async fn connection(&self) -> Result<Connection, ServerError> {
        let mut current = self.current.lock().await;
        let commands = match &current.commands {
            Some(commands) => commands.clone(),
            None => {
                let commands = (*self.pool.get().await.map_err(ServerError::Connect)?).clone();
                // A server that was restarted may have been configured anew.
                self.judge(commands.clone()).await?;
                current.number += 1;
                current.commands = Some(commands.clone());
                commands
            }
        };
        Ok(Connection { number: current.number, commands })
    }

    /// Makes the next use connect anew, unless somebody has already. After a timeout too: a connection whose
    /// packets get lost would otherwise be used until the kernel notices, many minutes later.
    pub(super) async fn give_up(&self, failed: Connection) {
        let mut current = self.current.lock().await;
        if current.number == failed.number {
            current.commands = None;
            self.pool.retain(|_, _| false);
        }
    }

    /// Whether the server keeps what it is told, now.
    pub(super) async fn check_durability(&self) -> Result<(), ServerError> {
        let connection = self.connection().await?;
        match self.judge(connection.commands.clone()).await {
            Err(ServerError::Command(error)) => {
                self.give_up(connection).await;
                Err(ServerError::Command(error))
            }
            judged => judged,
        }
    }

    async fn judge(&self, mut commands: MultiplexedConnection) -> Result<(), ServerError> {
        if self.accept_loss {
            return Ok(());
        }
        let mut info = redis::pipe();
        info.cmd("INFO").arg("persistence").cmd("INFO").arg("memory");
        let info: Vec<String> = info.query_async(&mut commands).await.map_err(ServerError::Command)?;
        let info = info.concat();
        if is_loading(&info) {
            return Err(ServerError::Loading);
        }
        judge(&info).map_err(ServerError::NotKept)
    }
}
