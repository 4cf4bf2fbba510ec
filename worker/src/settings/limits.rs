//! What jobs get when they do not say otherwise, and at most.

use toml::Value;

use crate::admit::{Bound, LimitTerms};

/// Nothing that is limited can be asked to be more.
const MOST: u64 = 1 << 40;

/// Reads `jobs.limits`: for each limit `NAME_default` and `NAME_max`, of those that have them. All mistakes at once.
pub(super) fn limits(value: &Value) -> Result<LimitTerms, String> {
    let mut terms = LimitTerms::default();
    let mut fields: Vec<(&str, &mut u64)> = vec![
        ("wall_ms_default", &mut terms.wall_ms.default),
        ("wall_ms_max", &mut terms.wall_ms.max),
        ("cpu_ms_max", &mut terms.cpu_max_ms),
        ("output_kib_default", &mut terms.output_kib.default),
        ("output_kib_max", &mut terms.output_kib.max),
        ("processes_default", &mut terms.processes.default),
        ("processes_max", &mut terms.processes.max),
        ("disk_mib_default", &mut terms.disk_default_mib),
        ("files_default", &mut terms.files.default),
        ("files_max", &mut terms.files.max),
    ];
    let known = fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let table = value.as_table().ok_or_else(|| format!("{value} given; allowed is a table of {known}"))?;
    let mut wrong = Vec::new();
    for (name, value) in table {
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
        match (fields.iter_mut().find(|(known, _)| known == name), number) {
            (None, _) => wrong.push(format!("{name} is not known; known are {known}")),
            (Some((_, field)), Some(number @ 1..=MOST)) => **field = number,
            _ => wrong.push(format!("{name} is {value}; allowed is a whole number from 1 to {MOST}")),
        }
    }
    let LimitTerms { wall_ms, output_kib, processes, files, .. } = &mut terms;
    for (name, bound) in
        [("wall_ms", wall_ms), ("output_kib", output_kib), ("processes", processes), ("files", files)]
    {
        wrong.extend(ordered(name, bound, table.contains_key(&format!("{name}_default"))));
    }
    if wrong.is_empty() { Ok(terms) } else { Err(wrong.join("; ")) }
}

/// A default that was not written goes down with its maximum; one that was is a mistake above it.
fn ordered(name: &str, bound: &mut Bound, written: bool) -> Option<String> {
    if bound.default <= bound.max {
        return None;
    }
    if written {
        let Bound { default, max } = bound;
        return Some(format!("{name}_default is {default}, above {name}_max, which is {max}"));
    }
    bound.default = bound.max;
    None
}

#[cfg(test)]
mod tests {
    use super::{super::Settings, *};

    fn parse(limits: &str) -> Result<Settings, String> {
        let text = format!("[broker]\nurl = \"amqp://x\"\n[jobs.limits]\n{limits}");
        Settings::parse(&text, &|_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_said_stays_within_what_is() {
        let limits = parse("wall_ms_max = 5000\nprocesses_default = 8\n").unwrap().limits;
        assert_eq!(limits.wall_ms, Bound { default: 5000, max: 5000 });
        assert_eq!(limits.processes, Bound { default: 8, ..LimitTerms::default().processes });
        assert_eq!(parse("").unwrap().limits, LimitTerms::default());
    }

    #[test]
    fn all_mistakes_are_said_at_once() {
        let said = parse(
            "wall_ms_max = 0\nfiles_default = 9\nfiles_max = 8\ncolour = 1\noutput_kib_max = \"much\"\n",
        )
        .unwrap_err();
        for part in [
            "wall_ms_max is 0",
            "files_default is 9, above files_max",
            "colour is not known",
            "output_kib_max is \"much\"",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
