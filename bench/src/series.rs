//! Samples, paired with a floor measured in the same run, and what is said of them.

use std::{fmt::Write as _, time::Duration};

use serde::{Deserialize, Serialize};

/// One measured thing. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What was measured.
    pub name: String,
    /// Ours.
    pub ours_ms: Vec<f64>,
    /// The floor: the same work by hand, without Hearth. Empty where there is none.
    pub floor_ms: Vec<f64>,
    /// The most memory that ours took of this process in any sample, in KiB, where that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<u64>,
}

/// All series of a run, in the order in which they were first measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine, in general words.
    pub machine: String,
    /// What was measured on it.
    pub series: Vec<Series>,
}

impl Report {
    /// Adds a sample of ours.
    pub fn ours(&mut self, name: &str, took: Duration) {
        self.series(name).ours_ms.push(ms(took));
    }

    /// Adds a sample of the floor.
    pub fn floor(&mut self, name: &str, took: Duration) {
        self.series(name).floor_ms.push(ms(took));
    }

    /// Notes what a sample of ours took of this process's memory.
    pub fn memory(&mut self, name: &str, kib: u64) {
        let series = self.series(name);
        series.memory_kib = Some(series.memory_kib.map_or(kib, |most| most.max(kib)));
    }

    /// Adds a pair of samples.
    pub fn pair(&mut self, name: &str, ours: Duration, floor: Duration) {
        self.ours(name, ours);
        self.floor(name, floor);
    }

    /// Takes the samples of another report.
    pub fn take(&mut self, other: Self) {
        for series in other.series {
            let ours = self.series(&series.name);
            ours.ours_ms.extend(series.ours_ms);
            ours.floor_ms.extend(series.floor_ms);
            ours.memory_kib = ours.memory_kib.max(series.memory_kib);
        }
    }

    /// Leaves only the series whose names contain `part`.
    pub fn keep(&mut self, part: &str) {
        self.series.retain(|series| series.name.contains(part));
    }

    fn series(&mut self, name: &str) -> &mut Series {
        let at = self.series.iter().position(|series| series.name == name).unwrap_or_else(|| {
            let (ours_ms, floor_ms) = (Vec::new(), Vec::new());
            self.series.push(Series { name: name.to_owned(), ours_ms, floor_ms, memory_kib: None });
            self.series.len() - 1
        });
        #[allow(clippy::indexing_slicing, reason = "found or made above")]
        &mut self.series[at]
    }

    /// A table for people: medians, ratio, spread.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<28} {:>3} {:>10} {:>10} {:>7}   {}\n",
            "series", "n", "ours ms", "floor ms", "ratio", "ours min..max"
        );
        for series in &self.series {
            let (ours, floor) = (median(&series.ours_ms), median(&series.floor_ms));
            let ratio = ours.zip(floor).map(|(ours, floor)| ours / floor);
            let n = series.ours_ms.len().max(series.floor_ms.len());
            let (name, spread) = (&series.name, spread(&series.ours_ms));
            let [ours, floor] = [ours, floor].map(shown);
            let ratio = ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"));
            let memory = series.memory_kib.map_or_else(String::new, |kib| format!(", +{kib} KiB"));
            let _ = writeln!(table, "{name:<28} {n:>3} {ours:>10} {floor:>10} {ratio:>7}   {spread}{memory}");
        }
        table
    }

    /// A table of two runs: the ratio of medians, and of the ratios to the floor, which hold when the machine drifts.
    pub fn compare(&self, before: &Self) -> String {
        let mut table = format!(
            "{:<28} {:>11} {:>11} {:>9} {:>17}\n",
            "series", "before ms", "now ms", "now/then", "same over floors"
        );
        for now in &self.series {
            let Some(then) = before.series.iter().find(|then| then.name == now.name) else { continue };
            let Some((a, b)) = median(&then.ours_ms).zip(median(&now.ours_ms)) else { continue };
            let floors = median(&then.floor_ms).zip(median(&now.floor_ms));
            let relative =
                floors.map_or_else(|| "-".into(), |(fa, fb)| format!("{:.2}", (b / fb) / (a / fa)));
            let (name, ratio) = (&now.name, b / a);
            let [a, b] = [a, b].map(|value| shown(Some(value)));
            let _ = writeln!(table, "{name:<28} {a:>11} {b:>11} {ratio:>9.2} {relative:>17}");
        }
        table
    }
}

/// The middle sample, or the mean of the middle two.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    match sorted.len() % 2 {
        1 => Some(upper),
        _ => sorted.get(middle.checked_sub(1)?).map(|lower| (lower + upper) / 2.0),
    }
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// With as many digits as mean something.
fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 1.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.4}"),
    }
}

fn spread(samples: &[f64]) -> String {
    let min = samples.iter().copied().reduce(f64::min);
    let max = samples.iter().copied().reduce(f64::max);
    min.zip(max).map_or_else(String::new, |(min, max)| format!("{}..{}", shown(Some(min)), shown(Some(max))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_report_survives_its_file_and_keeps_its_order() {
        let mut report = Report::default();
        report.pair("exec true", Duration::from_millis(20), Duration::from_millis(10));
        report.ours("claim", Duration::from_micros(5));
        report.floor("only a floor", Duration::from_millis(1));
        let back: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(back, report);
        let table = back.table();
        let lines: Vec<_> = table.lines().skip(1).collect();
        assert!(lines[0].starts_with("exec true") && lines[0].contains("2.00"), "{table}");
        assert!(lines[1].starts_with("claim") && lines[1].contains("0.0050"), "{table}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_slower_machine_is_no_slower_hearth() {
        let of = |ours, floor| {
            let mut report = Report::default();
            report.pair("x", Duration::from_millis(ours), Duration::from_millis(floor));
            report
        };
        let line = of(40, 20).compare(&of(20, 10));
        let words: Vec<_> = line.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["x", "20.0", "40.0", "2.00", "1.00"]);
        assert_eq!(of(1, 1).compare(&Report::default()).lines().count(), 1, "nothing in common");
    }

    #[test]
    fn only_what_was_asked_for_is_kept() {
        let mut report = Report::default();
        report.ours("exec true", Duration::ZERO);
        report.ours("claim", Duration::ZERO);
        report.keep("exec");
        assert_eq!(report.series.len(), 1);
    }
}
