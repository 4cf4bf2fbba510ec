//! Numbers out of what workers say: what is now, and what happened between two answers.

use std::{collections::BTreeMap, time::Duration};

use hearth_pool::phase::Phase;
use serde::Serialize;

use super::{
    ask::Answer,
    exposition::{Sample, Samples},
};
use crate::status::{Failure, Status};

/// What all of it is over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    /// Each worker's start.
    Start,
    /// So many seconds ago.
    Seconds(f64),
}

/// A screen's worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    /// What rates, ratios and waits are over.
    pub since: Since,
    /// In the order in which they were given.
    pub workers: Vec<Worker>,
    /// All workers together, by name.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Results a second, by status.
    pub results_per_s: BTreeMap<String, f64>,
    /// What went wrong lately, the newest first.
    pub failures: Vec<Failed>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Worker {
    /// Where it was asked.
    pub address: String,
    /// What it says of itself.
    pub status: Option<Status>,
    /// Why it did not.
    pub unreachable: Option<String>,
    /// Jobs under way.
    pub jobs: f64,
    /// VMs that are ready, and all that it is to keep so.
    pub warm: (f64, f64),
}

/// One runtime on all workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Runtime {
    /// VMs to keep warm.
    pub target: f64,
    /// Slots by phase; phases without any are left out.
    pub slots: BTreeMap<&'static str, f64>,
    /// Between the two answers.
    pub rates: Rates,
}

/// What happened to a runtime between two answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Claims a second.
    pub claims_per_s: f64,
    /// Of the claims, those that found a VM ready. None without claims, as below.
    pub hit_ratio: Option<f64>,
    /// Half of the claims waited no longer, in seconds.
    pub wait_p50_s: Option<f64>,
    /// Of a hundred, 95 waited no longer.
    pub wait_p95_s: Option<f64>,
    /// Half of the refills took no longer.
    pub refill_p50_s: Option<f64>,
    /// Restores and greetings a second that failed.
    pub failed_per_s: f64,
}

/// A failure and whose it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failed {
    /// The worker.
    pub worker: String,
    /// What it was.
    #[serde(flatten)]
    pub failure: Failure,
}

impl View {
    /// Of the latest answers, and of those before them, which are over a time since then. Addresses are in the same order in all.
    pub fn new(
        addresses: &[String],
        before: Option<(&[Result<Answer, String>], Duration)>,
        now: &[Result<Answer, String>],
    ) -> Self {
        let since = before.map_or(Since::Start, |(_, passed)| Since::Seconds(passed.as_secs_f64()));
        let earlier = |number: usize| {
            let answers = before.and_then(|(answers, _)| answers.get(number));
            answers.and_then(|answer| answer.as_ref().ok())
        };
        let workers =
            addresses.iter().zip(now).map(|(address, answer)| Worker::new(address, answer)).collect();
        let spans: Vec<_> = now
            .iter()
            .enumerate()
            .filter_map(|(number, answer)| Some(Span::new(earlier(number), answer.as_ref().ok()?, since)))
            .flatten()
            .collect();
        let mut failures: Vec<_> =
            now.iter().filter_map(|answer| answer.as_ref().ok()).flat_map(failed).collect();
        failures.sort_by_key(|failed| std::cmp::Reverse(failed.failure.unix_ms));
        let answers: Vec<_> = now.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        Self {
            since,
            workers,
            runtimes: runtimes(&answers, &spans),
            results_per_s: by_label(&spans, "hearth_jobs_total", "status"),
            failures,
        }
    }
}

fn failed(answer: &Answer) -> impl Iterator<Item = Failed> + '_ {
    let worker = &answer.status.worker;
    answer
        .status
        .failures
        .iter()
        .map(move |failure| Failed { worker: worker.clone(), failure: failure.clone() })
}

impl Worker {
    fn new(address: &str, answer: &Result<Answer, String>) -> Self {
        let none = Samples::default();
        let samples = answer.as_ref().map_or(&none, |answer| &answer.samples);
        let ready = samples.sum("hearth_pool_slots", &[("phase", Phase::Ready.name())]);
        Self {
            address: address.to_owned(),
            status: answer.as_ref().ok().map(|answer| answer.status.clone()),
            unreachable: answer.as_ref().err().cloned(),
            jobs: samples.sum("hearth_jobs_inflight", &[]),
            warm: (ready, samples.sum("hearth_pool_target", &[])),
        }
    }
}

/// What one worker counted between two answers.
struct Span<'a> {
    before: Option<&'a Samples>,
    now: &'a Samples,
    seconds: f64,
}

