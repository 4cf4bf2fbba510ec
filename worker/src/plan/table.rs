//! Outcomes side by side, for people.

use std::fmt::Write as _;

use hearth_pool::scale::sim::Report;

use super::scenario::Outcome;

type Row = (&'static str, fn(&Report) -> String);

const ROWS: [Row; 15] = [
    ("jobs", |report| report.jobs.to_string()),
    ("hit ratio", |report| percent(report.hit_ratio)),
    ("within the target wait", |report| percent(report.within)),
    ("wait, mean", |report| ms(report.wait_mean_ms)),
    ("wait, p50", |report| ms(report.wait_p50_ms)),
    ("wait, p95", |report| ms(report.wait_p95_ms)),
    ("wait, p99", |report| ms(report.wait_p99_ms)),
    ("wait, longest", |report| ms(report.wait_max_ms)),
    ("VMs, mean", |report| format!("{:.1}", report.vms_mean)),
    ("VMs, peak", |report| report.vms_peak.to_string()),
    ("memory, mean", |report| format!("{:.0} MiB", report.memory_mean_mib)),
    ("memory, peak", |report| format!("{} MiB", report.memory_peak_mib)),
    ("memory held", |report| format!("{:.2} GiB h", report.memory_gib_hours)),
    ("restores (nobody claimed)", |report| format!("{} ({})", report.restores, report.unused)),
    ("CPU of restores", |report| format!("{:.0} s", report.restore_cpu_s)),
];

/// One column for each outcome.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut table = format!("{:<26}", "");
    for outcome in outcomes {
        let _ = write!(table, " {:>18}", outcome.name);
    }
    table.push('\n');
    for (name, shown) in ROWS {
        let _ = write!(table, "{name:<26}");
        for outcome in outcomes {
            let _ = write!(table, " {:>18}", shown(&outcome.report));
        }
        table.push('\n');
    }
    table
}

fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

fn ms(ms: f64) -> String {
    if ms >= 10_000.0 { format!("{:.1} s", ms / 1e3) } else { format!("{ms:.0} ms") }
}
