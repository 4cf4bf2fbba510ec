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
    kill: watch::Sender<bool>,
}

/// What a fake hypervisor has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sound {
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
    dead: watch::Receiver<bool>,
    dies_at: Option<Instant>,
    identity: Identity,
    served: Arc<Mutex<Served>>,
}

impl FakeVm {
    async fn gone(dead: watch::Receiver<bool>, dies_at: Option<Instant>) {
        let mut dead = dead;
        let killed = async {
            let _ = dead.wait_for(|dead| *dead).await;
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
    pub fn seen(&self) -> Sound {
        let state = self.state();
        let live = state.live.values().map(|live| (live.slot.clone(), live.identity)).collect();
        Sound { live, made: state.made, destroyed: state.destroyed, wrong: state.wrong.clone() }
    }

    /// Whether something is left of a VM with this CID or port.
    pub fn uses(&self, identity: &Identity) -> bool {
        self.state().live.values().any(|live| shares(&live.identity, identity))
    }

    /// Ends the process of the VM with this CID; what it owned is left until its destroy.
    pub fn kill(&self, cid: u32) {
        for live in self.state().live.values().filter(|live| live.identity.cid == cid) {
            live.kill.send_replace(true);
        }
    }

    /// Something of a VM exists from here on, whether the restore succeeds or not.
    fn begin(&self, slot: &Slot, identity: &Identity) -> (watch::Receiver<bool>, RestoreFate) {
        let mut state = self.state();
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
        let (kill, dead) = watch::channel(false);
        state.made += 1;
        let number = state.made;
        state.live.insert(number, Live { slot: slot.clone(), identity: *identity, kill });
        (dead, state.knobs.restore())
    }
}

fn shares(one: &Identity, other: &Identity) -> bool {
    one.cid == other.cid || one.port == other.port
}

impl Hypervisor for FakeHypervisor {
    type Vm = FakeVm;
    type Io = DuplexStream;
    type Accept = NoAccept;

    async fn restore(&self, slot: &Slot, identity: &Identity) -> Result<Restored<FakeVm>, RestoreError> {
        let (dead, fate) = self.begin(slot, identity);
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
        let vm = FakeVm { dead, dies_at, identity: *identity, served: Arc::default() };
        Ok(Restored { vm, snapshot: "fake".into(), steps: vec![RestoreStep { name: "fake", took: takes }] })
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
        let gone = FakeVm::gone(vm.dead.clone(), vm.dies_at);
        let agent = agent::serve(theirs, faults, script, Arc::clone(&vm.served), vm.identity);
        let (state, kill) = (Arc::clone(&self.state), vm.identity.cid);
        tokio::spawn(async move {
            let ending = tokio::select! {
                biased;
                () = gone => agent::Ending::Quiet,
                ending = agent => ending,
            };
            let this = Self { state };
            match ending {
                agent::Ending::Quiet => {}
                agent::Ending::Crash => this.kill(kill),
                agent::Ending::Wrong(what) => this.state().wrong.push(what),
            }
        });
        Ok(ours)
    }

    fn listen(&self, _vm: &FakeVm, _port: u16) -> io::Result<NoAccept> {
        Ok(NoAccept)
    }

    async fn exited(&self, vm: &FakeVm) {
        FakeVm::gone(vm.dead.clone(), vm.dies_at).await;
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
                live.kill.send_replace(true);
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
