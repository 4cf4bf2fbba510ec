//! What Hearth writes beside a message, and what it reads there.
//!
//! Headers that begin with `hearth-` are believed on run queues only, to which nobody but workers may publish; and whose
//! a message is also by way of the exchange for what is sent again, to which nobody but operators may.

use hearth_schemas::job::is_name;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable, LongString},
};

use super::{declare::short, names::Names};
use crate::{
    ledger::unix_ms,
    seams::Properties,
    trace::{TRACEPARENT, TRACESTATE, TraceContext},
};

/// A longer trace context is nonsense (W3C: at least 512 are to be kept).
const TRACE_MAX_BYTES: usize = 1024;
const OURS: &str = "hearth-";
const SENT: &str = "hearth-sent-unix-ms";
const USER: &str = "hearth-user";
const REDELIVERED: &str = "hearth-redelivered";
const AVOID: &str = "hearth-avoid";
const AVOID_UNTIL: &str = "hearth-avoid-until-unix-ms";
/// What the broker itself writes; a message that is published again starts without.
const BROKERS: [&str; 6] = [
    "x-death",
    "x-delivery-count",
    "x-acquired-count",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
];

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A producer wrote it.
    Intake,
    /// An operator sent it again.
    Retried,
    /// A worker did.
    Run,
}

impl Origin {
    /// Of a message of the intake, which came by this exchange.
    pub fn of_intake(exchange: &str, names: &Names) -> Self {
        if exchange == names.retried() { Self::Retried } else { Self::Intake }
    }

    /// Of a message that the broker has given up on: where it was then. That is the first of what it notes, whatever a
    /// producer has written there.
    pub fn of_fallen(message: &BasicProperties, names: &Names) -> Self {
        let death = message.headers().as_ref().and_then(|headers| match headers.inner().get("x-death") {
            Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice().first(),
            _ => None,
        });
        let Some(AMQPValue::FieldTable(death)) = death else { return Self::Intake };
        let said = |name: &str| death.inner().get(name).and_then(string).unwrap_or_default();
        match said("queue") {
            queue if names.is_run(&queue) => Self::Run,
            _ => Self::of_intake(&said("exchange"), names),
        }
    }
}

/// Which workers should leave a job to others for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Avoid {
    /// Their names.
    pub workers: Vec<String>,
    /// Until when, in milliseconds since 1970.
    pub until_unix_ms: u64,
}

impl Avoid {
    /// Whether a worker should leave the job to others now.
    pub fn includes(&self, worker: &str) -> bool {
        self.until_unix_ms > unix_ms() && self.workers.iter().any(|name| name == worker)
    }
}

/// Reads what stands beside a message.
pub fn read(message: &BasicProperties, redelivered: bool, origin: Origin) -> (Properties, Avoid) {
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(|text| text.to_string());
    // AMQP's timestamps are whole seconds, so take the end of that second: a deadline must not come too soon. Some
    // clients write milliseconds, which as seconds would be in the year 5000.
    let stamp =
        message.timestamp().map(|stamp| if stamp > 100_000_000_000 { stamp } else { stamp * 1000 + 999 });
    let mut properties = Properties {
        message_id: text(message.message_id()).filter(|id| is_name(id)),
        correlation_id: text(message.correlation_id()),
        reply_to: text(message.reply_to()),
        user_id: text(message.user_id()),
        redelivered,
        sent_unix_ms: stamp,
        parked: origin == Origin::Run,
        trace: trace(message),
    };
    let mut avoid = Avoid::default();
    if let (Origin::Retried, Some(headers)) = (origin, message.headers()) {
        properties.user_id = headers.inner().get(USER).and_then(string);
    }
    if let (Origin::Run, Some(headers)) = (origin, message.headers()) {
        let headers = headers.inner();
        let number = |name: &str| headers.get(name).and_then(number);
        properties.sent_unix_ms = number(SENT).or(properties.sent_unix_ms);
        properties.user_id = headers.get(USER).and_then(string);
        properties.redelivered |= matches!(headers.get(REDELIVERED), Some(AMQPValue::Boolean(true)));
        avoid.until_unix_ms = number(AVOID_UNTIL).unwrap_or(0);
        if let Some(AMQPValue::FieldArray(workers)) = headers.get(AVOID) {
            avoid.workers = workers.as_slice().iter().filter_map(string).collect();
        }
    }
    (properties, avoid)
}

