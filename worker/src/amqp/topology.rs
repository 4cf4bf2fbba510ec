//! What Hearth needs on a broker, as data. RabbitMQ 3.10 and later take all of it.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::names::{LANES, Names};

/// Deliveries of one message before the broker gives up on it. Only a backstop: it also counts deliveries that were
/// merely prefetched by a worker that was killed.
const DELIVERIES_MAX: i64 = 50;
/// For queues that must never drop anything: RabbitMQ 4 drops after 20 deliveries unless told otherwise, and -1 for
/// "never" is refused by 3.10, while a queue's arguments must not differ between the two.
const DELIVERIES_UNLIMITED: i64 = i32::MAX as i64;
/// How long results that nobody has bound are kept.
const UNCLAIMED_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How many of them are kept, in bytes of all together; the oldest go first.
const UNCLAIMED_MAX_BYTES: i64 = 1024 * 1024 * 1024;

/// Everything that is declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// In an order in which each can be declared.
    pub exchanges: Vec<Exchange>,
    /// All of them durable quorum queues.
    pub queues: Vec<Queue>,
    /// Which queue gets what.
    pub bindings: Vec<Binding>,
}

/// A durable exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: Kind,
    /// Who gets what it cannot route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternate: Option<String>,
}

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// To everybody.
    Fanout,
    /// By patterns of words.
    Topic,
}

/// A durable quorum queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub arguments: BTreeMap<&'static str, Argument>,
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    /// A word.
    Text(String),
    /// A number.
    Number(i64),
}

/// What a queue gets from an exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Binding {
    /// From where.
    pub exchange: String,
    /// To where.
    pub queue: String,
    /// Which routing keys.
    pub key: String,
}

impl Topology {
    /// What workers of these runtimes and number of shards need.
    pub fn new<'a>(names: &Names, runtimes: impl IntoIterator<Item = &'a str>, shards: u16) -> Self {
        let exchange = |name, kind, alternate| Exchange { name, kind, alternate };
        let exchanges = vec![
            exchange(names.jobs(), Kind::Fanout, None),
            exchange(names.retried(), Kind::Fanout, None),
            exchange(names.unclaimed(), Kind::Fanout, None),
            exchange(names.results(), Kind::Topic, Some(names.unclaimed())),
            exchange(names.events(), Kind::Topic, None),
            exchange(names.control(), Kind::Fanout, None),
        ];
        let mut queues = vec![
            queue(names.dead(), [("x-delivery-limit", Argument::Number(DELIVERIES_UNLIMITED))]),
            queue(names.fallen(), [("x-delivery-limit", Argument::Number(DELIVERIES_UNLIMITED))]),
            queue(names.unclaimed(), unclaimed()),
            queue(names.intake(), falls_to(names.fallen())),
        ];
        for runtime in runtimes {
            for lane in LANES {
                let run = |shard| queue(names.run(runtime, lane, shard), falls_to(names.fallen()));
                queues.extend((0..shards).map(run));
            }
        }
        let bindings = vec![
            Binding { exchange: names.jobs(), queue: names.intake(), key: String::new() },
            Binding { exchange: names.retried(), queue: names.intake(), key: String::new() },
            Binding { exchange: names.unclaimed(), queue: names.unclaimed(), key: String::new() },
        ];
        Self { exchanges, queues, bindings }
    }
}

fn queue(name: String, arguments: impl IntoIterator<Item = (&'static str, Argument)>) -> Queue {
    let mut arguments: BTreeMap<_, _> = arguments.into_iter().collect();
    arguments.insert("x-queue-type", text("quorum"));
    Queue { name, arguments }
}

fn text(word: &str) -> Argument {
    Argument::Text(word.to_owned())
}

/// What the broker gives up on reaches another queue at least once, which needs `reject-publish`.
fn falls_to(fallen: String) -> [(&'static str, Argument); 5] {
    [
        ("x-delivery-limit", Argument::Number(DELIVERIES_MAX)),
        // The default exchange: its routing keys are the names of queues.
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", Argument::Text(fallen)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
}

fn unclaimed() -> [(&'static str, Argument); 3] {
    let kept_ms = i64::try_from(UNCLAIMED_KEPT.as_millis()).unwrap_or(i64::MAX);
    [
        ("x-message-ttl", Argument::Number(kept_ms)),
        ("x-max-length-bytes", Argument::Number(UNCLAIMED_MAX_BYTES)),
        ("x-delivery-limit", Argument::Number(DELIVERIES_UNLIMITED)),
    ]
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fanout => "fanout",
            Self::Topic => "topic",
        })
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// One line for each thing, for operators.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for exchange in &self.exchanges {
            write!(f, "exchange {} {} durable", exchange.name, exchange.kind)?;
            if let Some(alternate) = &exchange.alternate {
                write!(f, " alternate-exchange={alternate:?}")?;
            }
            writeln!(f)?;
        }
        for queue in &self.queues {
            write!(f, "queue {} durable", queue.name)?;
            for (name, value) in &queue.arguments {
                write!(f, " {name}={value}")?;
            }
            writeln!(f)?;
        }
        for Binding { exchange, queue, key } in &self.bindings {
            writeln!(f, "binding {exchange} -> {queue} key={key:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_queue_for_each_runtime_lane_and_shard_and_nothing_is_lost_on_the_way_out() {
        let topology = Topology::new(&Names::default(), ["python", "gcc"], 2);
        let run: Vec<_> = topology.queues.iter().filter(|queue| queue.name.contains(".run.")).collect();
        assert_eq!(run.len(), 2 * 3 * 2);
        assert!(run.iter().any(|queue| queue.name == "hearth.run.gcc.batch.1"));
        for queue in &topology.queues {
            assert_eq!(queue.arguments["x-queue-type"], text("quorum"), "{}", queue.name);
            assert!(
                queue.arguments.contains_key("x-delivery-limit"),
                "{}: RabbitMQ 4 would drop",
                queue.name
            );
            if queue.arguments.contains_key("x-dead-letter-routing-key") {
                assert_eq!(queue.arguments["x-overflow"], text("reject-publish"), "{}", queue.name);
            }
        }
        let printed = topology.to_string();
        assert!(printed.contains(
            "exchange hearth.results topic durable alternate-exchange=\"hearth.results.unclaimed\""
        ));
        assert_eq!(printed.lines().count(), 6 + 4 + 12 + 3);
    }
}
