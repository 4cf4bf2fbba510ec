//! Turns, budget, pace, and how a new snapshot takes over.

use super::*;

const NOW: Duration = Duration::from_secs(1);

fn gate(limits: Limits, lines: &[(u64, u32, u32)]) -> Gate {
    let line = |(memory_mib, target, asking): &(u64, u32, u32)| Line {
        cost: Cost { memory_mib: *memory_mib, cpu_milli: 0 },
        slots: *asking,
        target: *target,
        asking: *asking,
        ..Line::default()
    };
    Gate::new(limits, lines.iter().map(line).collect())
}

fn all(gate: &mut Gate, now: Duration) -> Vec<usize> {
    std::iter::from_fn(|| gate.next(now)).collect()
}

#[test]
fn refills_stop_at_the_target_and_go_where_the_smallest_part_is() {
    let mut gate = gate(Limits::turns(100), &[(1, 4, 10), (1, 2, 10)]);
    assert_eq!(all(&mut gate, NOW), [0, 1, 0, 0, 1, 0]);
    gate.set_target(0, 2);
    (0..4).for_each(|_| gate.ready(0));
    assert_eq!((gate.surplus(0), gate.surplus(1)), (2, 0));
}

#[test]
fn the_budget_is_never_exceeded_and_comes_back_when_a_vm_is_gone() {
    let limits = Limits { memory_mib: Some(1000), ..Limits::turns(100) };
    let mut gate = gate(limits, &[(300, 10, 10)]);
    assert_eq!(all(&mut gate, NOW).len(), 3);
    gate.ready(0);
    gate.taken(0);
    assert_eq!(gate.next(NOW), None, "it is claimed, and holds its memory");
    gate.gone(0);
    assert_eq!((gate.next(NOW), gate.memory_mib()), (Some(0), 900));
}

#[test]
fn a_waiting_claim_goes_before_refills_and_its_memory_is_kept_for_it() {
    let limits = Limits { memory_mib: Some(1000), ..Limits::turns(100) };
    let mut gate = gate(limits, &[(100, 10, 10), (900, 0, 1), (2000, 0, 1)]);
    assert_eq!(gate.next(NOW), Some(0));
    gate.set_waiting(1, 1, Some(NOW));
    assert_eq!(gate.next(NOW), Some(1));
    gate.failed(1);
    gate.gone(1);
    gate.asks(1);
    gate.ready(0);
    gate.asks(0);
    gate.set_waiting(0, 3, Some(2 * NOW));
    assert_eq!(all(&mut gate, 2 * NOW), [1], "due first, and then there is no room");
    gate.set_waiting(2, 1, Some(Duration::ZERO));
    gate.gone(1);
    assert_eq!(gate.next(2 * NOW), Some(0), "what fits nowhere holds up nobody");
}

#[test]
fn refills_have_a_pace_and_claims_have_none() {
    let limits = Limits { refills_per_second: Some(2.0), ..Limits::turns(100) };
    let mut gate = gate(limits, &[(1, 50, 50)]);
    assert_eq!(all(&mut gate, Duration::ZERO).len(), 1);
    assert_eq!(all(&mut gate, NOW).len(), 2);
    gate.set_waiting(0, 10, Some(NOW));
    assert_eq!(all(&mut gate, NOW).len(), 7, "what was under way counts for claims");
}

#[test]
fn restores_begin_gently_and_shrink_after_a_failure() {
    let limits = Limits { gentle: true, ..Limits::turns(8) };
    let mut gate = gate(limits, &[(1, 100, 100)]);
    let mut rounds = Vec::new();
    for _ in 0..5 {
        let begun = all(&mut gate, NOW).len();
        (0..begun).for_each(|_| gate.ready(0));
        rounds.push(begun);
    }
    assert_eq!(rounds, [1, 2, 4, 8, 8]);
    let begun = all(&mut gate, NOW).len();
    (0..begun).for_each(|_| gate.failed(0));
    assert_eq!((begun, all(&mut gate, NOW).len()), (8, 1));
}

/// Lets outdated VMs go and restores what may be restored until nothing more happens; the fewest that were Ready, and the most
/// that existed.
fn take_over(gate: &mut Gate) -> (u32, u32) {
    let (mut fewest, mut most) = (u32::MAX, 0);
    for _ in 0..1000 {
        let gone = gate.replace(0);
        fewest = fewest.min(gate.lines()[0].ready);
        if gone {
            gate.gone(0);
            gate.asks(0);
        }
        let begun = all(gate, NOW).len();
        most = most.max(gate.lines()[0].held);
        (0..begun).for_each(|_| gate.ready(0));
        if !gone && begun == 0 {
            break;
        }
    }
    (fewest, most)
}

/// With so many VMs Ready, all of them of an old snapshot.
fn outdated(limits: Limits, target: u32, slots: u32) -> Gate {
    let mut gate = gate(limits, &[(100, target, slots)]);
    let begun = all(&mut gate, NOW).len();
    (0..begun).for_each(|_| gate.ready(0));
    (0..begun).for_each(|_| gate.set_outdated(0, true));
    gate
}

#[test]
fn with_room_a_new_vm_is_ready_before_an_old_one_goes() {
    let mut gate = outdated(Limits::turns(8), 3, 10);
    assert!(!gate.replace(0), "its successor is not there");
    assert_eq!(gate.surplus(0), 0);
    assert_eq!(all(&mut gate, NOW).len(), 1, "one more than the target");
    assert!(!gate.replace(0), "it is not Ready yet");
    assert_eq!(gate.surplus(0), 0);
    gate.ready(0);
    assert!(gate.replace(0) && !gate.replace(0));
    gate.gone(0);
    gate.asks(0);
    assert_eq!(take_over(&mut gate), (3, 4));
    let line = gate.lines()[0];
    assert_eq!((line.ready, line.outdated, line.held), (3, 0, 3));
}

