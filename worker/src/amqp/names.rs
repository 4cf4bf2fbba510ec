//! The names of what is Hearth's on a broker.

use hearth_schemas::job::Lane;

pub use crate::ledger::shard;

/// The lanes, the most urgent first.
pub const LANES: [Lane; 3] = [Lane::Interactive, Lane::Normal, Lane::Batch];
/// Run queues of one runtime and lane, unless configured otherwise.
pub const SHARDS: u16 = 16;
/// The prefix of every name, unless configured otherwise.
pub const PREFIX: &str = "hearth";
/// A broker takes names of 255 bytes (AMQP's short string); the longest suffix of ours has 90.
const PREFIX_MAX_BYTES: usize = 100;

/// Makes the names under one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

/// A prefix that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no prefix of names on the broker; allowed are 1 to {PREFIX_MAX_BYTES} of A-Z, a-z, 0-9, `_` and `-`"
)]
pub struct BadPrefix(String);

impl Default for Names {
    fn default() -> Self {
        Self { prefix: PREFIX.to_owned() }
    }
}

impl Names {
    /// Names under this prefix.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters than names have.
    pub fn new(prefix: &str) -> Result<Self, BadPrefix> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if prefix.is_empty() || prefix.len() > PREFIX_MAX_BYTES || !prefix.bytes().all(fits) {
            return Err(BadPrefix(prefix.chars().take(PREFIX_MAX_BYTES).collect()));
        }
        Ok(Self { prefix: prefix.to_owned() })
    }

    /// What every name begins with, before a dot.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn under(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The exchange that producers publish jobs to.
    pub fn jobs(&self) -> String {
        self.under("jobs")
    }

    /// The exchange by which operators send dead messages again; whose they are is believed there.
    pub fn retried(&self) -> String {
        self.under("retried")
    }

    /// The queue that takes every job.
    pub fn intake(&self) -> String {
        self.under("intake")
    }

    /// A queue of jobs that wait for a VM of a runtime.
    pub fn run(&self, runtime: &str, lane: Lane, shard: u16) -> String {
        self.under(&format!("run.{runtime}.{}.{shard}", lane.as_str()))
    }

    /// Whether a queue is one of those where jobs wait for a VM.
    pub fn is_run(&self, queue: &str) -> bool {
        queue.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with(".run."))
    }

    /// The queue of what the broker has given up on.
    pub fn fallen(&self) -> String {
        self.under("fallen")
    }

    /// The queue of what people should look at.
    pub fn dead(&self) -> String {
        self.under("dead")
    }

    /// The exchange of results without a `reply_to`; its topics are `<tenant>.<runtime>.<status>`.
    pub fn results(&self) -> String {
        self.under("results")
    }

    /// The exchange and the queue of results that nobody has bound.
    pub fn unclaimed(&self) -> String {
        self.under("results.unclaimed")
    }

    /// The exchange of live events; its topics are `<job id>.<kind>`.
    pub fn events(&self) -> String {
        self.under("events")
    }

    /// The exchange that every worker listens to.
    pub fn control(&self) -> String {
        self.under("control")
    }

    /// Whether a name is one of ours, and so no place for somebody's results.
    pub fn owns(&self, name: &str) -> bool {
        name.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_are_told_from_others() {
        let names = Names::new("hearth").unwrap();
        for ours in ["hearth", "hearth.dead", "hearth.run.python.batch.3"] {
            assert!(names.owns(ours), "{ours}");
        }
        for other in ["", "hearthstone", "amq.gen-x", "replies", "my.hearth.results"] {
            assert!(!names.owns(other), "{other}");
        }
        assert_eq!(names.run("python", Lane::Batch, 3), "hearth.run.python.batch.3");
        for bad in ["", "a.b", "ä", "a b", &"x".repeat(101)] {
            assert!(Names::new(bad).is_err(), "{bad}");
        }
    }
}
