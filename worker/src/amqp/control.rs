//! What workers tell each other, and the command tells them: JSON on the control exchange, to all of them.

use hearth_schemas::job::Lane;
use serde::{Deserialize, Serialize};

/// A message to every worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// End this job.
    Cancel {
        /// Whose.
        tenant: String,
        /// Its id.
        id: String,
    },
    /// Jobs were put into these queues: whoever has a free VM should look.
    Bell(Vec<RunQueue>),
}

/// A run queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunQueue {
    /// Of this runtime.
    pub runtime: String,
    /// And this lane.
    pub lane: Lane,
    /// Which of its shards.
    pub shard: u16,
}

impl Control {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// `None` for what this version does not know.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
