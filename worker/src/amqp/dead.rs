//! The queue of messages that people should look at.

use lapin::{
    Channel, Confirmation,
    message::BasicGetMessage,
    options::{
        BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    declare::short,
    headers,
    link::{Link, LinkError},
    names::Names,
};

/// A dead message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dead {
    /// The message's id, or that of its request; empty when it has none.
    pub id: String,
    /// Why it is here.
    pub reason: String,
    /// Attempts that reached a VM.
    pub attempts: u64,
    /// Its size.
    pub bytes: usize,
    /// Where its result was to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
}

/// What is done with each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It stays.
    Keep,
    /// It is gone.
    Drop,
    /// It is sent again for whoever sent it, under a new id: the old one has its result already.
    Retry,
}

/// What was done with a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// The message.
    #[serde(flatten)]
    pub dead: Dead,
    /// Its new id, when it was sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_id: Option<String>,
}

/// Looks at up to `most` messages, and does with each what `decide` says. What stays keeps its place only roughly.
///
/// # Errors
/// The broker fails; what was not settled stays.
pub async fn each(
    link: &Link,
    names: &Names,
    most: u32,
    mut decide: impl FnMut(&Dead) -> Act,
) -> Result<Vec<Done>, LinkError> {
    let channel = link.channel().await?;
    let broke = |error| link.error(error);
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(broke)?;
    let queue = short(&names.dead());
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel.queue_declare(queue.clone(), options, FieldTable::default()).await.map_err(broke)?;
    let (mut done, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..found.message_count().min(most) {
        let message = channel.basic_get(queue.clone(), BasicGetOptions::default()).await.map_err(broke)?;
        let Some(message) = message else { break };
        let dead = dead(&message);
        let new_id = match decide(&dead) {
            Act::Keep => {
                kept.push(message.delivery.acker.clone());
                None
            }
            Act::Drop => {
                message.ack(BasicAckOptions::default()).await.map_err(broke)?;
                None
            }
            Act::Retry => {
                let new_id = ulid::Ulid::generate().to_string();
                if !resend(&channel, names, &message, &new_id).await.map_err(broke)? {
                    kept.push(message.delivery.acker.clone());
                    continue;
                }
                message.ack(BasicAckOptions::default()).await.map_err(broke)?;
                Some(new_id)
            }
        };
        done.push(Done { dead, new_id });
    }
    for acker in kept {
        acker.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await.map_err(broke)?;
    }
    Ok(done)
}

fn dead(message: &BasicGetMessage) -> Dead {
    let header = |name: &str| message.properties.headers().as_ref().and_then(|table| table.inner().get(name));
    let reason = match header("hearth-reason") {
        Some(AMQPValue::LongString(reason)) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
        _ => "unknown".to_owned(),
    };
    let attempts = match header("hearth-attempts") {
        Some(AMQPValue::LongUInt(attempts)) => u64::from(*attempts),
        Some(AMQPValue::LongLongInt(attempts)) => u64::try_from(*attempts).unwrap_or(0),
        _ => 0,
    };
    let id = message.properties.message_id().as_ref().map(ToString::to_string);
    let id = id.or_else(|| hearth_schemas::job::probe(&message.data).id).unwrap_or_default();
    let reply_to = message.properties.reply_to().as_ref().map(ToString::to_string);
    Dead { id, reason, attempts, bytes: message.data.len(), reply_to }
}

/// Whether it is in the intake again.
async fn resend(
    channel: &Channel,
    names: &Names,
    message: &BasicGetMessage,
    new_id: &str,
) -> Result<bool, lapin::Error> {
    let properties = headers::retried(&message.properties, new_id);
    let body = with_id(&message.data, new_id);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel.basic_publish(short(&names.retried()), "".into(), options, &body, properties).await?;
    Ok(matches!(sent.await?, Confirmation::Ack(None)))
}

/// The request with another id; what is no request stays as it is.
fn with_id(body: &[u8], id: &str) -> Vec<u8> {
    let Ok(Value::Object(mut request)) = serde_json::from_slice(body) else { return body.to_vec() };
    if request.contains_key("id") {
        request.insert("id".to_owned(), id.into());
    }
    serde_json::to_vec(&request).unwrap_or_else(|_| body.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_its_new_id_where_it_had_one() {
        assert_eq!(with_id(br#"{"id":"a","x":1}"#, "b"), br#"{"id":"b","x":1}"#);
        assert_eq!(with_id(br#"{"x":1}"#, "b"), br#"{"x":1}"#);
        assert_eq!(with_id(b"nonsense", "b"), b"nonsense");
    }
}
