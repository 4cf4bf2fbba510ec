//! Redis, where it is configured; else this worker must be the only one.

use std::time::Duration;

use bytes::Bytes;
use hearth_pool::{
    lease::redis::{RedisLeaseConfig, RedisLeases, host_domain},
    redis_server::{ClientTlsConfig, RedisConfig, RedisServer, TlsCertificates},
};
use hearth_worker::{
    amqp::first_start::{FirstStart, first_start},
    ledger::{
        Beat, Begun, Cancel, Commit, FailedAttempt, JobKey, Ledger, LedgerError, MemoryLedger, RedisLedger,
        RedisLedgerConfig, Registered, Registration, Seized, Token, Unpublished,
    },
    settings::Settings,
    tls::Certificates,
};

use crate::cli::exit::{Exit, Failure, chain};

/// What coordinates workers.
pub struct Services {
    server: Option<RedisServer>,
}

impl Services {
    /// As configured. Asks nobody yet.
    pub fn open(settings: &Settings) -> Result<Self, Failure> {
        let Some(redis) = &settings.redis else {
            tracing::warn!(
                "no redis is configured: this must be the only worker, and it forgets its jobs when it ends"
            );
            return Ok(Self { server: None });
        };
        let mut config = RedisConfig::new(&redis.url);
        (config.accept_loss, config.prefix) = (redis.accept_loss, redis.prefix.clone());
        config.certificates = certificates(&redis.certificates);
        let server = RedisServer::new(config).map_err(|error| Failure::from_error(Exit::Config, &error))?;
        Ok(Self { server: Some(server) })
    }

    pub fn server(&self) -> Option<RedisServer> {
        self.server.clone()
    }

    /// Trusts data that is new, where nobody can hold anything that it does not know; else leases and jobs wait for a while.
    pub async fn first_start(&self, settings: &Settings) {
        let Some(server) = self.server() else { return };
        let leases = RedisLeaseConfig::new("");
        let broker = &settings.broker;
        match first_start(&server, leases.ttl + leases.grace, &broker.endpoint, &broker.names).await {
            Ok(FirstStart::Settled) => {}
            Ok(FirstStart::Trusted) => {
                tracing::info!("redis: the data is new and no worker is there; it is trusted from now on");
            }
            Ok(FirstStart::Waits { settles_in }) => {
                tracing::warn!(
                    ?settles_in,
                    "redis: the data is new and other workers are there, who register again what they hold; nothing begins meanwhile"
                );
            }
            Err(error) => tracing::warn!(
                error = chain(&error),
                "it is not known whether new data of redis can be trusted; it waits"
            ),
        }
    }

    fn lease_config() -> Result<RedisLeaseConfig, Failure> {
        let domain = host_domain().map_err(|error| Failure::from_error(Exit::Config, &error))?;
        Ok(RedisLeaseConfig::new(domain))
    }

    /// Leases there, if there is one.
    pub fn leases(&self) -> Result<Option<RedisLeases>, Failure> {
        let Some(server) = self.server() else { return Ok(None) };
        Ok(Some(RedisLeases::new(server, Self::lease_config()?)))
    }

    /// The ledger there, else in memory.
    pub fn ledger(&self) -> AnyLedger {
        match self.server() {
            None => AnyLedger::Memory(MemoryLedger::default()),
            Some(server) => {
                let leases = RedisLeaseConfig::new("");
                let config = RedisLedgerConfig::new(leases.ttl + leases.grace);
                AnyLedger::Redis(RedisLedger::new(server, config))
            }
        }
    }
}

/// As the driver takes them.
fn certificates(certificates: &Certificates) -> Option<TlsCertificates> {
    let Certificates { ca, identity } = certificates.clone();
    let client_tls = identity.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    (!certificates.is_empty()).then_some(TlsCertificates { client_tls, root_cert: ca })
}

/// One of the two.
pub enum AnyLedger {
    Memory(MemoryLedger),
    Redis(RedisLedger),
}

/// Asks whichever it is.
macro_rules! ask {
    ($self:ident . $method:ident ( $($argument:expr),* )) => {
        match $self {
            AnyLedger::Memory(ledger) => ledger.$method($($argument),*).await,
            AnyLedger::Redis(ledger) => ledger.$method($($argument),*).await,
        }
    };
}

impl Ledger for AnyLedger {
    async fn register(
        &self,
        key: &JobKey,
        digest: &str,
        what: &Registration,
    ) -> Result<Registered, LedgerError> {
        ask!(self.register(key, digest, what))
    }
    async fn begin_with(
        &self,
        key: &JobKey,
        digest: &str,
        owner: &str,
        what: &Registration,
    ) -> Result<Begun, LedgerError> {
        ask!(self.begin_with(key, digest, owner, what))
    }
    async fn heartbeats(&self, tokens: &[Token]) -> Result<Vec<Beat>, LedgerError> {
        ask!(self.heartbeats(tokens))
    }
    async fn heartbeat(&self, token: &Token) -> Result<Beat, LedgerError> {
        ask!(self.heartbeat(token))
    }
    async fn give_back(&self, token: &Token, failed: FailedAttempt) -> Result<Beat, LedgerError> {
        ask!(self.give_back(token, failed))
    }
    async fn commit(&self, token: &Token, result: Bytes) -> Result<Commit, LedgerError> {
        ask!(self.commit(token, result))
    }
    async fn published(&self, key: &JobKey, told: &str) -> Result<(), LedgerError> {
        ask!(self.published(key, told))
    }
    async fn cancel(&self, key: &JobKey) -> Result<Cancel, LedgerError> {
        ask!(self.cancel(key))
    }
    async fn overdue(&self, at_most: usize) -> Result<Vec<JobKey>, LedgerError> {
        ask!(self.overdue(at_most))
    }
    async fn seize(&self, key: &JobKey, owner: &str) -> Result<Seized, LedgerError> {
        ask!(self.seize(key, owner))
    }
    async fn unpublished(
        &self,
        older_than: Duration,
        at_most: usize,
    ) -> Result<Vec<Unpublished>, LedgerError> {
        ask!(self.unpublished(older_than, at_most))
    }
    async fn lead(&self, owner: &str, period: Duration) -> Result<Option<Duration>, LedgerError> {
        ask!(self.lead(owner, period))
    }
    async fn running(&self, tenant: &str) -> Result<u32, LedgerError> {
        ask!(self.running(tenant))
    }
}