/// The trace that the message belongs to. Its headers are the producer's and stay wherever the message goes.
fn trace(message: &BasicProperties) -> Option<TraceContext> {
    let headers = message.headers().as_ref()?.inner();
    let text = |name: &str| headers.get(name).and_then(string).filter(|text| text.len() <= TRACE_MAX_BYTES);
    Some(TraceContext { traceparent: text(TRACEPARENT)?, tracestate: text(TRACESTATE) })
}

/// A trace context as headers.
pub fn traced(trace: &TraceContext) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert(TRACEPARENT.into(), long(&trace.traceparent));
    if let Some(state) = &trace.tracestate {
        headers.insert(TRACESTATE.into(), long(state));
    }
    headers
}

/// What goes beside a message that is published again, to a run queue. `user_id` cannot stay: the broker lets nobody
/// publish in another user's name. Nor can `expiration`: deadlines are the ledger's.
pub fn parked(
    message: &BasicProperties,
    properties: &Properties,
    id: &str,
    avoid: &Avoid,
) -> BasicProperties {
    let mut headers = kept(message);
    let sent = properties.sent_unix_ms.unwrap_or_else(unix_ms);
    headers.insert(SENT.into(), AMQPValue::LongLongInt(i64::try_from(sent).unwrap_or(i64::MAX)));
    if let Some(user) = &properties.user_id {
        headers.insert(USER.into(), long(user));
    }
    if properties.redelivered {
        headers.insert(REDELIVERED.into(), AMQPValue::Boolean(true));
    }
    if !avoid.workers.is_empty() {
        let workers: Vec<_> = avoid.workers.iter().map(|worker| long(worker)).collect();
        headers.insert(AVOID.into(), AMQPValue::FieldArray(FieldArray::from(workers)));
        let until = i64::try_from(avoid.until_unix_ms).unwrap_or(i64::MAX);
        headers.insert(AVOID_UNTIL.into(), AMQPValue::LongLongInt(until));
    }
    copied(message).with_message_id(short(id)).with_headers(headers)
}

/// What goes beside a message that people shall look at: all that it had, whose it is, and why it is there.
pub fn dead(message: &BasicProperties, origin: Origin, reason: &str, attempts: u32) -> BasicProperties {
    let mut headers = kept(message);
    headers.insert("hearth-reason".into(), long(reason));
    headers.insert("hearth-attempts".into(), AMQPValue::LongUInt(attempts));
    if let Some(user) = read(message, false, origin).0.user_id {
        headers.insert(USER.into(), long(&user));
    }
    let properties = copied(message).with_headers(headers);
    match message.message_id() {
        Some(id) => properties.with_message_id(id.clone()),
        None => properties,
    }
}

/// What goes beside a dead message that an operator sends again, under a new id: whose it is stays with it.
pub fn retried(message: &BasicProperties, new_id: &str) -> BasicProperties {
    let mut headers = kept(message);
    if let Some(user) = read(message, false, Origin::Retried).0.user_id {
        headers.insert(USER.into(), long(&user));
    }
    // Its deadline counts anew.
    let anew =
        BasicProperties::default().with_delivery_mode(2).with_message_id(short(new_id)).with_headers(headers);
    let anew = match message.reply_to() {
        Some(queue) => anew.with_reply_to(queue.clone()),
        None => anew,
    };
    match message.correlation_id() {
        Some(id) => anew.with_correlation_id(id.clone()),
        None => anew,
    }
}

/// Why the broker has given a message up, in its words: `delivery_limit`, `expired`, `rejected`, `maxlen`.
pub fn fall_reason(message: &BasicProperties) -> Option<String> {
    message.headers().as_ref()?.inner().get("x-first-death-reason").and_then(string)
}

/// Headers of the producer.
fn kept(message: &BasicProperties) -> FieldTable {
    let mut kept = FieldTable::default();
    for (name, value) in message.headers().iter().flat_map(|headers| headers.inner()) {
        if !name.as_str().starts_with(OURS) && !BROKERS.contains(&name.as_str()) {
            kept.insert(name.clone(), value.clone());
        }
    }
    kept
}

