//! From what the kernel saw to what the job is told. Pure.

use hearth_schemas::{
    guest::messages::{ExecLimits, Exited, LimitHit, SkipReason, Usage},
    result::{Cause, Millis, SkippedReason, UsageReport, Verdict},
};

use crate::stop::StopReason;

/// A command that used less than one part in this many of its wall time as CPU time was waiting, not working.
const IDLE_CPU_SHARE: u64 = 5;

/// What a command did. `None` when the agent said nothing that makes sense.
pub fn judge(
    exited: &Exited,
    limits: &ExecLimits,
    stopped: Option<StopReason>,
) -> Option<(Verdict, Option<Cause>)> {
    let verdict = match exited.limit_hit() {
        LimitHit::Wall => (Verdict::TimeLimit, Some(wall_cause(exited.usage.as_ref()))),
        LimitHit::Cpu => (Verdict::TimeLimit, Some(Cause::Cpu)),
        LimitHit::Memory => (Verdict::MemoryLimit, Some(Cause::Oom)),
        LimitHit::Processes => (Verdict::ProcessLimit, Some(Cause::Pids)),
        LimitHit::Output => (Verdict::OutputLimit, Some(output_cause(exited, limits))),
        LimitHit::Disk => (Verdict::DiskLimit, Some(Cause::Enospc)),
        LimitHit::Files => (Verdict::DiskLimit, Some(Cause::Files)),
        LimitHit::FileSize => (Verdict::DiskLimit, Some(Cause::FileSize)),
        LimitHit::None => match (exited.exit_code, exited.signal, stopped) {
            (Some(0), None, _) => (Verdict::Accepted, None),
            (Some(_), None, _) => (Verdict::NonzeroExit, None),
            (None, Some(_), Some(reason)) if exited.killed => (Verdict::Signalled, Some(reason.cause())),
            (None, Some(_), _) => (Verdict::Signalled, None),
            _ => return None,
        },
    };
    Some(verdict)
}

fn wall_cause(usage: Option<&Usage>) -> Cause {
    let idle =
        |usage: &Usage| (usage.user_us + usage.system_us).saturating_mul(IDLE_CPU_SHARE) < usage.wall_us;
    match usage.is_some_and(idle) {
        true => Cause::Idle,
        false => Cause::Wall,
    }
}

fn output_cause(exited: &Exited, limits: &ExecLimits) -> Cause {
    match exited.stdout_bytes > limits.output_bytes.unwrap_or(u64::MAX) {
        true => Cause::Stdout,
        false => Cause::Stderr,
    }
}

/// The agent's numbers in the units of a result.
pub fn usage(usage: &Usage) -> UsageReport {
    UsageReport {
        wall_ms: Millis::from_micros(usage.wall_us),
        user_ms: Millis::from_micros(usage.user_us),
        system_ms: Millis::from_micros(usage.system_us),
        memory_peak_bytes: usage.memory_peak_bytes,
        processes_peak: usage.processes_peak,
        disk_bytes: usage.disk_bytes,
    }
}

/// Why a match is not returned, in the words of a result.
pub fn skipped(reason: SkipReason) -> SkippedReason {
    match reason {
        SkipReason::NotRegular => SkippedReason::NotRegular,
        SkipReason::TooLarge => SkippedReason::TooLarge,
        SkipReason::TooMany => SkippedReason::TooMany,
        SkipReason::Name => SkippedReason::Name,
        SkipReason::Unreadable => SkippedReason::Unreadable,
        SkipReason::Unknown => SkippedReason::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(limit: LimitHit) -> Exited {
        Exited { limit_hit: limit.into(), signal: Some(9), ..Exited::default() }
    }

    fn judged(exited: &Exited) -> (Verdict, Option<Cause>) {
        judge(exited, &ExecLimits { output_bytes: Some(10), ..ExecLimits::default() }, None).unwrap()
    }

    #[test]
    fn a_limit_goes_before_the_signal_that_enforced_it() {
        for (limit, verdict, cause) in [
            (LimitHit::Wall, Verdict::TimeLimit, Cause::Wall),
            (LimitHit::Cpu, Verdict::TimeLimit, Cause::Cpu),
            (LimitHit::Memory, Verdict::MemoryLimit, Cause::Oom),
            (LimitHit::Processes, Verdict::ProcessLimit, Cause::Pids),
            (LimitHit::Disk, Verdict::DiskLimit, Cause::Enospc),
            (LimitHit::Files, Verdict::DiskLimit, Cause::Files),
            (LimitHit::FileSize, Verdict::DiskLimit, Cause::FileSize),
            (LimitHit::Output, Verdict::OutputLimit, Cause::Stderr),
        ] {
            assert_eq!(judged(&exited(limit)), (verdict, Some(cause)));
        }
    }

    #[test]
    fn output_names_the_stream_and_wall_time_says_whether_it_was_spent_waiting() {
        let output = Exited { stdout_bytes: 11, ..exited(LimitHit::Output) };
        assert_eq!(judged(&output), (Verdict::OutputLimit, Some(Cause::Stdout)));
        let usage = Usage { wall_us: 1_000_000, user_us: 199_000, ..Usage::default() };
        let idle = Exited { usage: Some(usage), ..exited(LimitHit::Wall) };
        assert_eq!(judged(&idle), (Verdict::TimeLimit, Some(Cause::Idle)));
    }

    #[test]
    fn without_a_limit_the_exit_speaks() {
        let code = |code| Exited { exit_code: Some(code), ..Exited::default() };
        assert_eq!(judged(&code(0)), (Verdict::Accepted, None));
        assert_eq!(judged(&code(3)), (Verdict::NonzeroExit, None));
        assert_eq!(judged(&exited(LimitHit::None)), (Verdict::Signalled, None));
        let killed = Exited { killed: true, ..exited(LimitHit::None) };
        let verdict = judge(&killed, &ExecLimits::default(), Some(StopReason::Cancelled));
        assert_eq!(verdict, Some((Verdict::Signalled, Some(Cause::Cancelled))));
        assert_eq!(judge(&Exited::default(), &ExecLimits::default(), None), None, "neither code nor signal");
    }
}
