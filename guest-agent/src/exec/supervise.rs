//! Watches one command until it has ended: its exec, its limits, its host.

use std::{os::fd::OwnedFd, time::Duration};

use hearth_schemas::guest::messages::{LimitHit, Reply, Started, reply};
use hearth_wire::{Sender, StreamReceiver};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{limits::Limits, spawn::Refused};
use crate::{group::Group, quota::Quota, reaper::Ending};

/// How often counters are compared with limits.
pub(super) const TICK: Duration = Duration::from_millis(15);

/// What to watch.
pub(super) struct Supervisor<'a> {
    pub(super) limits: &'a Limits,
    pub(super) group: &'a Group,
    pub(super) quota: &'a Quota,
    pub(super) pid: Pid,
}

/// How a command ended.
pub(super) struct Outcome {
    pub(super) ending: Ending,
    pub(super) refused: Option<Refused>,
    pub(super) limit: Option<LimitHit>,
    /// The host asked for the end.
    pub(super) killed: bool,
    /// The host is not there to hear of it.
    pub(super) host_gone: bool,
    pub(super) wall: Duration,
    /// As [`Ended::alone`].
    pub(super) alone: bool,
}

/// That a command is gone, as whoever started it knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) ending: Ending,
    /// From its start to its end, where it was measured there.
    pub(super) wall: Option<Duration>,
    /// Where no report says so.
    pub(super) refused: Option<Refused>,
    /// Whether all that it started is known to be gone, too.
    pub(super) alone: bool,
}

/// What the host says on the stream of an exec.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    Kill,
    Gone,
}

impl Supervisor<'_> {
    /// Returns when the command itself has ended; what it left behind may still live.
    pub(super) async fn watch(
        &self,
        control: (&Sender, &mut StreamReceiver),
        report: Option<OwnedFd>,
        ended: impl Future<Output = Ended>,
        output_over: &mut mpsc::Receiver<()>,
    ) -> Outcome {
        let (sender, receiver) = control;
        let started = Instant::now();
        let (mut limit, mut host, mut refused, mut reported) = (None, None, None, report.is_none());
        let report = read_report(report);
        tokio::pin!(report);
        tokio::pin!(ended);
        let wall = tokio::time::sleep(self.limits.wall.unwrap_or(Duration::MAX));
        tokio::pin!(wall);
        let mut tick = interval_at(started + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            let dying = limit.is_some() || host.is_some();
            tokio::select! {
                biased;
                outcome = &mut report, if !reported => {
                    reported = true;
                    refused = outcome;
                    if refused.is_none() {
                        self.tell_started(sender).await;
                    }
                }
                ended = &mut ended => break ended,
                said = listen(receiver), if !dying => host = Some(said),
                Some(()) = output_over.recv(), if !dying => limit = Some(LimitHit::Output),
                () = &mut wall, if !dying && self.limits.wall.is_some() => limit = Some(LimitHit::Wall),
                _ = tick.tick(), if dying || self.limits.watched() => match dying {
                    // To be killed once more: it may have joined its cgroup only now.
                    true => {}
                    false => limit = self.exceeded(),
                },
            }
            if limit.is_some() || host.is_some() {
                self.kill(reported);
            }
        };
        let Ended { ending, wall, refused: unable, alone } = ended;
        let wall = wall.unwrap_or_else(|| started.elapsed());
        if !reported {
            refused = report.await;
        }
        let refused = refused.or(unable);
        let (killed, host_gone) = (host.is_some(), host == Some(Host::Gone));
        Outcome { ending, refused, limit, killed, host_gone, wall, alone }
    }

    fn exceeded(&self) -> Option<LimitHit> {
        let disk = self.limits.disk_bytes.or(self.limits.files).and_then(|_| self.quota.used());
        self.limits.exceeded(&self.group.counted(), &disk.unwrap_or_default())
    }

    fn kill(&self, executed: bool) {
        self.group.kill();
        if !executed {
            // Before it has joined its cgroup, where it has to do that itself. Not reaped yet, so the id is its own.
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }

    async fn tell_started(&self, control: &Sender) {
        let started = Started { pid: self.pid.as_raw_nonzero().get().unsigned_abs() };
        // A host that is gone is noticed by listening.
        let _ = control.message(&Reply { body: Some(reply::Body::Started(started)) }).await;
    }
}

/// What the child says about its exec. It closes the pipe without a word when that succeeds.
async fn read_report(report: Option<OwnedFd>) -> Option<Refused> {
    let mut bytes = Vec::new();
    pipe::Receiver::from_owned_fd(report?).ok()?.read_to_end(&mut bytes).await.ok()?;
    Refused::decode(&bytes)
}

/// Resolves when the host wants the command dead. Cancel safe.
pub(super) async fn listen(receiver: &mut StreamReceiver) -> Host {
    loop {
        match receiver.next().await {
            Ok(Some(_)) => return Host::Kill,
            // It has no more to say, and still listens.
            Ok(None) => {}
            Err(_) => return Host::Gone,
        }
    }
}
