//! Ctrl-C and its like: the work is dropped, what it made is removed, and the exit code says why.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Failure};

/// Listens for the signals that end a command.
#[derive(Debug)]
pub struct Interrupted {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Interrupted {
    /// From now on these signals no longer end the process by themselves.
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::from_error(Exit::Internal, &error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next of them. Cancel safe.
    pub async fn wait(&mut self) -> Failure {
        let exit = tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
            _ = self.hangup.recv() => Exit::Terminated,
        };
        Failure::new(exit, "interrupted")
    }
}
