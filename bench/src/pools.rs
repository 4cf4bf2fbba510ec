//! Pools against each other under made-up loads, in virtual time: ours, one that knows the future, one of fixed size, and
//! one that keeps some VMs beside those in use. None of it depends on the machine.

use std::{fmt::Write as _, time::Duration};

use hearth_pool::scale::{
    gate::{Cost, Limits},
    lanes::LaneRules,
    scaler::{Policy, Rule},
    sim::{Job, Keep, LoadShape, Report, SimRuntime, Takes, World, load, simulate},
};
use serde::Serialize;

/// Runs of each.
pub const SEEDS: u64 = 20;
/// Learning takes this long; it is not counted as steady.
const LEARNING: Duration = Duration::from_secs(20);
/// After a step.
const AFTER: Duration = Duration::from_secs(10);
const RESTORE: Duration = Duration::from_millis(500);
const SERVICE: Duration = Duration::from_secs(1);
const LEAD_IN: Duration = Duration::from_secs(30);

/// A load and what may be used for it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// What it is called.
    pub name: &'static str,
    /// How claims come.
    pub shape: LoadShape,
    /// How long.
    pub lasts: Duration,
    /// VMs that are restored at once.
    pub turns: u32,
    /// VMs at once.
    pub slots: u32,
}

/// What one pool did, averaged over seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The load.
    pub load: &'static str,
    /// The pool.
    pub pool: &'static str,
    /// Hit ratio of all claims.
    pub hits: f64,
    /// Before the step; of all, where there is none.
    pub hits_steady: f64,
    /// In the ten seconds after the step.
    pub hits_after: f64,
    /// From then on.
    pub hits_later: f64,
    /// 99 of a hundred claims waited no longer.
    pub wait_p99_ms: f64,
    /// VMs that existed, on average.
    pub vms: f64,
    /// Over those of the pool that knows the future.
    pub vms_ratio: f64,
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The loads of the table.
pub fn settings() -> Vec<Setting> {
    let step = LoadShape::Step { from: 14.0, to: 56.0, at: seconds(120) };
    let slow = LoadShape::Step { from: 1.4, to: 5.6, at: seconds(600) };
    let of = |name, shape, lasts, turns, slots| Setting { name, shape, lasts: seconds(lasts), turns, slots };
    vec![
        of("14 to 56/s, 4 turns, 100 slots", step, 240, 4, 100),
        of("14 to 56/s, 32 turns, 100 slots", step, 240, 32, 100),
        of("14 to 56/s, 64 turns, 100 slots", step, 240, 64, 100),
        of("14 to 56/s, 64 turns, 140 slots", step, 240, 64, 140),
        of("1.4 to 5.6/s, 4 turns, 100 slots", slow, 1200, 4, 100),
        of(
            "bursts: 5 and 40/s, 30 s each, 64 turns",
            LoadShape::OnOff { low: 5.0, high: 40.0, each: seconds(30) },
            600,
            64,
            100,
        ),
        of(
            "a day in an hour: 2 to 50/s, 64 turns",
            LoadShape::Diurnal { low: 2.0, high: 50.0, day: seconds(3600) },
            3600,
            64,
            140,
        ),
    ]
}

fn world(setting: &Setting, keep: Keep, slots: u32, schedule: &[(Duration, u32)], seed: u64) -> World {
    let rule = Rule { floor: 1, ceiling: slots, cost: Cost { memory_mib: 256, cpu_milli: 1000 } };
    World {
        runtimes: vec![SimRuntime {
            rule,
            restore: Takes::always(RESTORE),
            destroy: Takes::always(Duration::ZERO),
            restores_seen: Vec::new(),
            schedule: schedule.to_vec(),
        }],
        limits: Limits::turns(setting.turns),
        lanes: LaneRules::default(),
        max_age: seconds(1800),
        keep,
        restore_cpu: RESTORE,
        wait_goal: Duration::ZERO,
        point: seconds(1),
        lead_in: LEAD_IN,
        seed,
    }
}

/// The pools under one load. The static one and the spare VMs are as large on average as ours turned out to be: they are
/// told what they could not know. Ours is there again with a higher promise, and, with a step, as one that at the very instant of the step begins to fill every slot. No
/// pool that learns of it from its claims can be ahead of that, so it bounds what can be had.
pub fn compare(setting: &Setting, seeds: u64) -> Vec<Line> {
    let loads: Vec<_> = (0..seeds).map(|seed| load(setting.shape, setting.lasts, SERVICE, seed)).collect();
    let run_with = |pool, keep: &Keep, slots, schedule: &[(Duration, u32)]| {
        let runs = loads.iter().zip(0..);
        let runs =
            runs.map(|(jobs, seed)| simulate(&world(setting, keep.clone(), slots, schedule, seed), jobs));
        line(setting, pool, &runs.collect::<Vec<_>>())
    };
    let run = |pool, keep: &Keep, slots| run_with(pool, keep, slots, &[]);
    let ours = run("ours", &Keep::Auto(Policy::default()), setting.slots);
    let clairvoyant = run("clairvoyant", &Keep::Clairvoyant, setting.slots);
    let size = ours.vms.round() as u32;
    let in_use = mean_in_use(&loads, setting.lasts);
    let spare = (ours.vms - in_use).round().max(1.0) as u32;
    let mut lines = vec![
        ours,
        clairvoyant,
        run("static, as large", &Keep::Fixed, size),
        run("in use and spare, as large", &Keep::Spare(spare), setting.slots),
    ];
    let promise = Policy { target_hit: 0.999, ..Policy::default() };
    lines.push(run("ours, target 99.9 %", &Keep::Auto(promise), setting.slots));
    if let LoadShape::Step { at, .. } = setting.shape {
        let told = [(at, setting.slots), (at + AFTER, 0)];
        lines.push(run_with("ours, told at the step", &Keep::Auto(Policy::default()), setting.slots, &told));
    }
    let least = lines.get(1).map_or(1.0, |line| line.vms);
    lines.iter_mut().for_each(|line| line.vms_ratio = line.vms / least);
    lines
}

