//! One job that is waited for, whatever becomes of the connection meanwhile.

use std::time::Duration;

use bytes::Bytes;
use hearth_worker::amqp::{
    client::{ClientError, JobClient, Reply},
    link::Endpoint,
    names::Names,
};

use super::{
    RECONNECT_PAUSE, RECONNECTS_MAX, failure,
    follow::{Sieve, until_result},
    trace,
};
use crate::cli::{
    exit::{Failure, chain},
    follow::Printer,
};

/// A connection that lasted so long was a good one.
const LASTED: Duration = Duration::from_secs(60);

/// A job on its way.
pub struct Single<'a> {
    pub endpoint: &'a Endpoint,
    pub names: &'a Names,
    pub id: String,
    pub body: Bytes,
    /// Prints its events, when that is asked for.
    pub printer: Option<Printer>,
}

impl Single<'_> {
    /// Sends the job and waits for its result. When the connection breaks it is made anew, and the job sent again under the
    /// same id: a job that has a result by then is answered with that.
    pub async fn result(mut self) -> Result<Reply, Failure> {
        let (mut sieve, mut sent, mut failures) = (Sieve::default(), false, 0);
        loop {
            let began = tokio::time::Instant::now();
            let error = match self.converse(&mut sieve, &mut sent).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            failures = if began.elapsed() > LASTED { 1 } else { failures + 1 };
            let passes = !matches!(error, ClientError::NoIntake(_) | ClientError::Refused);
            if !sent || !passes || failures > RECONNECTS_MAX {
                return Err(failure(&error));
            }
            tracing::warn!(error = chain(&error), "the broker is away; the job is sent again");
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// One connection.
    async fn converse(&mut self, sieve: &mut Sieve, sent: &mut bool) -> Result<Reply, ClientError> {
        let Self { endpoint, names, id, body, printer } = self;
        let client = JobClient::connect(endpoint, names).await?;
        let events = match printer {
            // Before there is anything to follow.
            Some(_) => Some(client.follow(id).await?),
            None => None,
        };
        let (sender, mut replies) = client.split();
        let sender = sender.with_trace(trace());
        // From here on it may be in the intake.
        *sent = true;
        sender.send(id, body).await?;
        match (events, printer) {
            (Some(mut events), Some(printer)) => {
                until_result(printer, sieve, &mut events, &mut replies).await
            }
            _ => replies.next().await,
        }
    }
}
