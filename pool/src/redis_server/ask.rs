//! Asking one script until it answers.

use std::time::Duration;

use redis::{FromRedisValue, ScriptInvocation};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Answer,
    link::{Link, ServerError},
};

/// Wait before the second retry; the first one is at once, since the usual failure is a connection that has died.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
/// Longest wait between two retries.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Asks again while the server may recover and the patience lasts.
pub(super) async fn ask<T: FromRedisValue>(
    link: &Link,
    question: &ScriptInvocation<'_>,
    patience: Duration,
) -> Result<Answer<T>, ServerError> {
    let give_up = Instant::now() + patience;
    let mut backoff = Duration::ZERO;
    loop {
        let asked = Instant::now();
        let error = match timeout_at(give_up, once(link, question)).await {
            Ok(Ok(value)) => return Ok(Answer { value, asked }),
            Ok(Err(error)) => error,
            Err(_) => return Err(ServerError::Silent { patience }),
        };
        if !error.may_pass() || Instant::now() + backoff >= give_up {
            return Err(error);
        }
        tracing::debug!(%error, "redis: asking again");
        sleep(backoff).await;
        backoff = (backoff * 2).clamp(BACKOFF_FIRST, BACKOFF_MAX);
    }
}

async fn once<T: FromRedisValue>(link: &Link, question: &ScriptInvocation<'_>) -> Result<T, ServerError> {
    let mut connection = link.connection().await?;
    // On NOSCRIPT, after a restart of the server, this loads the script and asks once more.
    match question.invoke_async(&mut connection.commands).await {
        Ok(answer) => Ok(answer),
        Err(source) => {
            let error = ServerError::Command(source);
            if error.may_pass() {
                link.give_up(connection).await;
            }
            Err(error)
        }
    }
}
