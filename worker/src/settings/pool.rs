//! What `[pool]` says: how many VMs are warm, and what they may take.

use std::{collections::BTreeMap, time::Duration};

use hearth_pool::{
    pool::{Bounds, Config, MAX_AGE},
    scale::{gate::Cost, lanes::LaneRules, scaler::Policy},
};
use hearth_schemas::job::is_name;
use toml::{Table, Value};

use super::{
    BadSettings, Overrides, by_name,
    prewarm::{Prewarm, prewarms},
    read::{Mistakes, Section},
    slots,
};

/// See [`super::Settings::pool`].
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSettings {
    /// How many VMs are warm follows the load; `None` keeps every slot filled.
    pub scaling: Option<Policy>,
    /// Memory of all VMs together.
    pub memory_mib: Option<u64>,
    /// Processors of all VMs together, in thousandths.
    pub cpu_milli: Option<u64>,
    /// VMs that are restored at once.
    pub restores_at_once: usize,
    /// Restores a second that no claim waits for.
    pub refills_per_second: Option<f64>,
    /// A VM that nobody has claimed is replaced by then.
    pub max_age: Duration,
    /// Who is served first.
    pub lanes: LaneRules,
    /// VMs that are kept warm at least, by runtime.
    pub floors: BTreeMap<String, u32>,
    /// VMMs without a guest that are kept in slots that are left over, by runtime.
    pub dormant: BTreeMap<String, u32>,
    /// When more are kept warm.
    pub schedule: Vec<Prewarm>,
}

impl PoolSettings {
    /// Reads only the slots and what `[pool]` says from a worker's settings, whatever else is in them.
    ///
    /// # Errors
    /// All mistakes in these two.
    pub fn of(whole: &Table) -> Result<(BTreeMap<String, u32>, Self), BadSettings> {
        let (mut whole, mut mistakes) = (whole.clone(), Mistakes::default());
        let slots = slots(&mut whole, &mut mistakes);
        let pool = Self::read(&mut whole, &|_| None, &slots, &mut mistakes);
        if mistakes.0.is_empty() { Ok((slots, pool)) } else { Err(BadSettings(mistakes.0)) }
    }

    pub(super) fn read(
        whole: &mut Table,
        overrides: Overrides<'_>,
        slots: &BTreeMap<String, u32>,
        mistakes: &mut Mistakes,
    ) -> Self {
        let (mut floors, mut dormant) = (BTreeMap::new(), BTreeMap::new());
        if let Some(Value::Table(pool)) = whole.get_mut("pool") {
            floors = by_name(pool, "floors", mistakes, how_many);
            dormant = by_name(pool, "dormant", mistakes, how_many);
        }
        let mut pool = Section::take(whole, "pool", overrides, mistakes);
        let known = Policy::default();
        let seconds = |time: Duration| time.as_secs();
        let auto = pool.field("mode", mistakes, mode).unwrap_or(false);
        let target_hit = pool.field("target_hit", mistakes, part).unwrap_or(known.target_hit);
        let target_wait = Duration::from_millis(pool.number("target_wait_ms", (0, 3_600_000), 0, mistakes));
        let decay = pool.number("decay_s", (1, 86_400), seconds(known.decay), mistakes);
        let keep_alive = pool.number("keep_alive_s", (0, 86_400), seconds(known.keep_alive), mistakes);
        let (decay, keep_alive) = (Duration::from_secs(decay), Duration::from_secs(keep_alive));
        let policy = Policy { target_hit, target_wait, decay, keep_alive };
        let memory_mib = pool.field("memory_budget_mib", mistakes, |value| whole_number(value, 1 << 30));
        let cpu = pool.field("cpu_budget", mistakes, |value| number(value, (0.001, 100_000.0)));
        let restores_at_once = pool.number("restores_at_once", (1, 1000), 2, mistakes);
        let refills_per_second =
            pool.field("refills_per_s", mistakes, |value| number(value, (0.001, 100_000.0)));
        let max_age = pool.number("max_age_s", (10, 30 * 86_400), seconds(MAX_AGE), mistakes);
        let reserve = pool.number("interactive_reserve", (0, 10_000), 0, mistakes);
        let patience = pool.field("lane_patience_ms", mistakes, patience);
        let schedule = pool.field("schedule", mistakes, prewarms).unwrap_or_default();
        pool.end(mistakes);
        if !auto && dormant.values().any(|count| *count > 0) {
            let why =
                "in mode \"fixed\" every slot has a VM, and none is left over; allowed is mode = \"auto\"";
            mistakes.note("pool.dormant", why.to_owned());
        }
        let scheduled = schedule.iter().map(|prewarm| &prewarm.runtime);
        for runtime in floors.keys().chain(dormant.keys()).chain(scheduled) {
            if !slots.is_empty() && !slots.contains_key(runtime) {
                mistakes.note(
                    "pool",
                    format!("{runtime:?} has a floor, a schedule or dormant VMMs and no slots"),
                );
            }
        }
        Self {
            scaling: auto.then_some(policy),
            memory_mib,
            cpu_milli: cpu.map(|cpu| (cpu * 1000.0).round() as u64),
            restores_at_once: usize::try_from(restores_at_once).unwrap_or(usize::MAX),
            refills_per_second,
            max_age: Duration::from_secs(max_age),
            lanes: LaneRules {
                patience: patience.unwrap_or(hearth_pool::scale::lanes::PATIENCE),
                reserve: u32::try_from(reserve).unwrap_or(u32::MAX),
            },
            floors,
            dormant,
            schedule,
        }
    }

