//! What became of a job, and what its code did. Closed sets: a new word is a new version.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It ran; the verdict says how.
    Finished,
    /// It was not taken; the refusal says why.
    Refused,
    /// Somebody cancelled it. What ran until then is reported.
    Cancelled,
    /// Its deadline came first. What ran until then is reported.
    Expired,
    /// We failed, as often as we may try.
    InfraError,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 5] =
        [Status::Finished, Status::Refused, Status::Cancelled, Status::Expired, Status::InfraError];

    /// The word for it in JSON, routing keys and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Finished => "finished",
            Status::Refused => "refused",
            Status::Cancelled => "cancelled",
            Status::Expired => "expired",
            Status::InfraError => "infra_error",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the code of a stage or a case did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Exit code 0, and the expected output where one was given.
    Accepted,
    /// Exit code 0, but not the expected output.
    WrongAnswer,
    /// Another exit code.
    NonzeroExit,
    /// A signal ended it.
    Signalled,
    /// It used up its time.
    TimeLimit,
    /// It used up its memory.
    MemoryLimit,
    /// It wrote more than it may.
    OutputLimit,
    /// It started more processes than it may.
    ProcessLimit,
    /// It used up its disk.
    DiskLimit,
    /// A file was not what it should be: a command that is not there, a directory that does not exist.
    FileError,
    /// It did not run.
    Skipped,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Verdict; 11] = [
        Verdict::Accepted,
        Verdict::WrongAnswer,
        Verdict::NonzeroExit,
        Verdict::Signalled,
        Verdict::TimeLimit,
        Verdict::MemoryLimit,
        Verdict::OutputLimit,
        Verdict::ProcessLimit,
        Verdict::DiskLimit,
        Verdict::FileError,
        Verdict::Skipped,
    ];

    /// The word for it in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Accepted => "accepted",
            Verdict::WrongAnswer => "wrong_answer",
            Verdict::NonzeroExit => "nonzero_exit",
            Verdict::Signalled => "signalled",
            Verdict::TimeLimit => "time_limit",
            Verdict::MemoryLimit => "memory_limit",
            Verdict::OutputLimit => "output_limit",
            Verdict::ProcessLimit => "process_limit",
            Verdict::DiskLimit => "disk_limit",
            Verdict::FileError => "file_error",
            Verdict::Skipped => "skipped",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// More about a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// `time_limit`: user and system time.
    Cpu,
    /// `time_limit`: wall time.
    Wall,
    /// `time_limit`: wall time, nearly all of it spent waiting.
    Idle,
    /// `memory_limit`: the kernel's OOM killer acted.
    Oom,
    /// `process_limit`: a fork was refused.
    Pids,
    /// `disk_limit`: no bytes left.
    Enospc,
    /// `disk_limit`: no files left.
    Files,
    /// `disk_limit`: one file grew larger than it may, and the kernel's SIGXFSZ ended the command.
    FileSize,
    /// `output_limit`: standard output.
    Stdout,
    /// `output_limit`: standard error.
    Stderr,
    /// `file_error`: the command is not there, not executable, or has a bad interpreter.
    Exec,
    /// `file_error`: a path of the job is not what it must be, such as a working directory that does not exist.
    Path,
    /// `wrong_answer`: the output differs from what was expected.
    Mismatch,
    /// `wrong_answer`: the checker did not accept it.
    Checker,
    /// `file_error`: the checker did not do its work. It exited with neither 0 nor 1, or ran into a limit.
    CheckerFailed,
    /// `skipped`: an earlier stage or case was not accepted.
    EarlierFailure,
    /// The job was cancelled: `signalled` for what ran at that moment, `skipped` for what would have come.
    Cancelled,
    /// The job's deadline came: `signalled` for what ran at that moment, `skipped` for what would have come.
    Deadline,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_json() {
        for status in Status::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        for verdict in Verdict::ALL {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.as_str());
        }
    }
}
