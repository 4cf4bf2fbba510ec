//! Who may restore when, and how many VMs stay warm: the gate and the scaler behind one lock, driven by the pool's slots,
//! claims and clock.

mod place;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, oneshot, watch},
    time::{Instant, sleep_until},
};

pub(crate) use self::place::Place;
use self::place::Stage;
use super::{
    config::{Config, RuntimeSlots},
    events::Event,
    gauges::Voice,
    waiters::Waiters,
};
use crate::scale::{
    gate::{Gate, Line, Turn},
    scaler::{BIN, Rule, Scaler, Seen},
};

/// How many VMs of each runtime the pool keeps warm.
pub type Targets = BTreeMap<String, u32>;

/// What all slots of a pool share to decide what is restored.
pub(crate) struct Admission {
    state: Mutex<State>,
    config: Arc<Config>,
    runtimes: Vec<Arc<Waiters>>,
    /// Ready VMs that are asked to go, of each runtime.
    dismissed: Vec<Semaphore>,
    /// When an outdated Ready VM may go, of each runtime.
    outdated: Vec<Notify>,
    targets: watch::Sender<Targets>,
    voice: Voice,
    epoch: Instant,
    /// A claim came, or more jobs wait elsewhere: the scaler may have to look earlier.
    hurry: Notify,
}

struct State {
    gate: Gate,
    scaler: Option<Scaler>,
    asking: Vec<VecDeque<oneshot::Sender<Place>>>,
    /// Slots with a dormant VMM: told when one has its turn, dropped when one is to go.
    dormant: Vec<VecDeque<oneshot::Sender<()>>>,
    backlog: Vec<u32>,
    scheduled: Vec<u32>,
}

impl State {
    /// A vacant slot of which runtime may begin what. Dormant ones are told here.
    fn begins(&mut self, now: Duration) -> Option<(usize, Stage)> {
        while let Some(Turn { runtime, dormant }) = self.gate.next_turn(now) {
            if !dormant {
                return Some((runtime, Stage::Warming));
            }
            let slot = self.dormant.get_mut(runtime).and_then(VecDeque::pop_front);
            if slot.is_none_or(|slot| slot.send(()).is_err()) {
                self.gate.not_taken(runtime);
            }
        }
        self.gate.next_start().map(|runtime| (runtime, Stage::Starting))
    }
}

