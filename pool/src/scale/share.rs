//! One budget for several runtimes.
//!
//! Each further warm VM of a runtime is worth the probability that it would be missed. That falls with every VM, so
//! giving the next one to whoever has the highest worth for its cost until the budget is spent leaves the fewest
//! claims waiting (Sherbrooke's marginal analysis). What a runtime has already is worth a quarter more to it, so that two of
//! equal need do not take a VM from each other at every tick. The cost is the dominant one of memory and processors.

use super::{
    gate::{Cost, Limits},
    stock::Curve,
};

/// How much more a VM is worth to the runtime that has it.
const KEEP_FACTOR: f64 = 1.25;
/// A VM for which a claim waits, against one that is missed for certain and kept.
const WAITING_WORTH: f64 = 2.0;
/// A VM below the floor goes before everything else.
const FLOOR_WORTH: f64 = 10.0;

/// What one runtime asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What each VM is worth.
    pub curve: Curve,
    /// VMs to keep warm, were there room for all.
    pub wanted: u32,
    /// Of those, the ones that it gets before others get more.
    pub floor: u32,
    /// Claims that wait for one.
    pub waiting: u32,
    /// What it was given last.
    pub had: u32,
    /// Of one VM.
    pub cost: Cost,
}

impl Wish {
    fn worth(&self, n: u32) -> f64 {
        let kept = if n <= self.had { KEEP_FACTOR } else { 1.0 };
        let floor = if n <= self.floor { FLOOR_WORTH } else { 0.0 };
        // Warmth that outlasts its reason is worth a little, too.
        let missed = match n.checked_sub(self.waiting) {
            None | Some(0) => WAITING_WORTH,
            Some(beyond) => self.curve.worth(beyond).max(1e-9),
        };
        floor + kept * missed
    }
}

/// Divides what VMs in use leave of the budget.
pub fn share(wishes: &[Wish], limits: &Limits, in_use: Cost) -> Vec<u32> {
    let left = |limit: Option<u64>, used: u64| limit.map_or(u64::MAX, |limit| limit.saturating_sub(used));
    let mut memory = left(limits.memory_mib, in_use.memory_mib);
    let mut cpu = left(limits.cpu_milli, in_use.cpu_milli);
    let part = |cost: u64, limit: Option<u64>| limit.map_or(0.0, |limit| cost as f64 / limit.max(1) as f64);
    let weight = |cost: Cost| {
        part(cost.memory_mib, limits.memory_mib).max(part(cost.cpu_milli, limits.cpu_milli)).max(1e-12)
    };
    let mut given = vec![0; wishes.len()];
    loop {
        let open = wishes.iter().zip(&given).enumerate().filter(|(_, (wish, given))| {
            **given < wish.wanted && wish.cost.memory_mib <= memory && wish.cost.cpu_milli <= cpu
        });
        let worth = |wish: &Wish, given: u32| wish.worth(given + 1) / weight(wish.cost);
        let best =
            open.max_by(|(a, (x, n)), (b, (y, m))| worth(x, **n).total_cmp(&worth(y, **m)).then(b.cmp(a)));
        let Some((number, (wish, _))) = best else { return given };
        memory -= wish.cost.memory_mib;
        cpu -= wish.cost.cpu_milli;
        if let Some(given) = given.get_mut(number) {
            *given += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scale::{arrivals::Arrivals, stock::Supply};

    fn wish(rate: f64, wanted: u32, floor: u32, had: u32, memory_mib: u64) -> Wish {
        let mut arrivals = Arrivals::new(rate);
        arrivals.observe((rate * 100.0) as u32, Duration::from_secs(100));
        let supply = Supply { lead: 0.5, lead_cv2: 0.0, turns: 100, used_by_others: 0.0, wait: 0.0 };
        let curve = Curve::new(&arrivals, &supply, 200);
        Wish { curve, wanted, floor, waiting: 0, had, cost: Cost { memory_mib, cpu_milli: 0 } }
    }

    fn limits(memory_mib: u64) -> Limits {
        Limits { memory_mib: Some(memory_mib), ..Limits::turns(8) }
    }

    #[test]
    fn with_room_for_all_everyone_gets_what_it_wants() {
        let wishes = [wish(10.0, 12, 1, 0, 100), wish(1.0, 3, 1, 0, 100)];
        assert_eq!(share(&wishes, &limits(10_000), Cost::default()), [12, 3]);
        assert_eq!(share(&wishes, &Limits::turns(8), Cost::default()), [12, 3], "no budget is no bound");
    }

    #[test]
    fn a_scarce_budget_goes_where_it_is_worth_most_and_is_never_exceeded() {
        let wishes = [wish(20.0, 20, 1, 0, 100), wish(2.0, 5, 1, 0, 100), wish(0.01, 1, 0, 0, 100)];
        for budget in [0, 100, 450, 1000, 1500] {
            let given = share(&wishes, &limits(budget), Cost::default());
            assert!(given.iter().sum::<u32>() * 100 <= budget as u32, "{budget}: {given:?}");
        }
        let given = share(&wishes, &limits(1200), Cost::default());
        assert!(given[0] > 3 * given[1] && given[1] >= 1 && given[2] == 0, "{given:?}");
        let half = share(&wishes, &limits(1200), Cost { memory_mib: 600, cpu_milli: 0 });
        assert_eq!(half.iter().sum::<u32>(), 6, "what is in use cannot be given");
    }

    #[test]
    fn floors_come_first_and_large_vms_must_be_worth_their_memory() {
        let wishes = [wish(20.0, 20, 0, 0, 100), wish(0.001, 1, 1, 0, 100)];
        assert_eq!(share(&wishes, &limits(300), Cost::default()), [2, 1]);
        let sizes = [wish(5.0, 8, 0, 0, 800), wish(5.0, 8, 0, 0, 100)];
        let given = share(&sizes, &limits(1600), Cost::default());
        assert!(given[1] >= 5 && given[0] <= 1, "{given:?}");
    }

    #[test]
    fn a_claim_that_waits_goes_before_warmth_for_claims_that_may_come() {
        let waits = Wish { waiting: 4, ..wish(0.001, 5, 0, 0, 100) };
        let given = share(&[wish(20.0, 20, 2, 10, 100), waits], &limits(1000), Cost::default());
        assert_eq!(given, [6, 4]);
    }

    #[test]
    fn equals_do_not_take_vms_from_each_other() {
        let budget = limits(1000);
        let mut had = share(&[wish(10.0, 9, 0, 0, 100), wish(10.0, 9, 0, 0, 100)], &budget, Cost::default());
        assert_eq!(had, [5, 5]);
        // Rates that waver by a tenth, now one way and now the other.
        for round in 0..20 {
            let (a, b) = if round % 2 == 0 { (10.5, 9.5) } else { (9.5, 10.5) };
            let wishes = [wish(a, 9, 0, had[0], 100), wish(b, 9, 0, had[1], 100)];
            let now = share(&wishes, &budget, Cost::default());
            assert_eq!(now, [5, 5], "round {round}");
            had = now;
        }
        let wishes = [wish(20.0, 15, 0, had[0], 100), wish(1.0, 3, 0, had[1], 100)];
        let moved = share(&wishes, &budget, Cost::default());
        assert!(moved[0] >= 7, "a real change moves them: {moved:?}");
    }
}
