//! VMs that are kept warm at certain times, whatever the load.

use std::{str::FromStr, time::Duration};

use croner::Cron;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use toml::Value;

use super::pool::runtime;

/// The longest time for which one occurrence counts.
const LASTS_MAX_S: i64 = 7 * 86_400;

/// One line of `pool.schedule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prewarm {
    /// Of which runtime.
    pub runtime: String,
    /// When it begins, as cron says it; in UTC.
    pub at: String,
    /// How many VMs are warm at least.
    pub warm: u32,
    /// How long.
    pub lasts: Duration,
}

impl Prewarm {
    /// How many warm VMs it asks for at a second since 1970.
    pub fn warm_at(&self, unix_seconds: i64) -> u32 {
        let began = self.last_begin(unix_seconds);
        let lasts = i64::try_from(self.lasts.as_secs()).unwrap_or(i64::MAX);
        if began.is_some_and(|began| unix_seconds.saturating_sub(began) < lasts) { self.warm } else { 0 }
    }

    /// When it last began, as a second since 1970.
    fn last_begin(&self, unix_seconds: i64) -> Option<i64> {
        let cron = Cron::from_str(&self.at).ok()?;
        let began = cron.find_previous_occurrence(&civil(unix_seconds)?, true).ok()?;
        seconds(began)
    }

    /// When it begins next, after that second.
    pub fn next_begin(&self, unix_seconds: i64) -> Option<i64> {
        let cron = Cron::from_str(&self.at).ok()?;
        seconds(cron.find_next_occurrence(&civil(unix_seconds)?, false).ok()?)
    }
}

fn civil(unix_seconds: i64) -> Option<DateTime> {
    Some(Timestamp::from_second(unix_seconds).ok()?.to_zoned(TimeZone::UTC).datetime())
}

fn seconds(at: DateTime) -> Option<i64> {
    Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

/// Reads `pool.schedule`.
pub(super) fn prewarms(value: &Value) -> Result<Vec<Prewarm>, String> {
    let all = value.as_array().ok_or_else(|| format!("{value} given; allowed is a list of tables"))?;
    all.iter().map(prewarm).collect()
}

fn prewarm(value: &Value) -> Result<Prewarm, String> {
    let wrong = |what: &str| format!("{value}: {what}");
    let table = value.as_table().ok_or_else(|| wrong("allowed is a table"))?;
    let known = ["runtime", "at", "warm", "lasts_s"];
    if let Some(unknown) = table.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(wrong(&format!("{unknown} is not known; known are {}", known.join(", "))));
    }
    let runtime = runtime(table.get("runtime")).ok_or_else(|| wrong("runtime must be a runtime's name"))?;
    let at = table
        .get("at")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("at must be given, such as \"0 8 * * 1-5\""))?;
    Cron::from_str(at).map_err(|error| wrong(&format!("at is no cron pattern: {error}")))?;
    let number = |name: &str, (low, high): (i64, i64)| {
        let number =
            table.get(name).and_then(Value::as_integer).filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| wrong(&format!("{name} must be a whole number from {low} to {high}")))
    };
    let warm = u32::try_from(number("warm", (1, 10_000))?).unwrap_or(u32::MAX);
    let lasts = Duration::from_secs(number("lasts_s", (1, LASTS_MAX_S))?.unsigned_abs());
    Ok(Prewarm { runtime, at: at.to_owned(), warm, lasts })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Prewarm>, String> {
        let table: toml::Table = text.parse().unwrap();
        prewarms(&table["schedule"])
    }

    #[test]
    fn a_working_day_is_warm_from_eight_to_six_and_a_sunday_is_not() {
        let schedule =
            parse("schedule = [{ runtime = \"python\", at = \"0 8 * * 1-5\", warm = 20, lasts_s = 36000 }]")
                .unwrap();
        let warm = |at: &str| schedule[0].warm_at(at.parse::<Timestamp>().unwrap().as_second());
        // 2026-11-20 is a Friday.
        assert_eq!(warm("2026-11-20T07:59:59Z"), 0);
        assert_eq!(warm("2026-11-20T08:00:00Z"), 20);
        assert_eq!(warm("2026-11-20T17:59:59Z"), 20);
        assert_eq!(warm("2026-11-20T18:00:00Z"), 0);
        assert_eq!(warm("2026-11-22T12:00:00Z"), 0);
        let friday_evening = "2026-11-20T20:00:00Z".parse::<Timestamp>().unwrap().as_second();
        let monday = "2026-11-23T08:00:00Z".parse::<Timestamp>().unwrap().as_second();
        assert_eq!(schedule[0].next_begin(friday_evening), Some(monday));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, what) in [
            ("schedule = 3", "a list"),
            ("schedule = [{ runtime = \"p q\", at = \"* * * * *\", warm = 1, lasts_s = 1 }]", "runtime"),
            ("schedule = [{ runtime = \"p\", at = \"61 * * * *\", warm = 1, lasts_s = 1 }]", "cron"),
            ("schedule = [{ runtime = \"p\", at = \"* * * * *\", warm = 0, lasts_s = 1 }]", "warm"),
            ("schedule = [{ runtime = \"p\", at = \"* * * * *\", warm = 1, last = 1 }]", "last is not known"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(what), "{said}");
        }
    }
}