fn copied(message: &BasicProperties) -> BasicProperties {
    let mut copy = BasicProperties::default();
    if let Some(value) = message.content_type() {
        copy = copy.with_content_type(value.clone());
    }
    if let Some(value) = message.correlation_id() {
        copy = copy.with_correlation_id(value.clone());
    }
    if let Some(value) = message.reply_to() {
        copy = copy.with_reply_to(value.clone());
    }
    if let Some(value) = message.timestamp() {
        copy = copy.with_timestamp(*value);
    }
    if let Some(value) = message.app_id() {
        copy = copy.with_app_id(value.clone());
    }
    copy
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

fn string(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        _ => None,
    }
}

fn number(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongUInt(number) => Some(u64::from(*number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deaths(of: &[(&str, &str)]) -> BasicProperties {
        let death = |(queue, exchange): &(&str, &str)| {
            let mut death = FieldTable::default();
            death.insert("queue".into(), long(queue));
            death.insert("exchange".into(), long(exchange));
            AMQPValue::FieldTable(death)
        };
        let mut headers = FieldTable::default();
        let deaths: Vec<_> = of.iter().map(death).collect();
        headers.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::from(deaths)));
        BasicProperties::default().with_headers(headers)
    }

    #[test]
    fn what_fell_is_believed_by_where_it_was_last() {
        let names = Names::default();
        let run = names.run("python", hearth_schemas::job::Lane::Batch, 3);
        let of = |deaths_of: &[(&str, &str)]| Origin::of_fallen(&deaths(deaths_of), &names);
        assert_eq!(of(&[(&run, "")]), Origin::Run);
        assert_eq!(of(&[("hearth.intake", "hearth.retried")]), Origin::Retried);
        // A producer may have written the rest.
        assert_eq!(of(&[("hearth.intake", "hearth.jobs"), (&run, "")]), Origin::Intake);
        assert_eq!(of(&[]), Origin::Intake);
        assert_eq!(Origin::of_fallen(&BasicProperties::default(), &names), Origin::Intake);
    }

    #[test]
    fn whose_a_message_is_stays_with_it_to_the_dead_and_back() {
        let user = |properties: &BasicProperties, origin| read(properties, false, origin).0.user_id;
        let dead = dead(&message(), Origin::Intake, "why", 1);
        let again = retried(&dead, "m-2");
        assert_eq!(user(&again, Origin::Retried).as_deref(), Some("alice"));
        assert_eq!(user(&again, Origin::Intake), None, "by the producers' exchange nobody is believed");
        assert_eq!((again.user_id(), again.timestamp()), (&None, &None));
        let forged = retried(&super::dead(&again, Origin::Intake, "why", 1), "m-3");
        assert_eq!(user(&forged, Origin::Retried), None);
    }

    fn message() -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), long("00-1-2-01"));
        headers.insert(USER.into(), long("root"));
        headers.insert(SENT.into(), AMQPValue::LongLongInt(1));
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
        BasicProperties::default()
            .with_message_id("m-1".into())
            .with_user_id("alice".into())
            .with_reply_to("r".into())
            .with_expiration("5".into())
            .with_timestamp(1_700_000_000)
            .with_headers(headers)
    }

    #[test]
    fn a_producer_cannot_write_what_workers_write() {
        let (properties, avoid) = read(&message(), false, Origin::Intake);
        assert_eq!(properties.user_id.as_deref(), Some("alice"));
        assert_eq!(properties.sent_unix_ms, Some(1_700_000_000_999));
        assert_eq!(avoid, Avoid::default());
    }

    #[test]
    fn what_is_parked_reads_as_it_was() {
        let (properties, _) = read(&message(), true, Origin::Intake);
        let avoid = Avoid { workers: vec!["w1".into()], until_unix_ms: u64::MAX / 4 };
        let parked = parked(&message(), &properties, "m-1", &avoid);
        assert_eq!((parked.user_id(), parked.expiration()), (&None, &None));
        assert_eq!(parked.headers().as_ref().unwrap().inner().len(), 6, "{:?}", parked.headers());
        let properties = Properties { parked: true, ..properties };
        assert_eq!(read(&parked, false, Origin::Run), (properties, avoid.clone()));
        assert!(avoid.includes("w1") && !avoid.includes("w2"));
        assert!(!Avoid { until_unix_ms: 1, ..avoid }.includes("w1"));
    }
}
