//! A trace, under some settings.

use std::{collections::BTreeMap, time::Duration};

use hearth_pool::scale::{
    gate::{Cost, Limits},
    scaler::Rule,
    sim::{Keep, Report, SimRuntime, Takes, World, simulate},
};
use serde::Serialize;
use toml::{Table, Value};

use super::trace::Trace;
use crate::settings::{BadSettings, PoolSettings};

/// Points of a report, about.
const POINTS: u32 = 600;
/// How long the pool has to fill before the load begins.
const LEAD_IN: Duration = Duration::from_secs(60);

/// What settings do not say and a simulation needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumptions {
    /// From a turn to Ready.
    pub restore: Named<Takes>,
    /// From the end of a claim until the slot is vacant.
    pub destroy: Duration,
    /// Memory of a VM.
    pub vm_memory_mib: Named<u64>,
    /// Processors of a VM, in thousandths.
    pub cpu_milli: u64,
    /// Processor time of one restore; as long as the restore unless known.
    pub restore_cpu: Option<Duration>,
    /// Of everything that is random.
    pub seed: u64,
}

/// A value for all runtimes, and others for some.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T> {
    /// For all.
    pub all: T,
    /// For some.
    pub some: BTreeMap<String, T>,
}

impl<T: Copy> Named<T> {
    fn of(&self, name: &str) -> T {
        self.some.get(name).copied().unwrap_or(self.all)
    }
}

/// Settings to simulate.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What it is called in tables.
    pub name: String,
    /// Slots by runtime.
    pub slots: BTreeMap<String, u32>,
    /// The pool.
    pub pool: PoolSettings,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The scenario's name.
    pub name: String,
    /// What was measured.
    pub report: Report,
}

/// Why settings cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// No TOML.
    #[error("{0}: not TOML: {1}")]
    Toml(String, toml::de::Error),
    /// They are wrong.
    #[error("{0}: {1}")]
    Settings(String, BadSettings),
    /// A change is no `NAME=VALUE`.
    #[error("{0:?}: allowed is a setting and its value, such as pool.target_wait_ms=100")]
    Change(String),
    /// The trace has a runtime without slots.
    #[error("{name}: the trace has jobs of {runtime}, which has no slots; set slots.{runtime}")]
    NoSlots {
        /// The scenario.
        name: String,
        /// The runtime.
        runtime: String,
    },
    /// The budget is too small.
    #[error("{name}: {what}")]
    NoRoom {
        /// The scenario.
        name: String,
        /// What to do.
        what: String,
    },
}

