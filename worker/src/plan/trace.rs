//! Traces: when jobs came, of which runtime, and how long each had its VM.

use std::{io::BufRead, time::Duration};

use hearth_pool::{pool::Lane, scale::sim::Job};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// Longer than this nothing lasts.
const SECONDS_MAX: f64 = 10.0 * 366.0 * 86_400.0;
/// Seconds since 1970 are at least this; smaller numbers are counted from whenever the trace begins.
const UNIX_MIN: f64 = 1e8;

/// How a trace is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// With a header: `arrival`, `runtime`, `duration` and, if wanted, `lane`. Other columns are ignored.
    Csv,
    /// One object a line, with the same fields.
    Jsonl,
}

/// A load that was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Names; a job has the number of its own.
    pub runtimes: Vec<String>,
    /// In order of arrival; the first comes at 0.
    pub jobs: Vec<Job>,
    /// The second since 1970 at which the first came, when the trace says so.
    pub begins: Option<i64>,
}

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It cannot be read.
    #[error("the trace")]
    Io(#[from] std::io::Error),
    /// A line is wrong.
    #[error("line {line}: {what}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong and what is allowed.
        what: String,
    },
    /// There is nothing in it.
    #[error("the trace has no jobs")]
    Empty,
}

#[derive(Deserialize)]
struct Row {
    arrival: Value,
    runtime: String,
    duration: Value,
    #[serde(default)]
    lane: Option<String>,
}

/// Reads a trace. Lines may be in any order; a blank line in JSONL is skipped.
///
/// # Errors
/// The first line that is wrong, by its number.
pub fn read_trace(from: impl BufRead, format: TraceFormat) -> Result<Trace, TraceError> {
    let mut rows = Rows::default();
    match format {
        TraceFormat::Csv => csv(from, &mut rows)?,
        TraceFormat::Jsonl => {
            for (line, text) in (1..).zip(from.lines()) {
                let text = text?;
                if text.trim().is_empty() {
                    continue;
                }
                let row = serde_json::from_str(&text);
                rows.add(line, row.map_err(|error| TraceError::Line { line, what: error.to_string() })?)?;
            }
        }
    }
    rows.trace()
}

fn csv(from: impl BufRead, rows: &mut Rows) -> Result<(), TraceError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(from);
    let failed = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        TraceError::Line { line, what: error.to_string() }
    };
    let header = reader.headers().map_err(failed)?.clone();
    let column = |name: &str| header.iter().position(|column| column == name);
    let needed = |name: &str| {
        let what = || format!("no column {name:?}; the header needs arrival, runtime and duration");
        column(name).ok_or_else(|| TraceError::Line { line: 1, what: what() })
    };
    let (arrival, runtime, duration) = (needed("arrival")?, needed("runtime")?, needed("duration")?);
    let lane = column("lane");
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(failed)? {
        let line = record.position().map_or(0, csv::Position::line);
        let field = |column: usize| record.get(column).unwrap_or_default().to_owned();
        let lane = lane.map(field).filter(|lane| !lane.is_empty());
        let row = Row {
            arrival: Value::String(field(arrival)),
            runtime: field(runtime),
            duration: Value::String(field(duration)),
            lane,
        };
        rows.add(line, row)?;
    }
    Ok(())
}

#[derive(Default)]
struct Rows {
    runtimes: Vec<String>,
    jobs: Vec<(f64, Job)>,
}

impl Rows {
    fn add(&mut self, line: u64, row: Row) -> Result<(), TraceError> {
        let wrong = |what: String| TraceError::Line { line, what };
        let Row { arrival, runtime, duration, lane } = row;
        let allowed = "seconds as a number, or a time such as 2026-11-20T08:00:00Z";
        let at = seconds(&arrival).or_else(|| instant(&arrival));
        let at = at.ok_or_else(|| wrong(format!("arrival {arrival}: allowed is {allowed}")))?;
        let takes = seconds(&duration).map(Duration::from_secs_f64);
        let takes =
            takes.ok_or_else(|| wrong(format!("duration {duration}: allowed are seconds as a number")))?;
        if !hearth_schemas::job::is_name(&runtime) {
            return Err(wrong(format!("runtime {runtime:?}: allowed are 1 to 64 of A-Z, a-z, 0-9, _ and -")));
        }
        let lane = match lane.as_deref() {
            None | Some("normal") => Lane::Normal,
            Some("interactive") => Lane::Interactive,
            Some("batch") => Lane::Batch,
            Some(other) => {
                return Err(wrong(format!("lane {other:?}: allowed are interactive, normal, batch")));
            }
        };
        let number = self.runtimes.iter().position(|known| *known == runtime).unwrap_or_else(|| {
            self.runtimes.push(runtime);
            self.runtimes.len() - 1
        });
        self.jobs.push((at, Job { at: Duration::ZERO, runtime: number, takes, lane }));
        Ok(())
    }

