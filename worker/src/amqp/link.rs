//! A connection to a broker, with what one must know about it.
//!
//! lapin can reconnect by itself; we do not let it: its recovery brings messages again without saying so, and does not
//! recover a closed channel at all. When anything breaks, the connection is dropped and a new one made.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, Event,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPScheme, AMQPUri},
};
use tokio::{sync::watch, task::AbortHandle, time::timeout};

use crate::{
    attempt::chain,
    tls::{self, Certificates},
};

/// How long a connection may take to come up.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Where the broker is, as `amqp://user:password@host:port/vhost`, or `amqps://` by TLS; `/` in a vhost is written
/// `%2f`. Printed without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    certificates: Certificates,
}

impl Endpoint {
    /// Checks the form of an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(url: &str) -> Result<Self, BadEndpoint> {
        url.parse::<AMQPUri>().map_err(|what| BadEndpoint { what })?;
        Ok(Self { url: url.to_owned(), certificates: Certificates::default() })
    }

    /// The same with certificates, which need `amqps://`.
    ///
    /// # Errors
    /// It has no TLS.
    pub fn with_certificates(self, certificates: Certificates) -> Result<Self, BadEndpoint> {
        let tls = self.url.parse::<AMQPUri>().is_ok_and(|uri| uri.scheme == AMQPScheme::AMQPS);
        if !tls && !certificates.is_empty() {
            return Err(BadEndpoint { what: "certificates are for amqps://, which this is not".to_owned() });
        }
        Ok(Self { certificates, ..self })
    }

    fn refused(&self, source: lapin::Error) -> LinkError {
        let endpoint = self.clone();
        match tls::remedy(&chain(&source), "broker") {
            Some(remedy) => LinkError::Tls { endpoint: endpoint.into(), remedy, source },
            None => LinkError::Broker { endpoint: endpoint.into(), source },
        }
    }

    fn tls(&self) -> OwnedTLSConfig {
        let Certificates { ca, identity } = &self.certificates;
        OwnedTLSConfig {
            identity: identity.clone().map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key }),
            cert_chain: ca.as_ref().map(|pem| String::from_utf8_lossy(pem).into_owned()),
        }
    }

    /// The user that the broker knows us by, where the address says so: by a certificate it may be another.
    pub(crate) fn user(&self) -> Option<String> {
        let uri = self.url.parse::<AMQPUri>().ok()?;
        let by_password = uri.query.auth_mechanism.is_none_or(|by| matches!(by.name(), "PLAIN" | "AMQPLAIN"));
        by_password.then_some(uri.authority.userinfo.username)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.url.parse::<AMQPUri>() {
            Ok(AMQPUri { scheme, authority, vhost, .. }) => {
                let scheme = if scheme == AMQPScheme::AMQPS { "amqps" } else { "amqp" };
                write!(f, "{scheme}://{}:{}/{vhost}", authority.host, authority.port)
            }
            Err(_) => f.write_str("amqp://?"),
        }
    }
}

/// An address that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the address of a broker: {what}")]
pub struct BadEndpoint {
    what: String,
}

/// The broker cannot be reached, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It did not answer in time.
    #[error("{endpoint} did not answer within {CONNECT_LIMIT:?}")]
    Timeout {
        /// Where.
        endpoint: Box<Endpoint>,
    },
    /// One of us does not trust the other.
    #[error("{endpoint}: {remedy}")]
    Tls {
        /// Where.
        endpoint: Box<Endpoint>,
        /// What to do.
        remedy: String,
        /// Why.
        #[source]
        source: lapin::Error,
    },
    /// It refused, or the connection broke.
    #[error("{endpoint}")]
    Broker {
        /// Where.
        endpoint: Box<Endpoint>,
        /// Why.
        #[source]
        source: lapin::Error,
    },
}

/// A connection. Closed when dropped, once its channels are too.
pub struct Link {
    connection: Connection,
    endpoint: Endpoint,
    blocked: watch::Receiver<Option<String>>,
    listener: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Link {
    /// Connects. `purpose` is what operators see in the broker's list of connections. Cancel safe.
    ///
    /// # Errors
    /// The broker does not answer or refuses us.
    pub async fn open(endpoint: &Endpoint, purpose: &str) -> Result<Self, LinkError> {
        let properties = ConnectionProperties::default().with_connection_name(purpose.into());
        let connecting = async {
            let runtime = lapin::runtime::default_runtime()?;
            Connection::connect_with_config(&endpoint.url, properties, endpoint.tls(), runtime).await
        };
        let connection = timeout(CONNECT_LIMIT, connecting)
            .await
            .map_err(|_| LinkError::Timeout { endpoint: endpoint.clone().into() })?
            .map_err(|source| endpoint.refused(source))?;
        let (news, blocked) = watch::channel(None);
        let events = connection.events_listener();
        let listener = tokio::spawn(async move {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                match event {
                    Event::ConnectionBlocked(reason) => {
                        tracing::warn!(reason, "the broker takes no messages for now");
                        news.send_replace(Some(reason));
                    }
                    Event::ConnectionUnblocked => {
                        news.send_replace(None);
                    }
                    _ => {}
                }
            }
        });
        let listener = listener.abort_handle();
        Ok(Self { connection, endpoint: endpoint.clone(), blocked, listener })
    }

    /// Opens a channel. Cancel safe.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn channel(&self) -> Result<Channel, LinkError> {
        self.connection.create_channel().await.map_err(|source| self.error(source))
    }

    /// Where it leads.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Puts an error of this connection into words.
    pub fn error(&self, source: lapin::Error) -> LinkError {
        LinkError::Broker { endpoint: self.endpoint.clone().into(), source }
    }

    /// Why the broker takes no messages from this connection, when it does not.
    pub fn blocked(&self) -> &watch::Receiver<Option<String>> {
        &self.blocked
    }

    /// Whether it is up, as far as is known.
    pub fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

    /// Closes it and waits for the broker to know. What happens by itself when it is dropped, later.
    pub async fn close(self) {
        let _ = timeout(Duration::from_secs(2), self.connection.close(200, "done".into())).await;
    }
}
