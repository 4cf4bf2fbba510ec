//! Leases in memory, on tokio's clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use super::FakeHypervisor;
use crate::lease::{
    Identity, Lease, LeaseError, LeaseStore, Ranges, Release, Renewal,
    local::{CIDS, PORTS, TTL},
    table::{Ask, Record, Table, World},
};

/// A lease store in memory with the rules of the local one. Clones share it, so a test keeps one.
#[derive(Clone)]
pub struct MemoryLeases {
    state: Arc<Mutex<State>>,
}

/// Who holds the leases of this process, and those that were taken from it.
const US: &str = "us";
const THIEF: &str = "somebody else";

struct State {
    table: Table,
    epoch: Instant,
    knobs: LeaseKnobs,
    renewals: u64,
    host: Host,
}

/// What goes wrong.
#[derive(Debug)]
pub struct LeaseKnobs {
    /// What may be leased.
    pub ranges: Ranges,
    /// How long a lease lasts.
    pub ttl: Duration,
    /// Whether nothing is given.
    pub refuse: bool,
    /// Whether the store never answers.
    pub stall: bool,
    /// Whether the store fails every request.
    pub unavailable: bool,
    /// How many answers to acquire are lost after the lease was given.
    pub lose_answers: u32,
    /// Faults by chance: each request stalls or fails, and each renewal loses its lease, at this rate.
    pub faults: Option<(SmallRng, f64)>,
}

impl Default for LeaseKnobs {
    fn default() -> Self {
        let ranges = Ranges { cids: CIDS, ports: PORTS };
        let (refuse, stall, unavailable) = (false, false, false);
        Self { ranges, ttl: TTL, refuse, stall, unavailable, lose_answers: 0, faults: None }
    }
}

impl LeaseKnobs {
    /// Faults that the seed decides.
    pub fn by_chance(&mut self, seed: u64, rate: f64) {
        self.faults = Some((SmallRng::seed_from_u64(seed), rate));
    }

    fn strikes(&mut self) -> bool {
        self.faults.as_mut().is_some_and(|(rng, rate)| rng.random_bool(*rate))
    }
}

/// The host whose VMs are looked at.
struct Host(Option<FakeHypervisor>);

impl World for Host {
    fn holder_is_gone(&self, _: &str) -> bool {
        false
    }

    fn cid_in_use(&self, cid: u32) -> bool {
        self.0.as_ref().is_some_and(|hypervisor| hypervisor.uses_cid(cid))
    }
}

impl MemoryLeases {
    /// An empty store.
    pub fn new(knobs: LeaseKnobs) -> Self {
        let (table, epoch) = (Table::default(), Instant::now());
        let state = State { table, epoch, knobs, renewals: 0, host: Host(None) };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns knobs.
    pub fn set(&self, turn: impl FnOnce(&mut LeaseKnobs)) {
        turn(&mut self.state().knobs);
    }

    /// Looks at this hypervisor's VMs, as a store of a host looks at its locks: leaves alone the CIDs that they use,
    /// and notes it there when an identity is released while a VM still uses it.
    pub fn watch(&self, hypervisor: &FakeHypervisor) {
        self.state().host = Host(Some(hypervisor.clone()));
    }

    /// Takes the lease of a CID away from its holder, who learns of it by its next renewal. It is somebody else's
    /// until it expires.
    pub fn lose(&self, cid: u32) {
        self.state().lose(cid);
    }

    /// The CIDs of all leases of this process that have not expired.
    pub fn held(&self) -> Vec<u32> {
        let state = self.state();
        let now_us = state.now_us();
        let ours = |record: &&Record| record.holder == US && record.expires_us > now_us;
        let held = state.table.records.iter().filter(ours);
        held.map(|record| record.cid).collect()
    }

    /// How many batches were renewed.
    pub fn renewals(&self) -> u64 {
        self.state().renewals
    }

    /// What happens to every request.
    async fn weather(&self) -> Result<(), LeaseError> {
        let (stall, fail) = {
            let knobs = &mut self.state().knobs;
            (knobs.stall || knobs.strikes(), knobs.unavailable || knobs.strikes())
        };
        if stall {
            std::future::pending::<()>().await;
        }
        match fail {
            true => {
                let source = "as the knobs say".into();
                Err(LeaseError::Unavailable { what: "memory".into(), source })
            }
            false => Ok(()),
        }
    }
}

impl State {
    fn lose(&mut self, cid: u32) {
        let (now_us, ttl_us) = (self.now_us(), self.ttl_us());
        self.table.last_token += 1;
        let token = self.table.last_token;
        if let Some(record) = self.table.records.iter_mut().find(|record| record.cid == cid) {
            (record.token, record.holder) = (token, THIEF.into());
            record.expires_us = now_us + ttl_us;
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn ttl_us(&self) -> u64 {
        u64::try_from(self.knobs.ttl.as_micros()).unwrap_or(u64::MAX)
    }
}

impl LeaseStore for MemoryLeases {
    async fn acquire(&self, request: &str) -> Result<Lease, LeaseError> {
        let asked = Instant::now();
        self.weather().await?;
        let (answer, lost) = {
            let mut state = self.state();
            if state.knobs.refuse {
                return Err(LeaseError::Exhausted { what: "CID", retry_after: Duration::from_secs(1) });
            }
            let now_us = state.now_us();
            let ask = Ask { request, holder: US, now_us, unix_us: now_us, ttl_us: state.ttl_us() };
            let State { table, knobs, host, .. } = &mut *state;
            let answer = table.acquire(ask, &knobs.ranges, host);
            let lost = answer.is_ok() && state.knobs.lose_answers > 0;
            state.knobs.lose_answers -= u32::from(lost);
            (answer.map(|identity| Lease { identity, expires: asked + state.knobs.ttl }), lost)
        };
        if lost {
            std::future::pending::<()>().await;
        }
        answer.map_err(|full| LeaseError::Exhausted { what: full.what, retry_after: full.retry_after })
    }

    async fn renew(&self, identities: &[Identity]) -> Result<Vec<Renewal>, LeaseError> {
        let asked = Instant::now();
        self.weather().await?;
        let mut state = self.state();
        state.renewals += 1;
        let (now_us, ttl_us) = (state.now_us(), state.ttl_us());
        let until = asked + state.knobs.ttl;
        let mut answers = Vec::new();
        for identity in identities {
            if state.knobs.strikes() {
                state.lose(identity.cid);
            }
            let renewed = state.table.renew(identity, now_us, ttl_us);
            answers.push(if renewed { Renewal::Until(until) } else { Renewal::Lost });
        }
        Ok(answers)
    }

    async fn release(&self, identity: &Identity) -> Result<Release, LeaseError> {
        self.weather().await?;
        let mut state = self.state();
        let now_us = state.now_us();
        let released = state.table.release(identity, now_us);
        if let (Release::Released, Host(Some(hypervisor))) = (released, &state.host)
            && hypervisor.uses_cid(identity.cid)
        {
            hypervisor.note(format!("{identity:?} was released before its VM was destroyed"));
        }
        Ok(released)
    }
}