/// Settings from a worker's file, with changes on top.
///
/// # Errors
/// What is wrong with them. Only `slots` and `pool` are looked at.
pub fn settings(name: &str, text: &str, changes: &[String]) -> Result<Scenario, ScenarioError> {
    let mut whole: Table = text.parse().map_err(|error| ScenarioError::Toml(name.to_owned(), error))?;
    for change in changes {
        let wrong = || ScenarioError::Change(change.clone());
        let (path, value) = change.split_once('=').ok_or_else(wrong)?;
        let (section, field) = path.trim().split_once('.').ok_or_else(wrong)?;
        // As TOML when it is that, else as plain text.
        let read = format!("x = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("x"));
        let mut table = &mut whole;
        for part in std::iter::once(section).chain(field.rsplit_once('.').map(|(parents, _)| parents)) {
            let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().ok_or_else(wrong)?;
        }
        let last = field.rsplit_once('.').map_or(field, |(_, last)| last);
        table.insert(last.to_owned(), read.unwrap_or_else(|| Value::String(value.to_owned())));
    }
    let (slots, pool) =
        PoolSettings::of(&whole).map_err(|error| ScenarioError::Settings(name.to_owned(), error))?;
    Ok(Scenario { name: name.to_owned(), slots, pool })
}

impl Scenario {
    /// Simulates a trace. `wait_goal` is what the report counts jobs against.
    ///
    /// # Errors
    /// Slots are missing, or the budget has no room.
    pub fn run(
        &self,
        trace: &Trace,
        assumed: &Assumptions,
        wait_goal: Duration,
    ) -> Result<Outcome, ScenarioError> {
        let world = self.world(trace, assumed, wait_goal)?;
        Ok(Outcome { name: self.name.clone(), report: simulate(&world, &trace.jobs) })
    }

    fn world(
        &self,
        trace: &Trace,
        assumed: &Assumptions,
        wait_goal: Duration,
    ) -> Result<World, ScenarioError> {
        let lasts = trace.jobs.last().map_or(Duration::ZERO, |job| job.at);
        let mut runtimes = Vec::new();
        let mut costs = BTreeMap::new();
        for name in &trace.runtimes {
            let no_slots = || ScenarioError::NoSlots { name: self.name.clone(), runtime: name.clone() };
            let ceiling = self.slots.get(name).copied().ok_or_else(no_slots)?;
            let cost = Cost { memory_mib: assumed.vm_memory_mib.of(name), cpu_milli: assumed.cpu_milli };
            costs.insert(name.clone(), cost);
            runtimes.push(SimRuntime {
                rule: Rule { floor: self.pool.floor(name), ceiling, cost },
                restore: assumed.restore.of(name),
                destroy: Takes::always(assumed.destroy),
                restores_seen: Vec::new(),
                schedule: self.schedule(name, trace.begins, lasts),
            });
        }
        let no_room = |what| ScenarioError::NoRoom { name: self.name.clone(), what };
        self.pool.has_room(&costs).map_err(no_room)?;
        Ok(World {
            runtimes,
            limits: Limits {
                restores_at_once: u32::try_from(self.pool.restores_at_once).unwrap_or(u32::MAX),
                memory_mib: self.pool.memory_mib,
                cpu_milli: self.pool.cpu_milli,
                refills_per_second: self.pool.refills_per_second,
                gentle: true,
            },
            lanes: self.pool.lanes,
            max_age: self.pool.max_age,
            keep: self.pool.scaling.map_or(Keep::Fixed, Keep::Auto),
            restore_cpu: assumed.restore_cpu.unwrap_or(assumed.restore.all.mean),
            wait_goal,
            point: (lasts / POINTS).max(Duration::from_secs(1)),
            lead_in: LEAD_IN,
            seed: assumed.seed,
        })
    }

    /// What the schedule asks for, as steps over the trace. A trace without dates has no schedule.
    fn schedule(&self, runtime: &str, begins: Option<i64>, lasts: Duration) -> Vec<(Duration, u32)> {
        let Some(begins) = begins else { return Vec::new() };
        let ends = begins.saturating_add(i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX));
        let mut edges = vec![begins];
        for prewarm in self.pool.schedule.iter().filter(|prewarm| prewarm.runtime == runtime) {
            let lasts = i64::try_from(prewarm.lasts.as_secs()).unwrap_or(i64::MAX);
            let mut at = begins.saturating_sub(lasts).saturating_sub(1);
            while let Some(next) = prewarm.next_begin(at).filter(|next| *next <= ends && *next > at) {
                edges.extend([next, next.saturating_add(lasts)]);
                at = next;
            }
        }
        edges.retain(|edge| (begins..=ends).contains(edge));
        edges.sort_unstable();
        edges.dedup();
        let step =
            |edge: i64| (Duration::from_secs(edge.abs_diff(begins)), self.pool.scheduled(runtime, edge));
        edges.into_iter().map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{TraceFormat, read_trace};

    fn assumed() -> Assumptions {
        let all = Takes::always(Duration::from_millis(500));
        Assumptions {
            restore: Named { all, some: BTreeMap::new() },
            destroy: Duration::from_millis(50),
            vm_memory_mib: Named { all: 256, some: BTreeMap::from([("gcc".to_owned(), 512)]) },
            cpu_milli: 1000,
            restore_cpu: None,
            seed: 1,
        }
    }

    fn trace(text: &str) -> Trace {
        read_trace(format!("arrival,runtime,duration\n{text}").as_bytes(), TraceFormat::Csv).unwrap()
    }

    #[test]
    fn changes_go_on_top_and_only_what_the_pool_reads_matters() {
        let file = "[broker]\nurl = 3\n[slots]\npython = 4\n[pool]\nmode = \"fixed\"\n";
        let changes = ["pool.mode=auto", "pool.target_wait_ms = 250", "slots.gcc=2", "pool.floors.gcc=2"];
        let changed = settings("proposed", file, &changes.map(str::to_owned)).unwrap();
        assert_eq!(changed.pool.scaling.unwrap().target_wait, Duration::from_millis(250));
        assert_eq!((changed.slots["python"], changed.slots["gcc"], changed.pool.floor("gcc")), (4, 2, 2));
        for wrong in ["pool", "mode=auto", "pool.mode=sometimes", "pool.colour=1", "slots.python=0"] {
            assert!(settings("proposed", file, &[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_slot_serves_jobs_one_after_the_other() {
        let jobs = trace("0,python,1\n0,python,1\n0,python,1\n");
        let scenario = settings("current", "[slots]\npython = 1\n", &[]).unwrap();
        let report = scenario.run(&jobs, &assumed(), Duration::from_secs(2)).unwrap().report;
        // One VM is Ready; each further job waits for service, destroy and restore of those before it.
        assert_eq!((report.jobs, report.hits), (3, 1));
        assert!((report.wait_max_ms - 2.0 * 1550.0).abs() < 1.0, "{report:?}");
        assert!((report.within - 2.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_missing_is_said() {
        let jobs = trace("0,python,1\n1,gcc,1\n");
        let scenario = settings("current", "[slots]\npython = 1\n", &[]).unwrap();
        let said = scenario.run(&jobs, &assumed(), Duration::ZERO).unwrap_err().to_string();
        assert!(said.contains("set slots.gcc"), "{said}");
        let small = "[slots]\npython = 1\ngcc = 1\n[pool]\nmemory_budget_mib = 300\n";
        let scenario = settings("current", small, &[]).unwrap();
        let said = scenario.run(&jobs, &assumed(), Duration::ZERO).unwrap_err().to_string();
        assert!(said.contains("memory_budget_mib"), "{said}");
    }

    #[test]
    fn a_schedule_warms_a_trace_that_has_dates() {
        let text = "[slots]\npython = 30\n[pool]\nmode = \"auto\"\nkeep_alive_s = 60\n\
                    schedule = [{ runtime = \"python\", at = \"0 8 * * *\", warm = 20, lasts_s = 600 }]\n";
        let scheduled = settings("scheduled", text, &[]).unwrap();
        // Twenty at eight sharp, after one at seven.
        let mut rows = "2026-11-20T07:00:00Z,python,1\n".to_owned();
        (0..20).for_each(|_| rows += "2026-11-20T08:00:30Z,python,1\n");
        let jobs = trace(&rows);
        let hits = |scenario: &Scenario| scenario.run(&jobs, &assumed(), Duration::ZERO).unwrap().report.hits;
        assert_eq!(hits(&scheduled), 21);
        let none =
            Scenario { pool: PoolSettings { schedule: Vec::new(), ..scheduled.pool.clone() }, ..scheduled };
        assert!(hits(&none) <= 3, "{}", hits(&none));
    }
}
