//! A live event, version 1: what happens to a job while it happens. Only jobs with `stream` have them.
//!
//! Events are a courtesy: the result says all that counts, whether or not anybody saw an event.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::result::{Cause, Payload, Status, Verdict};

/// The only version of live events that exists.
pub const EVENT_VERSION: u32 = 1;

/// A live event of a Hearth job, version 1. Readers should pass over kinds, states and fields that they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Hearth live event, version 1", extend("$id" = "urn:hearth:schema:event:1"))]
pub struct Event {
    /// Version of this contract.
    #[schemars(extend("const" = 1))]
    pub version: u32,
    /// The job.
    pub id: String,
    /// On whose behalf it runs.
    pub tenant: String,
    /// Which attempt at the job, from 1, those that never reached a VM included; 0 while the job waits for its first. A
    /// higher one than before is a retry: what came of the earlier attempts is void.
    pub attempt: u32,
    /// The event's place in its attempt, from 1 and without a gap. The same number again is a repeat.
    pub seq: u64,
    /// When the worker noted it, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// The job has come to another state.
    State(State),
    /// A piece of standard output.
    Stdout(Chunk),
    /// A piece of standard error.
    Stderr(Chunk),
    /// Output is missing here. The job's result is not concerned.
    Dropped(Dropped),
}

impl What {
    /// The word for this kind in JSON and routing keys.
    pub fn kind(&self) -> &'static str {
        match self {
            What::State(_) => "state",
            What::Stdout(_) => "stdout",
            What::Stderr(_) => "stderr",
            What::Dropped(_) => "dropped",
        }
    }
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Chunk {
    /// The stage that printed it.
    pub stage: String,
    /// The case of that stage that printed it. Absent where the stage has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
    /// At most 32 KiB, cut anywhere.
    #[serde(flatten)]
    pub content: Payload,
}

/// How much output is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Dropped {
    /// The stage that printed it.
    pub stage: String,
    /// The case of that stage that printed it. Absent where the stage has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
    /// Where.
    pub stream: OutputStream,
    /// Bytes that are missing. Chunks and these together are what the stage, or its case, printed.
    pub bytes: u64,
    /// Pieces in which they came; 0 where that is not known.
    pub chunks: u64,
}

/// A stream of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// Where a job has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// No VM is free: the job waits in its queue. Has the attempt 0.
    Queued,
    /// An attempt begins. The first event of each attempt that is made.
    Started {
        /// The worker that makes it.
        worker: String,
    },
    /// It has a VM.
    Claimed {
        /// How output comes to be live.
        live: LiveBy,
    },
    /// Files go into the VM.
    Uploading,
    /// A command begins, or the first of its cases.
    StageStarted {
        /// The stage.
        stage: String,
    },
    /// A command has ended; all of its output, or a mark for it, came before.
    StageEnded {
        /// The stage.
        stage: String,
        /// What it did.
        verdict: Verdict,
        /// More about the verdict, where there is more to say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    /// One of a stage's cases begins. One that is skipped has no events.
    CaseStarted {
        /// The stage.
        stage: String,
        /// The case.
        case: String,
    },
    /// A case has ended, and its checker with it; all of its output that is live came before.
    CaseEnded {
        /// The stage.
        stage: String,
        /// The case.
        case: String,
        /// What it did.
        verdict: Verdict,
        /// More about the verdict, where there is more to say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    /// Outputs are fetched from the VM.
    Downloading,
    /// The attempt failed for reasons of our own. Another one follows, unless it was the last.
    AttemptFailed {
        /// What failed, for people.
        message: String,
    },
    /// The job has its result. The last event. Alone in its attempt where the job was ended without one: cancelled or
    /// overdue while it waited, or after its worker had fallen silent.
    Finished {
        /// What became of it.
        status: Status,
        /// What its code did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verdict: Option<Verdict>,
    },
}

/// How output comes to be live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LiveBy {
    /// Over a connection of its own from the VM.
    Connection,
    /// From the copy that the result is made of: the VM could not make a connection.
    Result,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(what: What) -> Event {
        let (id, tenant) = ("j".to_owned(), "t".to_owned());
        Event { version: EVENT_VERSION, id, tenant, attempt: 1, seq: 7, unix_ms: 5, what }
    }

    #[test]
    fn events_are_flat_objects_whose_kind_says_what_else_is_there() {
        let chunk =
            |bytes: &[u8]| Chunk { stage: "run".into(), case: None, content: Payload::from(bytes.to_vec()) };
        let of_case = Chunk { case: Some("2".into()), ..chunk(b"b") };
        let case_ended = State::CaseEnded {
            stage: "run".into(),
            case: "2".into(),
            verdict: Verdict::WrongAnswer,
            cause: Some(Cause::Mismatch),
        };
        let ended =
            State::StageEnded { stage: "run".into(), verdict: Verdict::TimeLimit, cause: Some(Cause::Idle) };
        let dropped = Dropped {
            stage: "run".into(),
            case: None,
            stream: OutputStream::Stderr,
            bytes: 1 << 40,
            chunks: 3,
        };
        for (what, fields) in [
            (What::Stdout(chunk(b"a\n")), json!({"kind": "stdout", "stage": "run", "text": "a\n"})),
            (What::Stderr(chunk(b"\xff")), json!({"kind": "stderr", "stage": "run", "base64": "/w=="})),
            (
                What::Dropped(dropped),
                json!({"kind": "dropped", "stage": "run", "stream": "stderr", "bytes": 1_u64 << 40, "chunks": 3}),
            ),
            (What::Stdout(of_case), json!({"kind": "stdout", "stage": "run", "case": "2", "text": "b"})),
            (
                What::State(case_ended),
                json!({"kind": "state", "state": "case_ended", "stage": "run", "case": "2", "verdict": "wrong_answer", "cause": "mismatch"}),
            ),
            (What::State(State::Queued), json!({"kind": "state", "state": "queued"})),
            (
                What::State(ended),
                json!({"kind": "state", "state": "stage_ended", "stage": "run", "verdict": "time_limit", "cause": "idle"}),
            ),
        ] {
            let mut expected =
                json!({"version": 1, "id": "j", "tenant": "t", "attempt": 1, "seq": 7, "unix_ms": 5});
            expected.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            assert_eq!(what.kind(), expected["kind"]);
            let event = event(what);
            assert_eq!(serde_json::to_value(&event).unwrap(), expected);
            assert_eq!(serde_json::from_value::<Event>(expected).unwrap(), event);
        }
    }
}