    /// Tells a pool, whose VMs cost what `costs` says. The error says which floors the budget cannot hold.
    ///
    /// # Errors
    /// The budget has no room for the floors and one more VM of each runtime.
    pub fn apply(&self, config: &mut Config, costs: &BTreeMap<String, Cost>) -> Result<(), String> {
        self.has_room(costs)?;
        config.scaling = self.scaling;
        (config.memory_mib, config.cpu_milli) = (self.memory_mib, self.cpu_milli);
        config.restores_at_once = self.restores_at_once;
        config.refills_per_second = self.refills_per_second;
        config.max_age = self.max_age;
        config.lanes = self.lanes;
        let bounds = |(name, cost): (&String, &Cost)| {
            let dormant = self.dormant.get(name).copied().unwrap_or(0);
            (name.clone(), Bounds { floor: self.floor(name), cost: *cost, dormant })
        };
        config.bounds = costs.iter().map(bounds).collect();
        Ok(())
    }

    /// VMs of a runtime that are kept warm at least: one, unless told.
    pub fn floor(&self, runtime: &str) -> u32 {
        self.floors.get(runtime).copied().unwrap_or(1)
    }

    /// Whether the floors of all but one runtime leave room for a VM of that one. What does not fit would wait for ever.
    ///
    /// # Errors
    /// It says for which, and what to do.
    pub fn has_room(&self, costs: &BTreeMap<String, Cost>) -> Result<(), String> {
        for (name, cost) in costs {
            let others = costs.iter().filter(|(other, _)| *other != name && self.scaling.is_some());
            let (memory, cpu) =
                others.fold((cost.memory_mib, cost.cpu_milli), |(memory, cpu), (other, cost)| {
                    let floor = u64::from(self.floor(other));
                    (memory + floor * cost.memory_mib, cpu + floor * cost.cpu_milli)
                });
            if self.memory_mib.is_some_and(|budget| memory > budget) {
                return Err(format!(
                    "pool.memory_budget_mib: a VM of {name} and the floors of the other runtimes need {memory} MiB; \
                     raise it to that, or lower pool.floors"
                ));
            }
            if self.cpu_milli.is_some_and(|budget| cpu > budget) {
                let cpu = cpu as f64 / 1000.0;
                return Err(format!(
                    "pool.cpu_budget: a VM of {name} and the floors of the other runtimes need {cpu}; raise it to \
                     that, or lower pool.floors"
                ));
            }
        }
        Ok(())
    }

    /// How many warm VMs of a runtime the schedule asks for, at a second since 1970.
    pub fn scheduled(&self, runtime: &str, unix_seconds: i64) -> u32 {
        let own = self.schedule.iter().filter(|prewarm| prewarm.runtime == runtime);
        own.map(|prewarm| prewarm.warm_at(unix_seconds)).max().unwrap_or(0)
    }
}

fn how_many(value: &Value) -> Result<u32, &'static str> {
    let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
    number.filter(|number| *number <= 10_000).ok_or("allowed is a whole number from 0 to 10000")
}

fn mode(value: &Value) -> Result<bool, String> {
    match value.as_str() {
        Some("fixed") => Ok(false),
        Some("auto") => Ok(true),
        _ => Err(format!("{value} given; allowed: \"fixed\", \"auto\"")),
    }
}

fn number(value: &Value, (low, high): (f64, f64)) -> Result<f64, String> {
    let number = value.as_float().or_else(|| value.as_integer().map(|number| number as f64));
    number
        .filter(|number| (low..=high).contains(number))
        .ok_or_else(|| format!("{value} given; allowed is a number from {low} to {high}"))
}

