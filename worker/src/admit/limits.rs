//! What a stage may use: its own limit, else the job's, else the operator's default, within what the runtime offers.

use hearth_schemas::{
    guest::messages::ExecLimits,
    job::LimitsRequest,
    limits::{AGENT_RESERVE_MIB, OPEN_FILES_MAX, OPEN_FILES_MIN},
    result::Refusal,
};

use super::{
    invalid,
    terms::{Bound, LimitTerms, Offer},
};

/// Less memory than this does not hold a process and its pages of the C library.
const MEMORY_MIN_MIB: u64 = 4;

/// The limits of one stage, nothing left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall time in milliseconds.
    pub wall_ms: u64,
    /// User and system time of all processes together, in milliseconds.
    pub cpu_ms: u64,
    /// Memory of all processes together, in bytes.
    pub memory_bytes: u64,
    /// Bytes of stdout, and of stderr, each.
    pub output_bytes: u64,
    /// Processes and threads alive at once.
    pub processes: u64,
    /// Bytes on the scratch disk, uploads included.
    pub disk_bytes: u64,
    /// Files and directories on the scratch disk, uploads included.
    pub files: u64,
    /// Open files of each process, where the job limits them.
    pub open_files: Option<u64>,
    /// Bytes of each file that is written, where the job limits them.
    pub file_size_bytes: Option<u64>,
}

impl Limits {
    /// As the agent takes them.
    pub fn exec_limits(&self) -> ExecLimits {
        ExecLimits {
            wall_ms: Some(self.wall_ms),
            cpu_ms: Some(self.cpu_ms),
            memory_bytes: Some(self.memory_bytes),
            processes: Some(self.processes),
            output_bytes: Some(self.output_bytes),
            disk_bytes: Some(self.disk_bytes),
            files: Some(self.files),
            open_files: self.open_files,
            file_size_bytes: self.file_size_bytes,
        }
    }
}

/// Resolves the limits of a stage. The job's are checked even where the stage gives its own.
pub(super) fn resolve(
    job: &LimitsRequest,
    index: usize,
    stage: &LimitsRequest,
    offer: &Offer,
    runtime: &str,
    terms: &LimitTerms,
) -> Result<Limits, Refusal> {
    // What nobody asks for stays open: the kernel's own bounds hold.
    let asked = |field: &str, of: fn(&LimitsRequest) -> Option<u64>, min: u64, max: u64, why: &str| {
        let mut value = None;
        if let Some(asked) = of(job) {
            value = Some(within(format!("limits.{field}"), asked, min, max, why)?);
        }
        if let Some(asked) = of(stage) {
            value = Some(within(format!("stages[{index}].limits.{field}"), asked, min, max, why)?);
        }
        Ok::<Option<u64>, Refusal>(value)
    };
    let pick = |field: &str, of: fn(&LimitsRequest) -> Option<u64>, min: u64, bound: Bound, why: &str| {
        let value = asked(field, of, min, bound.max, why)?;
        Ok::<u64, Refusal>(value.unwrap_or(bound.default.min(bound.max)))
    };
    let (memory, disk) = (offer.vm_memory_mib, offer.scratch_mib);
    let memory_max = memory.saturating_sub(AGENT_RESERVE_MIB);
    let memory_why =
        format!("as the VM of `{runtime}` has {memory} MiB, {AGENT_RESERVE_MIB} of them the agent's");
    let disk_why = format!("as the scratch disk of `{runtime}` has {disk} MiB");

    let wall_ms = pick("wall_ms", |limits| limits.wall_ms, 1, terms.wall_ms, "")?;
    let cpu = Bound { default: wall_ms, max: terms.cpu_max_ms };
    let cpu_ms = pick("cpu_ms", |limits| limits.cpu_ms, 1, cpu, "")?;
    let memory = Bound { default: memory_max, max: memory_max };
    let memory_mib = pick("memory_mib", |limits| limits.memory_mib, MEMORY_MIN_MIB, memory, &memory_why)?;
    let output_kib = pick("output_kib", |limits| limits.output_kib, 1, terms.output_kib, "")?;
    let processes = pick("processes", |limits| limits.processes, 1, terms.processes, "")?;
    let disk = Bound { default: terms.disk_default_mib, max: disk };
    let disk_mib = pick("disk_mib", |limits| limits.disk_mib, 1, disk, &disk_why)?;
    let files = pick("files", |limits| limits.files, 1, terms.files, "")?;
    let open_files = asked("open_files", |limits| limits.open_files, OPEN_FILES_MIN, OPEN_FILES_MAX, "")?;
    let file_size_mib = asked("file_size_mib", |limits| limits.file_size_mib, 1, disk.max, &disk_why)?;
    Ok(Limits {
        wall_ms,
        cpu_ms,
        memory_bytes: memory_mib.saturating_mul(1024 * 1024),
        output_bytes: output_kib.saturating_mul(1024),
        processes,
        disk_bytes: disk_mib.saturating_mul(1024 * 1024),
        files,
        open_files,
        file_size_bytes: file_size_mib.map(|mib| mib.saturating_mul(1024 * 1024)),
    })
}

/// Checks that a number is from `min` to `max`; `why` says where a bound comes from, when it is not the operator's.
pub(super) fn within(
    field: impl Into<String>,
    value: u64,
    min: u64,
    max: u64,
    why: &str,
) -> Result<u64, Refusal> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    let space = if why.is_empty() { "" } else { " " };
    Err(invalid(field, format!("{value} is out of range; allowed are {min} to {max}{space}{why}")))
}
