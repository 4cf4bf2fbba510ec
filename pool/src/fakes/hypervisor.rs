//! A hypervisor whose VMs are a line in a list and an agent in a task.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::DuplexStream,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    agent::{self, Served},
    exec::Script,
    knobs::{Fate, Knobs, RestoreFate},
};
use crate::{
    hypervisor::{Accept, DestroyError, Hypervisor, RestoreError, RestoreStep, Restored, Slot},
    lease::Identity,
};

/// What a pipe to an agent holds in each direction.
const PIPE_BYTES: usize = 256 * 1024;

/// A fake hypervisor. Clones share it, so a test keeps one.
#[derive(Clone)]
pub struct FakeHypervisor {
    state: Arc<Mutex<State>>,
}

struct State {
    knobs: Knobs,
    script: Script,
    /// Every VM of which something is left, by number.
    live: BTreeMap<u64, Live>,
    made: u64,
    destroyed: u64,
    wrong: Vec<String>,
}

struct Live {
    slot: Slot,
    identity: Identity,
    life: watch::Sender<Life>,
}

/// What is left of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Life {
    Alive,
    /// Its process, but no agent.
    Deaf,
    /// No process.
    Dead,
}

/// What a fake hypervisor has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// VMs of which something is left.
    pub live: Vec<(Slot, Identity)>,
    /// VMs, or beginnings of VMs, made so far.
    pub made: u64,
    /// VMs destroyed so far.
    pub destroyed: u64,
    /// What the pool must never do: identities shared, slots used twice at once, jobs before the wake.
    pub wrong: Vec<String>,
}

/// A fake VM.
pub struct FakeVm {
    life: watch::Receiver<Life>,
    dies_at: Option<Instant>,
    identity: Identity,
    snapshot: String,
    served: Arc<Mutex<Served>>,
}

/// A fake VMM without a guest.
pub struct FakeDormant {
    slot: Slot,
    identity: Identity,
    life: watch::Receiver<Life>,
    snapshot: String,
}

impl FakeVm {
    /// Resolves when no more than that is left.
    async fn comes_to(end: Life, mut life: watch::Receiver<Life>, dies_at: Option<Instant>) {
        let killed = async {
            let _ = life.wait_for(|life| *life >= end).await;
        };
        match dies_at {
            None => killed.await,
            Some(at) => tokio::select! {
                biased;
                () = killed => {}
                () = sleep_until(at) => {}
            },
        }
    }
}

impl FakeHypervisor {
    /// One whose VMs run commands by a script.
    pub fn new(knobs: Knobs, script: Script) -> Self {
        let (live, wrong) = (BTreeMap::new(), Vec::new());
        let state = State { knobs, script, live, made: 0, destroyed: 0, wrong };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns knobs.
    pub fn set(&self, turn: impl FnOnce(&mut Knobs)) {
        turn(&mut self.state().knobs);
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        let state = self.state();
        let live = state.live.values().map(|live| (live.slot.clone(), live.identity)).collect();
        Seen { live, made: state.made, destroyed: state.destroyed, wrong: state.wrong.clone() }
    }

    /// Whether something is left of a VM with this CID.
    pub fn uses_cid(&self, cid: u32) -> bool {
        self.state().live.values().any(|live| live.identity.cid == cid)
    }

    /// Notes what the pool must never do.
    pub(super) fn note(&self, wrong: String) {
        self.state().wrong.push(wrong);
    }

    /// Ends the process of the VM with this CID; what it owned is left until its destroy.
    pub fn kill(&self, cid: u32) {
        self.ends(cid, Life::Dead);
    }

    /// Ends the agent of the VM with this CID, and not the VM.
    pub fn deafen(&self, cid: u32) {
        self.ends(cid, Life::Deaf);
    }

    fn ends(&self, cid: u32, life: Life) {
        for live in self.state().live.values().filter(|live| live.identity.cid == cid) {
            live.life.send_replace(life);
        }
    }

    /// Something of a VM exists from here on, whether the restore succeeds or not.
    fn begin(&self, slot: &Slot, identity: &Identity) -> Result<watch::Receiver<Life>, RestoreError> {
        let mut state = self.state();
        if state.knobs.locks && state.live.values().any(|live| live.identity.cid == identity.cid) {
            return Err(RestoreError::IdentityBusy { cid: identity.cid });
        }
        let mut wrong = Vec::new();
        for live in state.live.values() {
            if live.slot == *slot {
                wrong.push(format!("{slot} has a VM already"));
            }
            if shares(&live.identity, identity) {
                wrong.push(format!("{slot} and {} share an identity: {identity:?}", live.slot));
            }
        }
        state.wrong.append(&mut wrong);
        let (sender, life) = watch::channel(Life::Alive);
        state.made += 1;
        let number = state.made;
        state.live.insert(number, Live { slot: slot.clone(), identity: *identity, life: sender });
        Ok(life)
    }

    /// A VM, as fate has it.
    async fn made(&self, from: FakeDormant, fate: RestoreFate) -> Result<Restored<FakeVm>, RestoreError> {
        let (takes, die_after) = match fate {
            RestoreFate::Made { takes, die_after } => (takes, die_after),
            RestoreFate::Stalls => std::future::pending().await,
            RestoreFate::Fails { takes, error } => {
                sleep(takes).await;
                return Err(error);
            }
        };
        sleep(takes).await;
        let dies_at = die_after.map(|after| Instant::now() + after);
        let FakeDormant { identity, life, snapshot, .. } = from;
        let vm = FakeVm { life, dies_at, identity, snapshot: snapshot.clone(), served: Arc::default() };
        Ok(Restored { vm, snapshot, steps: vec![RestoreStep { name: "fake", took: takes }] })
    }
}

fn shares(one: &Identity, other: &Identity) -> bool {
    one.cid == other.cid || one.port == other.port
}

impl Hypervisor for FakeHypervisor {
    type Vm = FakeVm;
    type Dormant = FakeDormant;
    type Io = DuplexStream;
    type Accept = NoAccept;

