//! Whether a PromQL expression asks for what the table has: metrics, labels, values, and functions that fit the kind.

use std::collections::BTreeSet;

use hearth_worker::meters::{self, Kind, Metric, Values};
use promql_parser::{
    label::{MatchOp, Matcher},
    parser::{self, AggregateExpr, Expr, VectorSelector},
    util::{ExprVisitor, walk_expr},
};

/// What Prometheus itself adds to each series.
const OF_THE_SCRAPE: [&str; 2] = ["job", "instance"];

/// All that is wrong with an expression.
pub fn mistakes(expression: &str) -> Vec<String> {
    let parsed = match parser::parse(expression) {
        Ok(parsed) => parsed,
        Err(error) => return vec![format!("{expression}: {error}")],
    };
    let mut reader = Reader { mistakes: Vec::new() };
    let _ = walk_expr(&mut reader, &parsed);
    reader.mistakes.iter().map(|mistake| format!("{expression}: {mistake}")).collect()
}

/// Every metric that an expression asks for.
pub fn metrics(expression: &str) -> BTreeSet<&'static str> {
    let parsed = parser::parse(expression).unwrap();
    selectors(&parsed)
        .iter()
        .filter_map(|selector| measured(selector).map(|(metric, _)| metric.name))
        .collect()
}

struct Reader {
    mistakes: Vec<String>,
}

impl ExprVisitor for Reader {
    type Error = ();

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, ()> {
        match expression {
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(matrix) => self.selector(&matrix.vs),
            Expr::Aggregate(AggregateExpr { expr, modifier: Some(modifier), .. }) => {
                for selector in selectors(expr) {
                    modifier.labels().labels.iter().for_each(|label| self.has(label, &[&selector]));
                }
            }
            Expr::Binary(binary) => {
                let matching = binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref());
                for label in matching.iter().flat_map(|matching| &matching.labels().labels) {
                    for side in [&binary.lhs, &binary.rhs] {
                        self.has(label, &selectors(side).iter().collect::<Vec<_>>());
                    }
                }
            }
            Expr::Call(call) => {
                let fits: &[Kind] = match call.func.name {
                    "rate" | "irate" | "increase" | "resets" => &[Kind::Counter, Kind::Histogram],
                    "delta" | "idelta" | "deriv" | "predict_linear" => &[Kind::Gauge],
                    _ => &[Kind::Counter, Kind::Gauge, Kind::Histogram],
                };
                for selector in selectors(expression) {
                    if let Some((metric, _)) =
                        measured(&selector).filter(|(metric, _)| !fits.contains(&metric.kind))
                    {
                        self.note(format!("{} of {}, a {}", call.func.name, metric.name, metric.kind.name()));
                    }
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

impl Reader {
    fn note(&mut self, mistake: String) {
        self.mistakes.push(mistake);
    }

    fn selector(&mut self, selector: &VectorSelector) {
        let Some((metric, histogram_part)) = measured(selector) else {
            self.note(format!("{selector} is not measured"));
            return;
        };
        if (metric.kind == Kind::Histogram) != histogram_part.is_some() {
            self.note(format!("{selector} is not a series of a {}", metric.kind.name()));
        }
        for matcher in &selector.matchers.matchers {
            let known = metric.labels.iter().find(|(name, _)| *name == matcher.name);
            let other = OF_THE_SCRAPE.contains(&matcher.name.as_str());
            match known {
                Some((_, values)) => self.values(metric, matcher, values),
                None if other || (matcher.name == "le" && histogram_part == Some("_bucket")) => {}
                None => self.note(format!("{} has no label {}", metric.name, matcher.name)),
            }
        }
    }

    fn values(&mut self, metric: &Metric, matcher: &Matcher, values: &Values) {
        let Values::OneOf(all) = values else { return };
        let asked: Vec<&str> = match &matcher.op {
            MatchOp::Equal | MatchOp::NotEqual => vec![&matcher.value],
            MatchOp::Re(_) | MatchOp::NotRe(_) => matcher.value.split('|').collect(),
        };
        for value in asked.into_iter().filter(|value| !all().contains(value)) {
            self.note(format!("{}: {} is never {value:?}", metric.name, matcher.name));
        }
    }

    /// What is kept or matched is a label of at least one of these.
    fn has(&mut self, label: &str, among: &[&VectorSelector]) {
        let has = |selector: &&VectorSelector| {
            measured(selector).is_some_and(|(metric, histogram_part)| {
                let own = metric.labels.iter().any(|(name, _)| *name == label);
                own || (label == "le" && histogram_part == Some("_bucket")) || OF_THE_SCRAPE.contains(&label)
            })
        };
        if !among.iter().any(has) {
            let among: Vec<_> = among.iter().map(ToString::to_string).collect();
            self.note(format!("{} has no label {label}", among.join(" and ")));
        }
    }
}

/// The metric behind a selector, and which part of it when it is a histogram's.
fn measured(selector: &VectorSelector) -> Option<(&'static Metric, Option<&'static str>)> {
    let name = selector.name.as_deref()?;
    let find = |name: &str| meters::ALL.iter().copied().find(|metric| metric.name == name);
    let part = ["_bucket", "_sum", "_count"].into_iter().find_map(|part| {
        let metric = find(name.strip_suffix(part)?).filter(|metric| metric.kind == Kind::Histogram)?;
        Some((metric, Some(part)))
    });
    part.or_else(|| find(name).map(|metric| (metric, None)))
}

struct Selectors(Vec<VectorSelector>);

impl ExprVisitor for Selectors {
    type Error = ();

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, ()> {
        match expression {
            Expr::VectorSelector(selector) => self.0.push(selector.clone()),
            Expr::MatrixSelector(matrix) => self.0.push(matrix.vs.clone()),
            _ => {}
        }
        Ok(true)
    }
}

fn selectors(expression: &Expr) -> Vec<VectorSelector> {
    let mut found = Selectors(Vec::new());
    let _ = walk_expr(&mut found, expression);
    found.0
}

#[test]
fn mistakes_are_found() {
    let fine = "sum by (runtime) (rate(hearth_pool_claims_total{outcome=~\"hit|wait\",instance=\"a\"}[5m])) \
                / on (runtime) sum by (runtime) (hearth_pool_slots{phase=\"ready\"})";
    assert_eq!(mistakes(fine), Vec::<String>::new());
    for (wrong, said) in [
        ("sum(", "unclosed"),
        ("hearth_pool_hits", "is not measured"),
        ("rate(hearth_pool_slots[5m])", "a gauge"),
        ("delta(hearth_jobs_total[5m])", "a counter"),
        ("rate(hearth_restore_seconds[5m])", "not a series of a histogram"),
        ("hearth_pool_claims_total{outcome=\"miss\"}", "never \"miss\""),
        ("hearth_pool_claims_total{outcome=~\"hit|miss\"}", "never \"miss\""),
        ("hearth_pool_claims_total{tenant=\"a\"}", "no label tenant"),
        ("sum by (phase) (hearth_pool_target)", "no label phase"),
        ("hearth_pool_target / on (phase) hearth_pool_slots", "no label phase"),
        ("sum by (le) (rate(hearth_restore_seconds_count[5m]))", "no label le"),
    ] {
        let found = mistakes(wrong);
        assert!(found.iter().any(|found| found.contains(said)), "{wrong}: {found:?}");
    }
}
