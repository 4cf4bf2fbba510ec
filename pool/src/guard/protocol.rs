//! What a worker and its guard say to each other: one JSON object a line, over a socket pair.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Longest line either side takes, in bytes.
pub const LINE_MAX_BYTES: usize = 1024 * 1024;

/// Worker to guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Names the answer.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What a worker asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First of all: where everything is, and for whom.
    Begin {
        /// Directory of VMs and locks.
        run_dir: PathBuf,
        /// The worker's id, for the owner records.
        worker: String,
    },
    /// Takes the CID's lock and makes the directories.
    Open(OpenVm),
    /// Starts a process in the VM's directory.
    Spawn {
        /// The VM.
        vm: String,
        /// Command and arguments.
        argv: Vec<String>,
        /// File in the VM's directory that takes stdout and stderr.
        log: String,
        /// The control group in which it is born, alone in a PID namespace.
        group: Option<PathBuf>,
    },
    /// Kills its processes, removes its directories, releases its lock. An unknown VM has been ended.
    End {
        /// The VM.
        vm: String,
    },
}

/// A VM to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenVm {
    /// What the worker calls it.
    pub vm: String,
    /// Name of its directory: never used before, without a slash.
    pub directory: String,
    /// Its CID.
    pub cid: u32,
    /// Further directories to make for it (absolute), such as one on a file system in memory. Removed in this order; a
    /// control group (version 2) with every process in it.
    pub also: Vec<PathBuf>,
}

/// Guard to worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Answers a call.
    Answer {
        /// The call.
        id: u64,
        /// What became of it.
        outcome: Result<Done, Refusal>,
    },
    /// A process of a VM ended without having been asked to.
    Exited {
        /// The VM.
        vm: String,
        /// How, for people.
        how: String,
    },
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Nothing to tell.
    Ok,
    /// The VM's directory.
    Opened(PathBuf),
    /// The new process.
    Pid(u32),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The CID's lock is held.
    IdentityBusy,
    /// The request makes no sense now.
    Order(String),
    /// The host said no.
    Host(String),
}
