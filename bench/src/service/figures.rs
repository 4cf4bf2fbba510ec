//! What was measured, and how it is shown.

use std::{collections::BTreeMap, fmt, fmt::Write as _, time::Duration};

use super::rig::{Claims, Cpu};

/// Overheads: everything but the time that a command took by its own account.
#[derive(Clone, Debug, Default)]
pub struct Overheads {
    pub ours: Vec<Duration>,
    pub floor: Vec<Duration>,
    pub hits: Claims,
    /// Means of the worker's own steps.
    pub steps_ms: Vec<(&'static str, f64)>,
}

/// What a saturated worker did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Saturated {
    pub begun: bool,
    pub jobs: u64,
    pub took: Duration,
    pub cpu: Cpu,
    /// How long it took until all that waited in the intake had gone to the run queues.
    pub parking_s: f64,
}

impl Saturated {
    pub fn until(self, took: Duration, before: Cpu, now: Cpu) -> Self {
        let cpu = Cpu { worker_s: now.worker_s - before.worker_s, guard_s: now.guard_s - before.guard_s };
        Self { took, cpu, ..self }
    }

    pub fn jobs_per_s(&self) -> f64 {
        self.jobs as f64 / self.took.as_secs_f64()
    }

    /// Jobs in a second of the worker's own CPU.
    pub fn jobs_per_core_s(&self) -> f64 {
        self.jobs as f64 / self.cpu.worker_s
    }

    fn guard_ms_per_job(&self) -> f64 {
        self.cpu.guard_s * 1e3 / self.jobs as f64
    }
}

/// One setting, measured once.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub slots: u32,
    pub queued: u64,
    /// One job at a time.
    pub alone: Overheads,
    /// At half of what it can do.
    pub half: Overheads,
    pub saturated: Saturated,
}

/// A line of the table. Times are in milliseconds.
#[derive(Clone, Debug)]
struct Line {
    slots: u32,
    load: &'static str,
    samples: usize,
    hits: f64,
    p50_ms: f64,
    p50_floor_ms: f64,
    p50_ratio: f64,
    p99_ms: f64,
    p99_floor_ms: f64,
    p99_ratio: f64,
}

/// So much of all samples is not above this. NaN without samples.
fn quantile(samples: &[Duration], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort();
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.max(1) - 1).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}

fn line(slots: u32, load: &'static str, overheads: &Overheads) -> Line {
    let (ours, floor) = (&overheads.ours, &overheads.floor);
    let [p50_ms, p99_ms] = [0.5, 0.99].map(|part| quantile(ours, part));
    let [p50_floor_ms, p99_floor_ms] = [0.5, 0.99].map(|part| quantile(floor, part));
    Line {
        slots,
        load,
        samples: ours.len(),
        hits: overheads.hits.hit / overheads.hits.all,
        p50_ms,
        p50_floor_ms,
        p50_ratio: p50_ms / p50_floor_ms,
        p99_ms,
        p99_floor_ms,
        p99_ratio: p99_ms / p99_floor_ms,
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "| {} | {} | {} | {:.1} % | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            self.slots,
            self.load,
            self.samples,
            self.hits * 100.0,
            self.p50_ms,
            self.p50_floor_ms,
            self.p50_ratio,
            self.p99_ms,
            self.p99_floor_ms,
            self.p99_ratio
        )
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (load, overheads) in [("alone", &self.alone), ("half", &self.half)] {
            if !overheads.ours.is_empty() {
                writeln!(f, "{}", line(self.slots, load, overheads))?;
            }
        }
        for (step, mean_ms) in &self.alone.steps_ms {
            write!(f, "{step} {mean_ms:.2} ms, ")?;
        }
        writeln!(f)?;
        let saturated = &self.saturated;
        write!(
            f,
            "{} slots, {} queued: {:.0} jobs/s, {:.0} per core of the worker's CPU, the guard {:.2} ms per job, parked within {:.1} s",
            self.slots,
            self.queued,
            saturated.jobs_per_s(),
            saturated.jobs_per_core_s(),
            saturated.guard_ms_per_job(),
            saturated.parking_s
        )
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All repeats together, as Markdown: quantiles of all samples, medians of the rest.
pub fn table(all: &[Figures]) -> String {
    let mut settings: BTreeMap<(u64, u32), Vec<&Figures>> = BTreeMap::new();
    for figures in all {
        settings.entry((figures.queued, figures.slots)).or_default().push(figures);
    }
    let mut text = "| slots | load | jobs | hits | p50 ms | floor | ratio | p99 ms | floor | ratio |\n\
                    |--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for ((_, slots), repeats) in &settings {
        for (load, pick) in [("alone", (|f| &f.alone) as fn(&Figures) -> &Overheads), ("half", |f| &f.half)] {
            let mut together = Overheads::default();
            for overheads in repeats.iter().map(|figures| pick(figures)) {
                together.ours.extend(&overheads.ours);
                together.floor.extend(&overheads.floor);
                together.hits.hit += overheads.hits.hit;
                together.hits.all += overheads.hits.all;
            }
            if !together.ours.is_empty() {
                let _ = writeln!(text, "{}", line(*slots, load, &together));
            }
        }
    }
    text +=
        "\n| slots | queued | jobs/s | per core of worker CPU | guard, ms per job |\n|--:|--:|--:|--:|--:|\n";
    for ((queued, slots), repeats) in &settings {
        let of = |what: fn(&Saturated) -> f64| median(repeats.iter().map(|f| what(&f.saturated)).collect());
        let (rate, core) = (of(Saturated::jobs_per_s), of(Saturated::jobs_per_core_s));
        let guard = of(Saturated::guard_ms_per_job);
        let _ = writeln!(text, "| {slots} | {queued} | {rate:.0} | {core:.0} | {guard:.2} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_sample() {
        let samples: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| quantile(&samples, part)), [1.0, 100.0, 198.0, 200.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn repeats_of_a_setting_are_one_line() {
        let of = |jobs, worker_s, ms| Figures {
            slots: 10,
            half: Overheads {
                ours: vec![Duration::from_millis(ms)],
                floor: vec![Duration::from_millis(2)],
                hits: Claims { hit: 1.0, all: 1.0 },
                steps_ms: Vec::new(),
            },
            saturated: Saturated {
                jobs,
                took: Duration::from_secs(1),
                cpu: Cpu { worker_s, guard_s: 0.0 },
                ..Saturated::default()
            },
            ..Figures::default()
        };
        let table = table(&[of(10, 1.0, 3), of(40, 0.5, 5), of(20, 1.0, 4)]);
        assert!(
            table.contains("| 10 | half | 3 | 100.0 % | 4.00 | 2.00 | 2.00 | 5.00 | 2.00 | 2.50 |"),
            "{table}"
        );
        assert!(table.contains("| 10 | 0 | 20 | 20 | 0.00 |"), "{table}");
    }
}
