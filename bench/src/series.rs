//! Samples, paired with a floor measured in the same run, and what is said of them.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::{Deserialize, Serialize};

/// One measured thing. Times are in milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Series {
    /// Ours.
    pub ours_ms: Vec<f64>,
    /// The floor: the same work by hand, without Hearth. Empty where there is none.
    pub floor_ms: Vec<f64>,
}

/// All series of a run, by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// In the order of their names.
    pub series: BTreeMap<String, Series>,
}

impl Report {
    /// Adds a sample of ours.
    pub fn ours(&mut self, name: &str, took: Duration) {
        self.series.entry(name.into()).or_default().ours_ms.push(took.as_secs_f64() * 1e3);
    }

    /// Adds a sample of the floor.
    pub fn floor(&mut self, name: &str, took: Duration) {
        self.series.entry(name.into()).or_default().floor_ms.push(took.as_secs_f64() * 1e3);
    }

    /// A table for people: medians, spread, ratio.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<34} {:>5} {:>11} {:>11} {:>7}   {}\n",
            "series", "n", "ours ms", "floor ms", "ratio", "ours min..max"
        );
        for (name, series) in &self.series {
            let ours = median(&series.ours_ms);
            let floor = median(&series.floor_ms);
            let ratio = ours.zip(floor).map(|(ours, floor)| ours / floor);
            let (min, max) = spread(&series.ours_ms);
            let show = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
            let n = series.ours_ms.len();
            let (ours, floor, ratio) = (show(ours), show(floor), show(ratio));
            let _ = writeln!(table, "{name:<34} {n:>5} {ours:>11} {floor:>11} {ratio:>7}   {min:.2}..{max:.2}");
        }
        table
    }

    /// A table of two runs: the ratio of medians, and of the ratios to the floor, which hold when the machine drifts.
    pub fn compare(&self, before: &Self) -> String {
        let mut table = format!("{:<34} {:>11} {:>11} {:>8} {:>16}\n", "series", "before ms", "now ms", "now/then", "floor-relative");
        for (name, now) in &self.series {
            let Some(then) = before.series.get(name) else { continue };
            let Some((a, b)) = median(&then.ours_ms).zip(median(&now.ours_ms)) else { continue };
            let floors = median(&then.floor_ms).zip(median(&now.floor_ms));
            let relative = floors.map_or_else(|| "-".into(), |(fa, fb)| format!("{:.2}", (b / fb) / (a / fa)));
            let _ = writeln!(table, "{name:<34} {a:>11.2} {b:>11.2} {:>8.2} {relative:>16}", b / a);
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

fn spread(samples: &[f64]) -> (f64, f64) {
    let min = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let max = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (min, max)
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
    fn a_report_survives_its_file_and_names_every_series() {
        let mut report = Report::default();
        report.ours("exec true", Duration::from_millis(20));
        report.floor("exec true", Duration::from_millis(10));
        report.ours("restore: clone", Duration::from_millis(5));
        let back: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        let table = back.table();
        assert!(table.contains("exec true") && table.contains("2.00") && table.contains("restore: clone"));
        assert!(back.compare(&report).contains("1.00"));
    }
}
