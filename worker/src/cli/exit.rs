//! How the command ends: a code from sysexits.h where there is one, and one message.

use std::{fmt, process::ExitCode};

/// Every way in which the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; for a job: its verdict is `accepted`.
    Accepted,
    /// The job finished and was not accepted.
    NotAccepted,
    /// The command line is wrong (`EX_USAGE`).
    Usage,
    /// The job, or a name in the command line, is refused (`EX_DATAERR`).
    Data,
    /// The input file is absent or cannot be read (`EX_NOINPUT`).
    NoInput,
    /// No snapshot, or this host cannot do it (`EX_UNAVAILABLE`).
    Unavailable,
    /// A fault of our own (`EX_SOFTWARE`).
    Internal,
    /// Not this time: expired, cancelled, no room (`EX_TEMPFAIL`).
    Temporary,
    /// Standard output could not be written (`EX_IOERR`).
    Output,
    /// A configured file or directory is wrong (`EX_CONFIG`).
    Config,
    /// Ended by Ctrl-C, as shells count it: 128 + SIGINT.
    Interrupted,
    /// Ended by SIGTERM: 128 + SIGTERM.
    Terminated,
}

impl Exit {
    /// The code.
    pub fn code(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::NotAccepted => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::NoInput => 66,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Output => 74,
            Self::Temporary => 75,
            Self::Config => 78,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what it was asked: one message, and what to do where that is known.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What is wrong. Empty when there is nothing to add to what was printed.
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl Failure {
    /// A failure with its message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), remedy: None }
    }

    /// An error with all its sources as the message.
    pub fn from_error(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self::new(exit, chain(error))
    }

    /// With what to do.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  {remedy}"),
            None => Ok(()),
        }
    }
}

/// An error and its sources on one line. House rule: no message repeats its source.
pub fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
