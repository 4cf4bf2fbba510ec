//! One metric: what it is, and how it is moved. Nothing is measured but by these.

use metrics::{Key, Label as MetricLabel, Level, Metadata, Unit, with_recorder};

static METADATA: Metadata<'static> = Metadata::new("hearth", Level::INFO, None);

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts what is at most so much.
    Histogram,
}

impl Kind {
    /// Its name in Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a label may say.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// The runtimes that this worker offers, and `-` for what is none.
    Runtimes,
    /// One of these.
    OneOf(fn() -> Vec<&'static str>),
}

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What its numbers count.
    pub unit: Unit,
    /// What it says.
    pub help: &'static str,
    /// Its labels, in the order in which they are given when it is moved.
    pub labels: &'static [(&'static str, Values)],
}

impl Metric {
    /// A counter grows by one.
    pub fn count(&self, labels: &[&str]) {
        self.add(labels, 1);
    }

    /// A counter grows.
    pub fn add(&self, labels: &[&str], by: u64) {
        debug_assert_eq!(self.kind, Kind::Counter, "{}", self.name);
        with_recorder(|recorder| recorder.register_counter(&self.key(labels), &METADATA).increment(by));
    }

    /// A gauge becomes.
    pub fn set(&self, labels: &[&str], to: f64) {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        with_recorder(|recorder| recorder.register_gauge(&self.key(labels), &METADATA).set(to));
    }

    /// A gauge moves.
    pub fn shift(&self, labels: &[&str], by: f64) {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        with_recorder(|recorder| recorder.register_gauge(&self.key(labels), &METADATA).increment(by));
    }

    /// A histogram sees something; times in seconds.
    pub fn record(&self, labels: &[&str], what: f64) {
        debug_assert_eq!(self.kind, Kind::Histogram, "{}", self.name);
        with_recorder(|recorder| recorder.register_histogram(&self.key(labels), &METADATA).record(what));
    }

    /// Says what it is, and for a counter whose series are all known, that nothing has happened yet: what never was
    /// there cannot be seen to grow.
    pub(super) fn describe(&self) {
        let (name, unit, help) = (self.name.into(), Some(self.unit), self.help.into());
        with_recorder(|recorder| match self.kind {
            Kind::Counter => recorder.describe_counter(name, unit, help),
            Kind::Gauge => recorder.describe_gauge(name, unit, help),
            Kind::Histogram => recorder.describe_histogram(name, unit, help),
        });
        if self.kind == Kind::Counter {
            self.series().iter().for_each(|labels| self.add(labels, 0));
        }
    }

    /// All sets of labels, where they are known.
    fn series(&self) -> Vec<Vec<&'static str>> {
        self.labels.iter().fold(vec![Vec::new()], |series, (_, values)| match values {
            Values::Runtimes => Vec::new(),
            Values::OneOf(all) => {
                let with = |value| series.iter().map(move |labels| [labels.as_slice(), &[value]].concat());
                all().into_iter().flat_map(with).collect()
            }
        })
    }

    fn key(&self, values: &[&str]) -> Key {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        let labels = self.labels.iter().zip(values).map(|((name, allowed), value)| {
            let known = match allowed {
                Values::Runtimes => true,
                Values::OneOf(all) => all().contains(value),
            };
            debug_assert!(known, "{}: {name} may not be {value}", self.name);
            MetricLabel::new(*name, (*value).to_owned())
        });
        Key::from_parts(self.name, labels.collect::<Vec<_>>())
    }
}
