//! Whether new data of Redis may be trusted at once, because nobody can hold anything that it does not know.
//!
//! A worker consumes the intake for as long as it lives. So where the intake is not there, or has no consumer, no worker
//! is there either; what one that has lost the broker still holds is held by its host's locks, and its results are
//! thrown away, since its tokens are not known.

use std::time::Duration;

use hearth_pool::redis_server::{RedisServer, ServerError};
use lapin::{options::QueueDeclareOptions, types::FieldTable};

use super::{
    declare::short,
    link::{Endpoint, Link, LinkError},
    names::Names,
};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstStart {
    /// The data is older than any lease.
    Settled,
    /// It was new, and nobody is there: it counts as settled from now on.
    Trusted,
    /// It is new, and others are there who may hold something: leases and jobs wait.
    Waits {
        /// For so long.
        settles_in: Duration,
    },
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum FirstStartError {
    /// Redis does not answer.
    #[error(transparent)]
    Redis(#[from] ServerError),
    /// The broker does not.
    #[error(transparent)]
    Broker(#[from] LinkError),
}

/// Trusts new data where no worker is there. To be asked before this process consumes anything. `settle`: a lease's time
/// and its grace.
///
/// # Errors
/// Redis or the broker does not answer; the data is not trusted then.
pub async fn first_start(
    server: &RedisServer,
    settle: Duration,
    endpoint: &Endpoint,
    names: &Names,
) -> Result<FirstStart, FirstStartError> {
    let age = server.check().await?.0;
    if age >= settle {
        return Ok(FirstStart::Settled);
    }
    if workers(endpoint, names).await? > 0 {
        return Ok(FirstStart::Waits { settles_in: settle.saturating_sub(age) });
    }
    server.trust_new_data().await?;
    Ok(FirstStart::Trusted)
}

/// How many workers take jobs.
async fn workers(endpoint: &Endpoint, names: &Names) -> Result<u32, LinkError> {
    let link = Link::open(endpoint, "hearth first start").await?;
    let channel = link.channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel.queue_declare(short(&names.intake()), options, FieldTable::default()).await;
    let workers = match found {
        Ok(queue) => Ok(queue.consumer_count()),
        Err(error) if error.to_string().contains("NOT_FOUND") => Ok(0),
        Err(error) => Err(link.error(error)),
    };
    link.close().await;
    workers
}