fn mean_in_use(loads: &[Vec<Job>], lasts: Duration) -> f64 {
    let total: f64 = loads.iter().flatten().map(|job| job.takes.as_secs_f64()).sum();
    total / lasts.as_secs_f64() / loads.len().max(1) as f64
}

fn line(setting: &Setting, pool: &'static str, runs: &[Report]) -> Line {
    let step = match setting.shape {
        LoadShape::Step { at, .. } => at,
        _ => setting.lasts,
    };
    let mean =
        |value: &dyn Fn(&Report) -> f64| runs.iter().map(value).sum::<f64>() / runs.len().max(1) as f64;
    Line {
        load: setting.name,
        pool,
        hits: mean(&|run| run.hit_ratio),
        hits_steady: mean(&|run| run.hit_ratio_between(LEARNING, step)),
        hits_after: mean(&|run| run.hit_ratio_between(step, step + AFTER)),
        hits_later: mean(&|run| run.hit_ratio_between(step + AFTER, setting.lasts)),
        wait_p99_ms: mean(&|run| run.wait_p99_ms),
        vms: mean(&|run| run.vms_mean),
        vms_ratio: 1.0,
    }
}

/// For Markdown and for people.
pub fn table(lines: &[Line]) -> String {
    let mut table = String::from(
        "| load | pool | hits | steady | 10 s after the step | later | p99 wait | mean VMs | of clairvoyant |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let percent = |part: f64| format!("{:.1} %", part * 100.0);
    for line in lines {
        let step = line.load.contains(" to ") && !line.load.contains("day");
        let after = |part| if step { percent(part) } else { "-".to_owned() };
        let wait = match line.wait_p99_ms {
            ms if ms >= 10_000.0 => format!("{:.0} s", ms / 1e3),
            ms => format!("{ms:.0} ms"),
        };
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} | {wait} | {:.1} | {:.2} |",
            line.load,
            line.pool,
            percent(line.hits),
            percent(line.hits_steady),
            after(line.hits_after),
            after(line.hits_later),
            line.vms,
            line.vms_ratio,
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(name: &str) -> Vec<Line> {
        let all = settings();
        compare(all.iter().find(|setting| setting.name == name).unwrap(), SEEDS)
    }

    #[test]
    fn a_step_is_followed_for_little_more_than_the_least() {
        let lines = lines("14 to 56/s, 64 turns, 100 slots");
        let [ours, clairvoyant, fixed, spare, ..] = &lines[..] else { panic!("{lines:?}") };
        assert!(ours.hits_steady >= 0.99, "{ours:?}");
        assert!(ours.hits_after >= 0.90, "{ours:?}");
        assert!(ours.vms_ratio <= 1.5, "{ours:?}");
        // With 100 slots for 56/s times 1.5 s, claims wait even for who knows them all.
        assert!(ours.hits_later >= clairvoyant.hits_later - 0.01, "{ours:?} {clairvoyant:?}");
        assert!(fixed.hits < ours.hits - 0.2 && spare.hits < ours.hits - 0.2, "{lines:?}");
        let roomy = self::lines("14 to 56/s, 64 turns, 140 slots");
        assert!(roomy[0].hits_later >= 0.99, "{:?}", roomy[0]);
    }

    #[test]
    fn with_few_turns_a_step_takes_more_stock_than_the_default_promise_keeps() {
        let lines = lines("14 to 56/s, 32 turns, 100 slots");
        let [ours, _, _, _, higher, told] = &lines[..] else { panic!("{lines:?}") };
        // 64 restores a second for 56 claims: no reaction, however fast, fills what the step has emptied.
        assert!(ours.hits_after < told.hits_after && told.hits_after < 0.90, "{ours:?} {told:?}");
        assert!(
            higher.hits_steady >= 0.99 && higher.hits_after >= 0.90 && higher.vms_ratio <= 1.5,
            "{higher:?}"
        );
    }

    #[test]
    fn four_turns_cannot_restore_fourteen_vms_a_second() {
        let lines = lines("14 to 56/s, 4 turns, 100 slots");
        assert!(lines.iter().all(|line| line.hits < 0.1), "{lines:?}");
        let tenth = self::lines("1.4 to 5.6/s, 4 turns, 100 slots");
        assert!(tenth[0].hits_steady >= 0.99 && tenth[0].hits_after >= 0.90, "{:?}", tenth[0]);
    }
}
