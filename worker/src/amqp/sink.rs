//! Results go out: to the queue that the producer named, else to the exchange of results.

use std::{path::Path, sync::Arc, time::Duration};

use hearth_schemas::job::is_name;
use lapin::BasicProperties;
use serde::Deserialize;
use tokio::{sync::Notify, task::spawn_blocking};

use super::{
    declare::short,
    names::Names,
    publisher::{Confirmed, NotPublished, Publisher},
    reply::ReplyRule,
    spool::{Spool, SpoolError},
};
use crate::{
    meters,
    seams::{Publication, PublishError, ResultSink},
    threads::heavy,
};

/// How often what is spooled is tried again.
const RESPOOL_EVERY: Duration = Duration::from_secs(1);

/// Publishes results. Clones share it.
#[derive(Clone)]
pub struct AmqpSink {
    publisher: Publisher,
    names: Names,
    reply: ReplyRule,
    spool: Option<Arc<Spool>>,
    spooled: Arc<Notify>,
}

impl AmqpSink {
    /// Results to this broker, without a spool.
    pub fn new(publisher: Publisher, names: Names, reply: ReplyRule) -> Self {
        Self { publisher, names, reply, spool: None, spooled: Arc::default() }
    }

    /// With a spool in a directory, for when the broker is away. Blocks for a short time.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn with_spool(mut self, directory: &Path, max_bytes: u64) -> Result<Self, SpoolError> {
        self.spool = Some(Arc::new(Spool::open(directory, max_bytes)?));
        Ok(self)
    }

    /// Publishes what is spooled, now and whenever there is something, and calls `published` with each. Never returns. Cancel safe: what was not marked as published is published again, the same bytes.
    pub async fn publish_spooled<F: Future<Output = bool>>(&self, published: impl Fn(Publication) -> F) {
        let Some(spool) = &self.spool else { return std::future::pending().await };
        loop {
            for entry in spool.entries().unwrap_or_default() {
                let Ok(Some(publication)) = spool.read(&entry) else { continue };
                if self.send(&publication).await.is_err() {
                    break;
                }
                if published(publication).await
                    && let Err(error) = spool.remove(&entry)
                {
                    tracing::warn!(%error, "a published result stays in the spool");
                }
            }
            tokio::select! {
                () = self.spooled.notified() => {}
                () = tokio::time::sleep(RESPOOL_EVERY) => {}
            }
        }
    }

    /// How many results wait on disk.
    pub fn spooled(&self) -> usize {
        self.spool.as_ref().and_then(|spool| spool.entries().ok()).map_or(0, |entries| entries.len())
    }

    async fn send(&self, publication: &Publication) -> Result<(), Unsent> {
        let properties = properties(publication);
        if let Some(reply_to) = &publication.properties.reply_to
            && self.reply.check(reply_to).is_ok()
        {
            match self.publisher.publish("", reply_to, properties.clone(), &publication.body).await? {
                Confirmed::Routed => {
                    count("routed");
                    return Ok(());
                }
                Confirmed::Unroutable => {
                    count("reply_to_gone");
                    tracing::warn!(
                        id = publication.id,
                        reply_to,
                        "nobody is there; the result goes to the exchange"
                    );
                }
            }
        }
        let key = routing_key(publication);
        match self.publisher.publish(&self.names.results(), &key, properties, &publication.body).await? {
            Confirmed::Routed => {
                count("routed");
                Ok(())
            }
            Confirmed::Unroutable => Err(Unsent::NoQueue),
        }
    }

    async fn put_aside(&self, publication: &Publication) {
        let Some(spool) = self.spool.clone() else { return };
        let publication = publication.clone();
        match spawn_blocking(move || spool.put(&publication)).await {
            Ok(Ok(())) => {
                count("spooled");
                self.spooled.notify_one();
            }
            Ok(Err(error)) => tracing::warn!(%error, "the result is in the ledger only"),
            Err(error) => tracing::warn!(%error, "the spool's task ended early"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Unsent {
    #[error(transparent)]
    NotPublished(#[from] NotPublished),
    #[error("no queue takes results: the exchange's alternate is not bound; run `hearth topology --apply`")]
    NoQueue,
}

impl ResultSink for AmqpSink {
    async fn publish(&self, publication: &Publication) -> Result<(), PublishError> {
        let Err(error) = self.send(publication).await else { return Ok(()) };
        count("failed");
        if matches!(&error, Unsent::NotPublished(error) if error.is_outage()) {
            self.put_aside(publication).await;
        }
        Err(PublishError { what: crate::attempt::chain(&error) })
    }
}

fn count(outcome: &'static str) {
    meters::RESULT_PUBLISH.count(&[outcome]);
}

fn properties(publication: &Publication) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_message_id(short(&publication.id))
        .with_app_id("hearth".into());
    match &publication.properties.correlation_id {
        Some(id) => properties.with_correlation_id(short(id)),
        None => properties.with_correlation_id(short(&publication.id)),
    }
}

/// `<tenant>.<runtime>.<status>`, each one word.
fn routing_key(publication: &Publication) -> String {
    #[derive(Deserialize, Default)]
    struct Words {
        #[serde(default)]
        runtime: String,
        #[serde(default)]
        status: String,
    }
    let body = &publication.body;
    let words: Words = heavy(body.len(), || serde_json::from_slice(body)).unwrap_or_default();
    let word = |word: &str| if is_name(word) { word.to_owned() } else { "-".to_owned() };
    format!("{}.{}.{}", word(&publication.tenant), word(&words.runtime), word(&words.status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::Properties;

    fn publication(body: &'static str) -> Publication {
        Publication {
            body: body.into(),
            tenant: "t".into(),
            id: "1".into(),
            properties: Properties::default(),
        }
    }

    #[test]
    fn a_routing_key_has_three_words_whatever_the_result_says() {
        let key = |body| routing_key(&publication(body));
        assert_eq!(
            key(r#"{"runtime":"python","status":"finished","stages":[{"x":1}]}"#),
            "t.python.finished"
        );
        assert_eq!(key(r#"{"runtime":"a.b.#","status":"refused"}"#), "t.-.refused");
        assert_eq!(key("nonsense"), "t.-.-");
    }

    #[test]
    fn a_result_is_known_by_the_jobs_id() {
        let properties = properties(&publication("{}"));
        assert_eq!(properties.message_id().as_ref().map(|id| id.as_str()), Some("1"));
        assert_eq!(properties.correlation_id().as_ref().map(|id| id.as_str()), Some("1"));
    }
}