fn part(value: &Value) -> Result<f64, String> {
    number(value, (0.01, 0.99999))
}

fn whole_number(value: &Value, high: u64) -> Result<u64, String> {
    let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
    number
        .filter(|number| (1..=high).contains(number))
        .ok_or_else(|| format!("{value} given; allowed is a whole number from 1 to {high}"))
}

fn patience(value: &Value) -> Result<[Duration; 3], String> {
    let wrong = || {
        format!("{value} given; allowed are three whole numbers of milliseconds, none below the one before")
    };
    let all = value.as_array().ok_or_else(wrong)?;
    let ms =
        |value: &Value| value.as_integer().and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    let all = all.iter().map(ms).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
    let all = <[Duration; 3]>::try_from(all).map_err(|_| wrong())?;
    if all.is_sorted() { Ok(all) } else { Err(wrong()) }
}

/// Whether a text is a runtime's name, for the schedule.
pub(super) fn runtime(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).filter(|name| is_name(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PoolSettings, String> {
        let whole: Table = text.parse().unwrap();
        PoolSettings::of(&whole).map(|(_, pool)| pool).map_err(|error| error.to_string())
    }

    #[test]
    fn every_field_is_read_and_all_mistakes_are_said() {
        let pool = parse(
            "[slots]\npython = 8\n[pool]\nmode = \"auto\"\ntarget_hit = 0.95\ntarget_wait_ms = 200\n\
             memory_budget_mib = 4096\ncpu_budget = 2.5\nrestores_at_once = 4\nrefills_per_s = 2\nmax_age_s = 600\n\
             interactive_reserve = 1\nlane_patience_ms = [0, 1000, 2000]\nfloors = { python = 2 }\n\
             dormant = { python = 3 }\n",
        );
        let pool = pool.unwrap();
        let policy = pool.scaling.unwrap();
        assert_eq!((policy.target_hit, policy.target_wait), (0.95, Duration::from_millis(200)));
        assert_eq!(
            (pool.memory_mib, pool.cpu_milli, pool.refills_per_second),
            (Some(4096), Some(2500), Some(2.0))
        );
        assert_eq!((pool.lanes.reserve, pool.lanes.patience[2]), (1, Duration::from_secs(2)));
        assert_eq!((pool.floor("python"), pool.floor("gcc")), (2, 1));
        assert_eq!(pool.dormant["python"], 3);
        assert_eq!(parse("").unwrap().scaling, None, "fixed unless told");
        let fixed = parse("[slots]\npython = 8\n[pool]\ndormant = { python = 1 }\n").unwrap_err();
        assert!(fixed.contains("pool.dormant") && fixed.contains("allowed is mode = \"auto\""), "{fixed}");
        let mode = "[slots]\npython = 8\n[pool]\nmode = \"auto\"\n";
        let none = parse(&format!("{mode}dormant = {{ gcc = 1 }}\n")).unwrap_err();
        assert!(none.contains("\"gcc\" has a floor, a schedule or dormant VMMs and no slots"), "{none}");
        let wrong = parse(&format!("{mode}dormant = {{ python = -1 }}\n")).unwrap_err();
        assert!(wrong.contains("dormant.python") && wrong.contains("from 0 to 10000"), "{wrong}");
        let said = parse(
            "[slots]\npython = 1\n[pool]\nmode = \"clever\"\ntarget_hit = 1.0\nmemory_budget_mib = 0\n\
             lane_patience_ms = [5, 1, 2]\nfloors = { gcc = 1, python = -1 }\ncolour = 1\n",
        );
        let said = said.unwrap_err();
        for place in
            ["pool.mode", "target_hit", "memory_budget_mib", "lane_patience_ms", "floors.python", "colour"]
        {
            assert!(said.contains(place), "{place} is not in\n{said}");
        }
    }

    #[test]
    fn floors_that_leave_no_room_are_refused_with_what_would_do() {
        let cost = |memory_mib| Cost { memory_mib, cpu_milli: 1000 };
        let costs = BTreeMap::from([("python".to_owned(), cost(256)), ("gcc".to_owned(), cost(512))]);
        let pool =
            parse("[pool]\nmode = \"auto\"\nmemory_budget_mib = 1000\nfloors = { python = 2 }\n").unwrap();
        let said = pool.has_room(&costs).unwrap_err();
        assert!(said.contains("a VM of gcc") && said.contains("1024 MiB"), "{said}");
        let pool =
            parse("[pool]\nmode = \"auto\"\nmemory_budget_mib = 1024\nfloors = { python = 2 }\n").unwrap();
        pool.has_room(&costs).unwrap();
    }
}
