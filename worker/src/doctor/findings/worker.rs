//! A worker, by its settings.

use std::collections::BTreeMap;

use super::{Finding, Level};
use crate::doctor::facts::Worker;

/// What it would keep here, and what keeps it from starting.
pub fn worker(settings: &Result<Worker, String>) -> Finding {
    let worker = match settings {
        Ok(worker) => worker,
        Err(why) => {
            return Finding::new("worker", Level::Fail, why)
                .remedy("correct the settings, or give another --config");
        }
    };
    let file = worker.file.display();
    if !worker.unbaked.is_empty() {
        let detail =
            format!("{file}: slots of {} and no snapshot that fits this host", worker.unbaked.join(", "));
        return Finding::new("worker", Level::Fail, detail)
            .remedy(format!("run: hearth bake {}", worker.unbaked.join(" ")));
    }
    let slots = match worker.slots.is_empty() {
        true => "one slot of each runtime that is baked".to_owned(),
        false => format!("slots of {}", counts(&worker.slots)),
    };
    let dormant = match worker.dormant.values().any(|count| *count > 0) {
        true => format!("dormant {}", counts(&worker.dormant)),
        false => "none dormant".to_owned(),
    };
    Finding::new("worker", Level::Ok, format!("{file}: {slots}; {dormant}"))
}

fn counts(by_name: &BTreeMap<String, u32>) -> String {
    by_name.iter().map(|(name, count)| format!("{name}: {count}")).collect::<Vec<_>>().join(", ")
}