    async fn restore(&self, slot: &Slot, identity: &Identity) -> Result<Restored<FakeVm>, RestoreError> {
        let snapshot = self.state().knobs.snapshot.clone();
        let life = self.begin(slot, identity)?;
        let fate = self.state().knobs.restore();
        self.made(FakeDormant { slot: slot.clone(), identity: *identity, life, snapshot }, fate).await
    }

    fn starts_ahead(&self) -> bool {
        true
    }

    async fn start(&self, slot: &Slot, identity: &Identity) -> Result<FakeDormant, RestoreError> {
        let snapshot = self.state().knobs.snapshot.clone();
        let life = self.begin(slot, identity)?;
        let (takes, fails, stalls) = {
            let knobs = &mut self.state().knobs;
            (knobs.start_takes, knobs.fail_starts.pop_front(), knobs.stall_starts)
        };
        sleep(takes).await;
        match fails {
            Some(error) => Err(error),
            None if stalls => std::future::pending().await,
            None => Ok(FakeDormant { slot: slot.clone(), identity: *identity, life, snapshot }),
        }
    }

    async fn load(&self, dormant: FakeDormant) -> Result<Restored<FakeVm>, RestoreError> {
        if *dormant.life.borrow() >= Life::Dead {
            return Err(RestoreError::Vmm(format!("{}: the VMM is gone", dormant.slot)));
        }
        let fate = {
            let knobs = &mut self.state().knobs;
            let start = knobs.start_takes;
            match knobs.restore() {
                RestoreFate::Made { takes, die_after } => {
                    RestoreFate::Made { takes: takes.saturating_sub(start), die_after }
                }
                other => other,
            }
        };
        self.made(dormant, fate).await
    }

    async fn dormant_exited(&self, dormant: &FakeDormant) {
        FakeVm::comes_to(Life::Dead, dormant.life.clone(), None).await;
    }

    fn dormant_from<'a>(&self, dormant: &'a FakeDormant) -> Option<&'a str> {
        Some(&dormant.snapshot)
    }

    fn current(&self, _runtime: &str) -> Option<String> {
        Some(self.state().knobs.snapshot.clone())
    }

    fn came_from<'a>(&self, vm: &'a FakeVm) -> Option<&'a str> {
        Some(&vm.snapshot)
    }

    async fn dial(&self, vm: &FakeVm) -> io::Result<DuplexStream> {
        let (fate, faults, script) = {
            let mut state = self.state();
            (state.knobs.dial(), state.knobs.agent(), Arc::clone(&state.script))
        };
        match fate {
            Fate::Does(takes) => sleep(takes).await,
            Fate::Stalls => std::future::pending().await,
            Fate::Fails(_) => return Err(io::ErrorKind::ConnectionRefused.into()),
        }
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let gone = FakeVm::comes_to(Life::Deaf, vm.life.clone(), vm.dies_at);
        let agent = agent::serve(theirs, faults, script, Arc::clone(&vm.served), vm.identity);
        let (state, cid) = (Arc::clone(&self.state), vm.identity.cid);
        tokio::spawn(async move {
            let ending = tokio::select! {
                biased;
                () = gone => agent::Ending::Quiet,
                ending = agent => ending,
            };
            let this = Self { state };
            match ending {
                agent::Ending::Quiet => {}
                agent::Ending::Crash => this.kill(cid),
                agent::Ending::Wrong(what) => this.note(what),
            }
        });
        Ok(ours)
    }

    fn listen(&self, _vm: &FakeVm, _port: u16) -> io::Result<NoAccept> {
        Ok(NoAccept)
    }

    fn is_locked(&self, _vm: &FakeVm) -> bool {
        self.state().knobs.locks
    }

    async fn exited(&self, vm: &FakeVm) {
        FakeVm::comes_to(Life::Dead, vm.life.clone(), vm.dies_at).await;
    }

    async fn destroy(&self, slot: &Slot, vm: Option<FakeVm>) -> Result<(), DestroyError> {
        let fate = self.state().knobs.destroy();
        match fate {
            Fate::Does(takes) => sleep(takes).await,
            Fate::Stalls => std::future::pending().await,
            Fate::Fails(takes) => {
                sleep(takes).await;
                return Err(DestroyError { slot: slot.clone(), what: "as the knobs say".into() });
            }
        }
        drop(vm);
        let mut state = self.state();
        let before = state.live.len();
        state.live.retain(|_, live| {
            let stays = live.slot != *slot;
            if !stays {
                live.life.send_replace(Life::Dead);
            }
            stays
        });
        state.destroyed += (before - state.live.len()) as u64;
        Ok(())
    }
}

/// No guest dials a fake host.
pub struct NoAccept;

impl Accept for NoAccept {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<DuplexStream> {
        std::future::pending().await
    }
}
