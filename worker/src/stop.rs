//! How a running job is told to end early.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hearth_schemas::result::{Cause, Status};
use tokio::sync::watch;

use crate::ledger::JobKey;

/// Why a job ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody cancelled it.
    Cancelled,
    /// Its deadline came.
    Deadline,
}

impl StopReason {
    /// As a report says it.
    pub fn cause(self) -> Cause {
        match self {
            Self::Cancelled => Cause::Cancelled,
            Self::Deadline => Cause::Deadline,
        }
    }

    /// What the job becomes.
    pub fn status(self) -> Status {
        match self {
            Self::Cancelled => Status::Cancelled,
            Self::Deadline => Status::Expired,
        }
    }
}

/// The side that may stop a job.
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<Option<StopReason>>);

/// The side that is stopped.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Option<StopReason>>);

/// Makes both sides.
pub fn channel() -> (Stopper, Stop) {
    let (stopper, stop) = watch::channel(None);
    (Stopper(stopper), Stop(stop))
}

impl Stopper {
    /// Stops the job; the first reason stays.
    pub fn stop(&self, reason: StopReason) {
        self.0.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(reason);
            first
        });
    }
}

impl Stop {
    /// The reason, if there is one already.
    pub fn reason(&self) -> Option<StopReason> {
        *self.0.borrow()
    }

    /// Resolves when the job is stopped; never if it is not. Cancel safe.
    pub async fn stopped(&self) -> StopReason {
        let mut stop = self.0.clone();
        let reason = stop.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}

/// The jobs that run here, so that a cancel reaches them at once and not with the next heartbeat.
#[derive(Clone, Debug, Default)]
pub struct Running(Arc<Mutex<HashMap<JobKey, Stopper>>>);

impl Running {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobKey, Stopper>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a job until the guard is dropped.
    pub(crate) fn enter(&self, key: &JobKey, stopper: &Stopper) -> Entered {
        self.jobs().insert(key.clone(), stopper.clone());
        Entered { running: self.clone(), key: key.clone() }
    }

    /// Stops a job, if it runs here.
    pub(crate) fn stop(&self, key: &JobKey, reason: StopReason) -> bool {
        let jobs = self.jobs();
        jobs.get(key).inspect(|stopper| stopper.stop(reason)).is_some()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.jobs().len()
    }
}

/// A job that runs here.
#[derive(Debug)]
pub(crate) struct Entered {
    running: Running,
    key: JobKey,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.running.jobs().remove(&self.key);
    }
}
