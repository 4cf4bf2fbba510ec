//! The one place that waits for children: ours, and every orphan of the machine.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::{Pid, WaitOptions, wait};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Hands the end of a child to whoever spawned it.
///
/// A child is registered on the thread that reaps, with no await between spawn and registration; so its end
/// cannot be seen before somebody waits for it. Nothing else in the agent may wait for children.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reaper {
    waiting: Arc<Mutex<HashMap<i32, oneshot::Sender<Ending>>>>,
}

impl Reaper {
    /// Starts to reap. Needs a runtime.
    pub(crate) fn start() -> io::Result<Self> {
        let reaper = Self::default();
        let mut child = signal(SignalKind::child())?;
        let reaping = reaper.clone();
        tokio::spawn(async move {
            // One signal may stand for many children.
            reaping.reap();
            while child.recv().await.is_some() {
                reaping.reap();
            }
        });
        Ok(reaper)
    }

    /// Resolves when `pid`, a child that was spawned just now, has ended.
    pub(crate) fn register(&self, pid: Pid) -> oneshot::Receiver<Ending> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(pid.as_raw_nonzero().get(), sender);
        receiver
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let ending = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ending::Code(code),
                (None, Some(signal)) => Ending::Signal(signal),
                (None, None) => continue,
            };
            if let Some(sender) = self.lock().remove(&pid.as_raw_nonzero().get()) {
                let _ = sender.send(ending);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, oneshot::Sender<Ending>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ending {
    /// The exit code, when there is one.
    pub(crate) fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(_) => None,
        }
    }

    /// The signal, when it was one.
    pub(crate) fn signal(self) -> Option<i32> {
        match self {
            Self::Signal(signal) => Some(signal),
            Self::Code(_) => None,
        }
    }
}
