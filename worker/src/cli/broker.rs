//! The broker as the commands are told of it.

use clap::Args;
use hearth_worker::amqp::{
    link::{Endpoint, Link},
    names::{Names, PREFIX},
};

use super::exit::{Exit, Failure};
use crate::config::BrokerTls;

/// Where the broker is, and what things are called there.
#[derive(Clone, Debug, Args)]
pub struct Broker {
    /// The broker, as amqp://[user[:password]@]host[:port][/vhost], or amqps://
    #[arg(long, value_name = "URL", env = "HEARTH_BROKER", hide_env_values = true)]
    broker: Option<String>,

    #[command(flatten)]
    tls: BrokerTls,

    /// What the names of queues and exchanges begin with
    #[arg(long, value_name = "NAME", env = "HEARTH_PREFIX", hide_env_values = true, default_value = PREFIX)]
    prefix: String,
}

impl Broker {
    /// Where it is.
    pub fn endpoint(&self) -> Result<Endpoint, Failure> {
        let Some(url) = &self.broker else {
            return Err(
                Failure::new(Exit::Usage, "no broker is given").remedy("--broker URL, or HEARTH_BROKER")
            );
        };
        let certificates = self.tls.certificates()?;
        let endpoint = Endpoint::new(url).and_then(|endpoint| endpoint.with_certificates(certificates));
        endpoint.map_err(|error| Failure::from_error(Exit::Usage, &error))
    }

    /// What things are called there.
    pub fn names(&self) -> Result<Names, Failure> {
        Names::new(&self.prefix).map_err(|error| Failure::from_error(Exit::Usage, &error))
    }

    /// A connection.
    pub async fn link(&self, purpose: &str) -> Result<Link, Failure> {
        Link::open(&self.endpoint()?, purpose).await.map_err(|error| away(&error))
    }
}

/// The broker is not there: try later.
pub fn away(error: &dyn std::error::Error) -> Failure {
    Failure::from_error(Exit::Temporary, error)
}