#[test]
fn without_room_old_vms_go_one_by_one_and_never_the_last() {
    let memory = Limits { memory_mib: Some(350), ..Limits::turns(8) };
    for (limits, slots) in [(Limits::turns(8), 3), (memory, 10)] {
        let mut gate = outdated(limits, 3, slots);
        assert!(gate.replace(0));
        assert!(!gate.replace(0), "nobody has taken its place");
        gate.gone(0);
        gate.asks(0);
        assert_eq!(take_over(&mut gate), (2, 3));
        assert_eq!((gate.lines()[0].ready, gate.lines()[0].outdated), (3, 0));
    }
    let mut last = outdated(Limits::turns(8), 1, 1);
    assert!(!last.replace(0));
}

#[test]
fn old_vms_stay_while_a_claim_waits_and_when_no_new_one_can_be_made() {
    let mut gate = outdated(Limits::turns(8), 3, 3);
    gate.set_waiting(0, 1, Some(NOW));
    assert!(!gate.replace(0), "it is for whoever waits");
    gate.set_waiting(0, 0, None);
    assert!(gate.replace(0));
    for _ in 0..10 {
        gate.gone(0);
        gate.asks(0);
        assert_eq!(gate.next(NOW), Some(0));
        gate.failed(0);
        assert!(!gate.replace(0), "the new snapshot gave no VM yet");
    }
    assert_eq!(gate.lines()[0].ready, 2);
}

/// One runtime of that many slots whose VMs take 256 MiB, with two VMs warm and up to three dormant VMMs.
fn sleepy(limits: Limits, slots: u32) -> Gate {
    let mut gate = gate(limits, &[(256, 2, slots), (256, 0, 4)]);
    gate.lines[0].dormants = 3;
    for _ in 0..2 {
        assert_eq!(gate.next(NOW), Some(0));
        gate.ready(0);
    }
    gate
}

#[test]
fn vmms_are_started_where_targets_are_reached_and_restores_take_them_first() {
    let mut gate = sleepy(Limits::turns(8), 10);
    assert_eq!(gate.next_turn(NOW), None);
    let started: Vec<_> = std::iter::from_fn(|| gate.next_start()).collect();
    assert_eq!((started, gate.memory_mib()), (vec![0, 0, 0], 2 * 256 + 3 * DORMANT_MIB));
    gate.started(0);
    gate.set_target(0, 4);
    let turn = |dormant| Some(Turn { runtime: 0, dormant });
    assert_eq!([gate.next_turn(NOW), gate.next_turn(NOW)], [turn(true), turn(false)]);
    assert_eq!(gate.memory_mib(), 4 * 256 + 2 * DORMANT_MIB);
    assert_eq!((gate.next_start(), gate.next_start()), (Some(0), None), "in place of the one that was used");
    (0..2).for_each(|_| gate.started(0));
    (0..2).for_each(|_| gate.ready(0));
    gate.start_failed(0);
    gate.dormant_gone(0);
    gate.dormant_leaves(0);
    gate.dormant_gone(0);
    assert_eq!((gate.memory_mib(), gate.lines()[0].held), (4 * 256 + DORMANT_MIB, 5));
}

#[test]
fn dormant_vmms_take_turns_and_make_room() {
    let limits = Limits { memory_mib: Some(2 * 256 + 2 * DORMANT_MIB), ..Limits::turns(1) };
    let mut gate = sleepy(limits, 10);
    assert_eq!((gate.next_start(), gate.next_start()), (Some(0), None), "one at a time");
    gate.started(0);
    assert_eq!(gate.next_start(), Some(0));
    gate.started(0);
    assert_eq!(gate.next_start(), None, "the budget has no room");
    assert_eq!(gate.crowded(), None, "nobody needs it");
    gate.taken(0);
    gate.gone(0);
    gate.set_waiting(1, 1, Some(NOW));
    assert_eq!(gate.next_turn(NOW).map(|turn| turn.runtime), Some(1), "it fits beside them");
    gate.set_waiting(1, 2, Some(NOW));
    gate.taken(0);
    gate.gone(0);
    gate.ready(1);
    gate.taken(1);
    gate.set_target(0, 0);
    assert_eq!(gate.next_turn(NOW).map(|turn| turn.runtime), Some(1));
    gate.ready(1);
    gate.taken(1);
    assert_eq!(
        (gate.next_turn(NOW), gate.crowded(), gate.crowded()),
        (None, Some(0), None),
        "one makes room"
    );
    gate.dormant_gone(0);
    assert_eq!(gate.crowded(), Some(0), "and another, as it is not enough");
    gate.dormant_gone(0);
    assert_eq!((gate.memory_mib(), gate.lines()[0].dormant), (512, 0));
}

#[test]
fn a_turn_that_a_dormant_vmm_does_not_take_is_free_again() {
    let mut gate = sleepy(Limits::turns(1), 10);
    assert_eq!(gate.next_start(), Some(0));
    gate.started(0);
    let before = gate.memory_mib();
    gate.set_target(0, 3);
    assert_eq!(gate.next_turn(NOW), Some(Turn { runtime: 0, dormant: true }));
    gate.not_taken(0);
    assert_eq!((gate.memory_mib(), gate.lines()[0].warming), (before, 0));
    gate.dormant_gone(0);
    assert_eq!(gate.next_turn(NOW), Some(Turn { runtime: 0, dormant: false }));
}