    fn trace(mut self) -> Result<Trace, TraceError> {
        self.jobs.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let begins = self.jobs.first().map(|(at, _)| *at).ok_or(TraceError::Empty)?;
        let job = |(at, job): (f64, Job)| Job {
            at: Duration::from_secs_f64((at - begins).min(SECONDS_MAX)),
            ..job
        };
        let jobs = self.jobs.into_iter().map(job).collect();
        Ok(Trace { runtimes: self.runtimes, jobs, begins: (begins >= UNIX_MIN).then_some(begins as i64) })
    }
}

/// A number of seconds, as a number or as text.
fn seconds(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number.filter(|number| (0.0..=SECONDS_MAX * 10.0).contains(number))
}

fn instant(value: &Value) -> Option<f64> {
    let at: Timestamp = value.as_str()?.parse().ok()?;
    Some(at.as_nanosecond() as f64 / 1e9).filter(|at| *at >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(text: &str) -> Result<Trace, String> {
        read_trace(text.as_bytes(), TraceFormat::Csv).map_err(|error| error.to_string())
    }

    #[test]
    fn both_formats_say_the_same() {
        let table =
            csv("lane,arrival,runtime,note,duration\n,2.5,python,x,1\nbatch, 1.0 ,gcc,y,0.25\n").unwrap();
        let lines = "{\"arrival\":2.5,\"runtime\":\"python\",\"duration\":1}\n\n\
                     {\"arrival\":\"1\",\"runtime\":\"gcc\",\"duration\":0.25,\"lane\":\"batch\"}\n";
        let lines = read_trace(lines.as_bytes(), TraceFormat::Jsonl).unwrap();
        assert_eq!(table, lines);
        assert_eq!(table.runtimes, ["python", "gcc"]);
        let job = |at, runtime, takes, lane| Job {
            at: Duration::from_secs_f64(at),
            runtime,
            takes: Duration::from_secs_f64(takes),
            lane,
        };
        assert_eq!(table.jobs, [job(0.0, 1, 0.25, Lane::Batch), job(1.5, 0, 1.0, Lane::Normal)]);
        assert_eq!(table.begins, None);
    }

    #[test]
    fn times_of_day_are_known_where_the_trace_has_them() {
        let dated =
            csv("arrival,runtime,duration\n2026-11-20T08:00:01Z,python,1\n2026-11-20T08:00:00Z,python,1\n");
        let unix = csv("arrival,runtime,duration\n1795161601,python,1\n1795161600,python,1\n").unwrap();
        assert_eq!(dated.unwrap(), unix);
        assert_eq!(unix.begins, Some(1_795_161_600));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let good = "arrival,runtime,duration,lane\n1,python,1,\n";
        for (line, what) in [
            ("soon,python,1,", "line 3: arrival"),
            ("1,py thon,1,", "line 3: runtime"),
            ("1,python,-1,", "line 3: duration"),
            ("1,python,nan,", "line 3: duration"),
            ("1,python,1,fast", "line 3: lane"),
            ("1", "line 3: duration"),
        ] {
            let said = csv(&format!("{good}{line}\n")).unwrap_err();
            assert!(said.starts_with(what), "{said}");
        }
        assert!(csv("arrival,runtime\n1,python\n").unwrap_err().contains("line 1: no column \"duration\""));
        assert_eq!(csv("arrival,runtime,duration\n").unwrap_err(), "the trace has no jobs");
        let said = read_trace(&b"\n{\"arrival\":1}\n"[..], TraceFormat::Jsonl).unwrap_err().to_string();
        assert!(said.starts_with("line 2: missing field"), "{said}");
    }
}
