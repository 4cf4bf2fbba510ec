//! The limits of one command, and the decision that one was hit. Pure.

use std::time::Duration;

use hearth_schemas::{
    guest::messages::{ExecLimits, LimitHit},
    limits::{OPEN_FILES_DEFAULT, OPEN_FILES_MAX, OPEN_FILES_MIN},
};

use crate::{
    group::{Bounds, Controllers, Counted},
    reaper::Ending,
};

/// What this agent can hold a command to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Abilities {
    /// Controllers of its cgroup.
    pub(crate) controllers: Controllers,
    /// A quota for the job user on the scratch disk.
    pub(crate) disk_quota: bool,
}

/// What one command may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) wall: Option<Duration>,
    pub(crate) cpu_us: Option<u64>,
    pub(crate) bounds: Bounds,
    pub(crate) output_bytes: Option<u64>,
    pub(crate) disk_bytes: Option<u64>,
    pub(crate) files: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) file_size_bytes: Option<u64>,
}

/// A limit that this agent refuses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("limits.{0} is 0; leave it out for no limit")]
    Zero(&'static str),
    #[error("limits.open_files is {0}; allowed are {OPEN_FILES_MIN} to {OPEN_FILES_MAX}")]
    OpenFiles(u64),
    #[error("limits.{limit} needs the cgroup controller {controller:?}, which this guest does not have")]
    Controller { limit: &'static str, controller: &'static str },
    #[error("limits.{0} needs a disk quota, which this guest does not have")]
    Quota(&'static str),
}

impl Limits {
    /// Reads the limits of a request.
    pub(crate) fn new(asked: Option<ExecLimits>, able: Abilities) -> Result<Self, LimitError> {
        let asked = asked.unwrap_or_default();
        let controller = |there: bool, controller| {
            move |limit| {
                if there { Ok(()) } else { Err(LimitError::Controller { limit, controller }) }
            }
        };
        let quota = |limit| if able.disk_quota { Ok(()) } else { Err(LimitError::Quota(limit)) };
        let free = |_| Ok(());
        let wall_ms = limit("wall_ms", asked.wall_ms, free)?;
        let cpu_ms = limit("cpu_ms", asked.cpu_ms, free)?;
        Ok(Self {
            wall: wall_ms.map(Duration::from_millis),
            cpu_us: cpu_ms.map(|ms| ms.saturating_mul(1000)),
            bounds: Bounds {
                memory_bytes: limit(
                    "memory_bytes",
                    asked.memory_bytes,
                    controller(able.controllers.memory, "memory"),
                )?,
                processes: limit("processes", asked.processes, controller(able.controllers.pids, "pids"))?,
            },
            output_bytes: limit("output_bytes", asked.output_bytes, free)?,
            disk_bytes: limit("disk_bytes", asked.disk_bytes, quota)?,
            files: limit("files", asked.files, quota)?,
            open_files: open_files(asked.open_files)?,
            file_size_bytes: limit("file_size_bytes", asked.file_size_bytes, free)?,
        })
    }

    /// Open files of each process: the soft and the hard limit. Without a limit as many as common tools expect, and
    /// more for those who raise that.
    pub(crate) fn open_files(&self) -> (u64, u64) {
        self.open_files.map_or((OPEN_FILES_DEFAULT, OPEN_FILES_MAX), |files| (files, files))
    }

    /// The limit that an ending tells of.
    pub(crate) fn told_by(&self, ending: Ending) -> Option<LimitHit> {
        let too_large = self.file_size_bytes.is_some() && ending.signal() == Some(libc::SIGXFSZ);
        too_large.then_some(LimitHit::FileSize)
    }

    /// The limit that what was written to the two streams is beyond. Output may be seen only when its command has ended.
    pub(crate) fn printed(&self, stdout_bytes: u64, stderr_bytes: u64) -> Option<LimitHit> {
        let beyond = |limit| stdout_bytes > limit || stderr_bytes > limit;
        self.output_bytes.is_some_and(beyond).then_some(LimitHit::Output)
    }

    /// CPU seconds after which the kernel ends a single process of the command by itself.
    pub(crate) fn cpu_backstop_seconds(&self) -> Option<u64> {
        self.cpu_us.map(|us| us.div_ceil(1_000_000).saturating_add(1))
    }

    /// Whether anything has to be looked at while the command runs.
    pub(crate) fn watched(&self) -> bool {
        self.cpu_us.or(self.bounds.processes).or(self.disk_bytes).or(self.files).is_some()
    }

    /// The limit that these counts are beyond. An OOM kill counts without a limit of its own too, since all
    /// commands together have one.
    pub(crate) fn exceeded(&self, counted: &Counted, disk: &DiskUse) -> Option<LimitHit> {
        let beyond = |used: u64, limit: Option<u64>| limit.is_some_and(|limit| used > limit);
        let cpu_us = counted.user_us.saturating_add(counted.system_us);
        [
            (counted.oom_kills > 0, LimitHit::Memory),
            (self.bounds.processes.is_some() && counted.forks_refused > 0, LimitHit::Processes),
            (beyond(cpu_us, self.cpu_us), LimitHit::Cpu),
            (beyond(disk.bytes, self.disk_bytes), LimitHit::Disk),
            (beyond(disk.files, self.files), LimitHit::Files),
        ]
        .into_iter()
        .find_map(|(hit, limit)| hit.then_some(limit))
    }
}

/// What the job user has on the scratch disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskUse {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

fn open_files(asked: Option<u64>) -> Result<Option<u64>, LimitError> {
    match asked {
        Some(files) if !(OPEN_FILES_MIN..=OPEN_FILES_MAX).contains(&files) => {
            Err(LimitError::OpenFiles(files))
        }
        asked => Ok(asked),
    }
}

fn limit(
    name: &'static str,
    asked: Option<u64>,
    able: impl Fn(&'static str) -> Result<(), LimitError>,
) -> Result<Option<u64>, LimitError> {
    match asked {
        Some(0) => Err(LimitError::Zero(name)),
        Some(_) => able(name).map(|()| asked),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Abilities {
        Abilities { controllers: Controllers { cpu: true, memory: true, pids: true }, disk_quota: true }
    }

    #[test]
    fn a_limit_of_zero_or_without_its_means_is_refused_by_name() {
        let zero = ExecLimits { wall_ms: Some(0), ..ExecLimits::default() };
        assert_eq!(Limits::new(Some(zero), able()), Err(LimitError::Zero("wall_ms")));
        let all = ExecLimits {
            wall_ms: Some(1),
            cpu_ms: Some(1500),
            memory_bytes: Some(2),
            processes: Some(3),
            output_bytes: Some(4),
            disk_bytes: Some(5),
            files: Some(6),
            open_files: Some(16),
            file_size_bytes: Some(7),
        };
        let limits = Limits::new(Some(all.clone()), able()).unwrap();
        assert_eq!((limits.cpu_backstop_seconds(), limits.open_files()), (Some(3), (16, 16)));
        let none = Abilities { disk_quota: true, ..Abilities::default() };
        let memory = LimitError::Controller { limit: "memory_bytes", controller: "memory" };
        assert_eq!(Limits::new(Some(all.clone()), none), Err(memory));
        let no_quota = Abilities { disk_quota: false, ..able() };
        assert_eq!(Limits::new(Some(all), no_quota), Err(LimitError::Quota("disk_bytes")));
        assert_eq!(Limits::new(None, none), Ok(Limits::default()));
    }

    #[test]
    fn open_files_have_a_least_a_default_and_a_most() {
        let of = |open_files| Limits::new(Some(ExecLimits { open_files, ..ExecLimits::default() }), able());
        assert_eq!(of(None).unwrap().open_files(), (1024, 16_384));
        assert_eq!(of(Some(100)).unwrap().open_files(), (100, 100));
        assert_eq!(of(Some(15)), Err(LimitError::OpenFiles(15)));
        assert_eq!(of(Some(16_385)), Err(LimitError::OpenFiles(16_385)));
    }

    #[test]
    fn the_signal_of_a_large_file_tells_of_the_limit_where_there_is_one() {
        let limits = Limits { file_size_bytes: Some(1), ..Limits::default() };
        let signalled = Ending::Signal(libc::SIGXFSZ);
        assert_eq!(limits.told_by(signalled), Some(LimitHit::FileSize));
        assert_eq!(limits.told_by(Ending::Signal(libc::SIGKILL)), None);
        assert_eq!(limits.told_by(Ending::Code(libc::SIGXFSZ)), None);
        assert_eq!(Limits::default().told_by(signalled), None);
    }

    #[test]
    fn output_beyond_its_limit_is_told_of_either_stream_whenever_it_is_seen() {
        let limits = Limits { output_bytes: Some(10), ..Limits::default() };
        assert_eq!(limits.printed(10, 10), None);
        assert_eq!(limits.printed(11, 0), Some(LimitHit::Output));
        assert_eq!(limits.printed(0, 11), Some(LimitHit::Output));
        assert_eq!(Limits::default().printed(u64::MAX, u64::MAX), None);
    }

    #[test]
    fn the_limit_itself_is_allowed_and_one_more_is_not() {
        let limits = Limits { cpu_us: Some(10), disk_bytes: Some(5), files: Some(2), ..Limits::default() };
        let counted = Counted { user_us: 6, system_us: 4, ..Counted::default() };
        let disk = DiskUse { bytes: 5, files: 2 };
        assert_eq!(limits.exceeded(&counted, &disk), None);
        assert_eq!(limits.exceeded(&Counted { system_us: 5, ..counted }, &disk), Some(LimitHit::Cpu));
        assert_eq!(limits.exceeded(&counted, &DiskUse { bytes: 6, ..disk }), Some(LimitHit::Disk));
        assert_eq!(limits.exceeded(&counted, &DiskUse { files: 3, ..disk }), Some(LimitHit::Files));
        assert_eq!(limits.exceeded(&Counted { oom_kills: 1, ..counted }, &disk), Some(LimitHit::Memory));
        let refused = Counted { forks_refused: 1, ..counted };
        assert_eq!(limits.exceeded(&refused, &disk), None, "somebody else's limit");
    }
}