impl Admission {
    pub(crate) fn new(
        config: &Arc<Config>,
        runtimes: Vec<Arc<Waiters>>,
        voice: Voice,
        epoch: Instant,
        starts_ahead: bool,
    ) -> Arc<Self> {
        let rules: Vec<Rule> = config.runtimes.iter().map(|runtime| config.rule(runtime)).collect();
        let fixed = config.scaling.is_none();
        let line = |(rule, runtime): (&Rule, &RuntimeSlots)| {
            let target = if fixed { rule.ceiling } else { rule.floor.min(rule.ceiling) };
            let dormants = config.bounds.get(&runtime.name).map_or(0, |bounds| bounds.dormant);
            let dormants = if starts_ahead { dormants } else { 0 };
            Line { cost: rule.cost, slots: rule.ceiling, target, dormants, ..Line::default() }
        };
        let gate = Gate::new(config.budget(), rules.iter().zip(&config.runtimes).map(line).collect());
        let targets = config.runtimes.iter().zip(gate.lines());
        let targets: Targets = targets.map(|(runtime, line)| (runtime.name.clone(), line.target)).collect();
        say(&voice, &targets);
        let dismissed = rules.iter().map(|_| Semaphore::new(0)).collect();
        let outdated = rules.iter().map(|_| Notify::new()).collect();
        let asking = rules.iter().map(|_| VecDeque::new()).collect();
        let dormant = rules.iter().map(|_| VecDeque::new()).collect();
        let (backlog, scheduled) = (vec![0; rules.len()], vec![0; rules.len()]);
        let scaler = config.scaling.map(|policy| Scaler::new(policy, config.budget(), rules));
        Arc::new(Self {
            state: Mutex::new(State { gate, scaler, asking, dormant, backlog, scheduled }),
            config: Arc::clone(config),
            runtimes,
            dismissed,
            outdated,
            targets: watch::Sender::new(targets),
            voice,
            epoch,
            hurry: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(crate) fn targets(&self) -> watch::Receiver<Targets> {
        self.targets.subscribe()
    }

    /// Memory that is reserved now, in MiB.
    pub(crate) fn memory_mib(&self) -> u64 {
        self.state().gate.memory_mib()
    }

    /// Jobs that wait elsewhere for VMs of a runtime.
    pub(crate) fn set_backlog(&self, runtime: usize, jobs: u32) {
        let mut state = self.state();
        let State { backlog, scaler, .. } = &mut *state;
        if let Some(backlog) = backlog.get_mut(runtime) {
            let before = std::mem::replace(backlog, jobs);
            // More is wanted now; less can wait.
            if let Some(scaler) = scaler.as_mut().filter(|_| jobs > before) {
                scaler.hurry(self.now());
                self.hurry.notify_one();
            }
        }
    }

    /// What is kept warm of a runtime at least, from now on.
    pub(crate) fn set_scheduled(&self, runtime: usize, warm: u32) {
        if let Some(scheduled) = self.state().scheduled.get_mut(runtime) {
            *scheduled = warm;
        }
    }

    /// A claim has joined the queue.
    pub(crate) fn arrived(self: &Arc<Self>, runtime: usize) {
        let mut state = self.state();
        if let Some(scaler) = &mut state.scaler {
            scaler.claimed(runtime, self.now());
            self.hurry.notify_one();
        }
        self.pump(state);
    }

    /// Waits for a turn and for room, for a vacant slot. Cancel safe: what was given at the last moment goes back.
    pub(crate) async fn admit(self: &Arc<Self>, runtime: usize) -> Option<Place> {
        self.ask(runtime)?.await.ok()
    }

    fn ask(self: &Arc<Self>, runtime: usize) -> Option<oneshot::Receiver<Place>> {
        let (give, given) = oneshot::channel();
        let mut state = self.state();
        state.asking.get_mut(runtime)?.push_back(give);
        state.gate.asks(runtime);
        self.pump(state);
        Some(given)
    }

    /// Resolves when a Ready VM of this runtime is to go, to one slot for each VM. Cancel safe.
    pub(crate) async fn dismissed(&self, runtime: usize) {
        match self.dismissed.get(runtime) {
            Some(dismissed) => match dismissed.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Asks one outdated Ready VM of each runtime to see whether it may go.
    pub(crate) fn turn_over(&self) {
        let state = self.state();
        let turns = state.gate.lines().iter().zip(&self.outdated);
        turns.filter(|(line, _)| line.outdated > 0).for_each(|(_, turn)| turn.notify_one());
    }

    /// Resolves when an outdated Ready VM of this runtime goes: the one that asks, whose place is told so. Cancel safe.
    pub(crate) async fn replaced(&self, runtime: usize) {
        let Some(turn) = self.outdated.get(runtime) else { return std::future::pending().await };
        loop {
            turn.notified().await;
            let mut state = self.state();
            if let Some(waiters) = self.runtimes.get(runtime) {
                let (waiting, due) = waiters.waiting();
                state.gate.set_waiting(runtime, waiting, due);
            }
            if state.gate.replace(runtime) {
                return;
            }
        }
    }

    /// Lets in whom the gate lets in.
    fn pump(self: &Arc<Self>, mut guard: MutexGuard<'_, State>) {
        let state = &mut *guard;
        for (runtime, waiters) in self.runtimes.iter().enumerate() {
            let (waiting, due) = waiters.waiting();
            state.gate.set_waiting(runtime, waiting, due);
            // Whoever no longer listens no longer asks.
            let Some(asking) = state.asking.get_mut(runtime) else { continue };
            let before = asking.len();
            asking.retain(|slot| !slot.is_closed());
            (asking.len()..before).for_each(|_| state.gate.withdraws(runtime));
            let Some(dormant) = state.dormant.get_mut(runtime) else { continue };
            let before = dormant.len();
            dormant.retain(|slot| !slot.is_closed());
            (dormant.len()..before).for_each(|_| state.gate.dormant_leaves(runtime));
        }
        let mut given = Vec::new();
        while let Some((runtime, stage)) = state.begins(self.now()) {
            let place = Place::new(Arc::clone(self), runtime, stage);
            given.push((state.asking.get_mut(runtime).and_then(VecDeque::pop_front), place));
        }
        if let Some(runtime) = state.gate.crowded() {
            drop(state.dormant.get_mut(runtime).and_then(VecDeque::pop_front));
        }
        // A place that nobody takes is dropped, which needs the lock.
        drop(guard);
        for (slot, place) in given {
            if let Some(slot) = slot {
                let _ = slot.send(place);
            }
        }
    }

    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        self.pump(state);
    }

    /// Sets targets until `over`. Without a scaler it only keeps the pace of refills.
    pub(crate) async fn run(self: Arc<Self>, over: impl Future<Output = ()>) {
        if self.config.scaling.is_none() && self.config.refills_per_second.is_none() {
            return;
        }
        tokio::pin!(over);
        loop {
            let next = self.state().scaler.as_ref().map_or_else(|| self.now() + BIN, Scaler::next);
            tokio::select! {
                biased;
                () = &mut over => return,
                () = sleep_until(self.epoch + next) => self.tick(),
                () = self.hurry.notified() => {}
            }
        }
    }

    fn tick(self: &Arc<Self>) {
        let now = self.now();
        let mut state = self.state();
        let mut changed = None;
        let State { gate, scaler, backlog, scheduled, .. } = &mut *state;
        if let Some(scaler) = scaler {
            let seen = |((line, backlog), scheduled): ((&Line, &u32), &u32)| Seen {
                busy: line.held.saturating_sub(line.warming + line.ready + line.starting + line.dormant),
                waiting: line.waiting,
                backlog: *backlog,
                scheduled: *scheduled,
            };
            let seen: Vec<_> = gate.lines().iter().zip(&*backlog).zip(&*scheduled).map(seen).collect();
            scaler.tick(now, &seen);
            for (runtime, dismissed) in self.dismissed.iter().enumerate() {
                gate.set_target(runtime, scaler.target(runtime));
                dismissed.forget_permits(dismissed.available_permits());
                dismissed.add_permits(gate.surplus(runtime) as usize);
            }
            let names = self.config.runtimes.iter().map(|runtime| runtime.name.clone());
            let now: Targets = names.zip(gate.lines().iter().map(|line| line.target)).collect();
            if self.targets.send_if_modified(|said| std::mem::replace(said, now.clone()) != now) {
                changed = Some(now);
            }
        }
        self.pump(state);
        if let Some(targets) = changed {
            say(&self.voice, &targets);
        }
    }
}

fn say(voice: &Voice, targets: &Targets) {
    for (runtime, slots) in targets {
        voice.say(Event::Target { runtime, slots: *slots });
    }
}
