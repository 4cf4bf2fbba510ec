//! Whether the server can be used, for `/ready`.

use std::time::Duration;

use hearth_pool::redis_server::RedisServer;
use tokio::sync::watch;

use crate::{attempt::chain, tls::remedy};

/// How often Redis is asked whether it can be trusted.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Why the server cannot be used, asked for as long as somebody listens.
pub fn trouble(server: Option<RedisServer>) -> watch::Receiver<Option<String>> {
    let (say, trouble) = watch::channel(None);
    if let Some(server) = server {
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(CHECK_EVERY);
            while !say.is_closed() {
                ticks.tick().await;
                let found = server.check().await.err().map(|error| {
                    let why = chain(&error);
                    let remedy = remedy(&why, "redis").map(|remedy| format!("{remedy} ({why})"));
                    remedy.unwrap_or(why)
                });
                say.send_if_modified(|said| std::mem::replace(said, found.clone()) != found);
            }
        });
    }
    trouble
}
