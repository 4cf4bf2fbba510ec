//! Prometheus's text format, as far as `/metrics` uses it.

use std::collections::BTreeMap;

/// One series and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric, with `_bucket`, `_sum` or `_count` where it is a histogram's.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Now.
    pub value: f64,
}

/// All that a worker measures, at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Reads a page. Lines that are none of the format are left out, since a later worker may say more than we know.
    pub fn parse(page: &str) -> Self {
        let lines = page.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.filter_map(sample).collect())
    }

    /// The samples of a metric that have these labels.
    pub fn of<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            let has = |(label, value): &(&str, &str)| sample.label(label) == Some(value);
            sample.name == name && labels.iter().all(has)
        })
    }

    /// What they come to together; 0 when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.of(name, labels).map(|sample| sample.value).sum()
    }

    /// All values that a label of a metric has, each once.
    pub fn values(&self, name: &str, label: &str) -> Vec<String> {
        let mut values: Vec<_> =
            self.of(name, &[]).filter_map(|sample| sample.label(label)).map(str::to_owned).collect();
        values.sort();
        values.dedup();
        values
    }
}

impl Sample {
    /// What a label says.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

/// `name{label="value",…} number`, perhaps with a time behind it.
fn sample(line: &str) -> Option<Sample> {
    let (name, rest) = match line.split_once('{') {
        Some((name, rest)) => (name, rest),
        None => {
            let (name, value) = line.split_once(' ')?;
            return Some(Sample { name: name.to_owned(), labels: BTreeMap::new(), value: number(value)? });
        }
    };
    let (labels, rest) = labels(rest)?;
    Some(Sample { name: name.to_owned(), labels, value: number(rest)? })
}

fn number(text: &str) -> Option<f64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Labels up to the closing brace, and what is behind it.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, value) = rest.split_once("=\"")?;
        let (value, behind) = quoted(value)?;
        labels.insert(name.to_owned(), value);
        rest = behind;
    }
}

/// Text up to the closing quote, and what is behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_what_is_none_of_it_is_left_out() {
        let page = "# HELP a Something\n# TYPE a counter\na 1\n\nb{x=\"1\",y=\"q\\\"\\\\\\n}\"} 2.5 1700000000\n\
                    c_bucket{le=\"+Inf\"} 3\nc_bucket{le=\"0.5\",x=\"2\",} 1\nbroken{x=\"1\nbroken\nbroken{x} 1\nd NaN\n";
        let samples = Samples::parse(page);
        assert_eq!(samples.0.len(), 5, "{samples:?}");
        assert_eq!(samples.sum("a", &[]), 1.0);
        assert_eq!(samples.sum("b", &[("x", "1")]), 2.5);
        assert_eq!(samples.values("b", "y"), ["q\"\\\n}"]);
        assert_eq!(samples.values("c_bucket", "le"), ["+Inf", "0.5"]);
        assert_eq!(samples.sum("c_bucket", &[("le", "0.5")]), 1.0);
        assert_eq!(samples.sum("nothing", &[]), 0.0);
    }
}