impl<'a> Span<'a> {
    /// Nothing is known of a worker that was not there before, unless all is counted from its start.
    fn new(before: Option<&'a Answer>, now: &'a Answer, since: Since) -> Option<Self> {
        let uptime = now.status.uptime_s;
        match (since, before) {
            (Since::Start, _) => Some(Self { before: None, now: &now.samples, seconds: uptime }),
            (Since::Seconds(_), None) => None,
            // Another process: its counters began at 0.
            (Since::Seconds(seconds), Some(before)) if uptime < before.status.uptime_s => {
                Some(Self { before: None, now: &now.samples, seconds: seconds.min(uptime) })
            }
            (Since::Seconds(seconds), Some(before)) => {
                Some(Self { before: Some(&before.samples), now: &now.samples, seconds })
            }
        }
    }

    fn grew(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let before = self.before.map_or(0.0, |before| before.sum(name, labels));
        (self.now.sum(name, labels) - before).max(0.0)
    }

    fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        if self.seconds > 0.0 { self.grew(name, labels) / self.seconds } else { 0.0 }
    }
}

fn by_label(spans: &[Span<'_>], name: &str, label: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for span in spans {
        for value in span.now.values(name, label) {
            let rate = span.rate(name, &[(label, &value)]);
            *sums.entry(value).or_default() += rate;
        }
    }
    sums
}

fn runtimes(answers: &[&Answer], spans: &[Span<'_>]) -> BTreeMap<String, Runtime> {
    let mut runtimes: BTreeMap<String, Runtime> = BTreeMap::new();
    for answer in answers {
        for Sample { labels, value, .. } in answer.samples.of("hearth_pool_target", &[]) {
            let Some(name) = labels.get("runtime") else { continue };
            let runtime = runtimes.entry(name.clone()).or_default();
            runtime.target += value;
            for phase in Phase::ALL {
                let slots =
                    answer.samples.sum("hearth_pool_slots", &[("runtime", name), ("phase", phase.name())]);
                if slots > 0.0 {
                    *runtime.slots.entry(phase.name()).or_default() += slots;
                }
            }
        }
    }
    for (name, runtime) in &mut runtimes {
        runtime.rates = rates(name, spans);
    }
    runtimes
}

fn rates(runtime: &str, spans: &[Span<'_>]) -> Rates {
    let own = [("runtime", runtime)];
    let sum = |of: &dyn Fn(&Span<'_>) -> f64| spans.iter().map(of).sum::<f64>();
    let claims = sum(&|span| span.grew("hearth_pool_claims_total", &own));
    let hits = sum(&|span| span.grew("hearth_pool_claims_total", &[own[0], ("outcome", "hit")]));
    let failed = |why| sum(&|span| span.rate("hearth_vm_retired_total", &[own[0], ("why", why)]));
    Rates {
        claims_per_s: sum(&|span| span.rate("hearth_pool_claims_total", &own)),
        hit_ratio: (claims > 0.0).then(|| hits / claims),
        wait_p50_s: quantile(0.5, &buckets(spans, "hearth_pool_claim_wait_seconds_bucket", runtime)),
        wait_p95_s: quantile(0.95, &buckets(spans, "hearth_pool_claim_wait_seconds_bucket", runtime)),
        refill_p50_s: quantile(0.5, &buckets(spans, "hearth_pool_refill_seconds_bucket", runtime)),
        failed_per_s: failed("restore_failed") + failed("greeting_failed"),
    }
}

/// Upper bounds in seconds, and how many were at most that, in order.
fn buckets(spans: &[Span<'_>], name: &str, runtime: &str) -> Vec<(f64, f64)> {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for span in spans {
        for bound in span.now.values(name, "le") {
            let Ok(le) = bound.parse::<f64>() else { continue };
            let count = span.grew(name, &[("runtime", runtime), ("le", &bound)]);
            match buckets.iter_mut().find(|(known, _)| *known == le) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((le, count)),
            }
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets
}

/// The value below which a part of all lies, as Prometheus reckons it: evenly within a bucket, and the last finite bound for what
/// is beyond it. None when there is nothing.
pub fn quantile(part: f64, buckets: &[(f64, f64)]) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
    let wanted = part * total;
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= wanted && *count > below {
            if bound.is_infinite() {
                return Some(low);
            }
            return Some(low + (bound - low) * (wanted - below) / (count - below));
        }
        (low, below) = (*bound, *count);
    }
    Some(low)
}
