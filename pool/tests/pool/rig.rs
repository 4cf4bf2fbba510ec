//! A pool over fakes, and eyes on it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use hearth_pool::{
    fakes::{Asked, FakeHypervisor, Knobs, LeaseKnobs, MemoryLeases, Ran},
    hypervisor::Slot,
    lease::Identity,
    phase::Phase,
    pool::{
        Claim, ClaimError, Config, Lane, Phases, Pool, RuntimeSlots,
        events::{Event, Farewell, LeaseEvent},
    },
    session::{Command, SessionError},
};
use tokio::time::{Instant, timeout};

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
/// Longer than anything that ends by itself.
pub const LONG: Duration = Duration::from_secs(3600);

/// What was heard, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Moved(Slot, Phase, Phase),
    Retired(Farewell, Option<Duration>),
    Lease(Option<Identity>, LeaseEvent),
}

pub struct Rig {
    pub pool: Pool,
    pub hypervisor: FakeHypervisor,
    pub leases: MemoryLeases,
    heard: Arc<Mutex<Vec<Heard>>>,
}

pub fn slots(name: &str, slots: u32) -> RuntimeSlots {
    RuntimeSlots { name: name.into(), slots, warm_up: None }
}

pub fn command(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        env: [("PATH".to_owned(), "/bin".to_owned())].into(),
        cwd: String::new(),
        limits: Default::default(),
        user: hearth_schemas::guest::messages::User::Job,
        ip: false,
        fresh: false,
    }
}

/// Prints its arguments; `fail` exits with 1.
fn script(asked: &Asked) -> Ran {
    let failed = asked.exec.argv[0] == "fail";
    Ran { exit_code: failed.into(), ..Ran::prints(asked.exec.argv.join(" ")) }
}

impl Rig {
    pub fn new(python: u32) -> Self {
        Self::with(python, |_| {}, |_| {}, |_| {})
    }

    pub fn with(
        python: u32,
        config: impl FnOnce(&mut Config),
        knobs: impl FnOnce(&mut Knobs),
        leases: impl FnOnce(&mut LeaseKnobs),
    ) -> Self {
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let ear = Arc::clone(&heard);
        let mut told = Config::new(vec![slots("python", python)]);
        told.restores_at_once = 64;
        told.gentle = false;
        told.seed = Some(1);
        told.observer = Some(Arc::new(move |event| {
            let heard = match event {
                Event::Moved { slot, from, to } => Heard::Moved(slot.clone(), from, to),
                Event::Retired { why, age, .. } => Heard::Retired(why.clone(), age),
                Event::Lease { identity, event } => Heard::Lease(identity, event),
                _ => return,
            };
            ear.lock().unwrap().push(heard);
        }));
        config(&mut told);
        let hypervisor = FakeHypervisor::new(Knobs::default(), Arc::new(script));
        hypervisor.set(knobs);
        let store = MemoryLeases::new(LeaseKnobs::default());
        store.set(leases);
        store.watch(&hypervisor);
        let pool = Pool::spawn(told, hypervisor.clone(), store.clone());
        Self { pool, hypervisor, leases: store, heard }
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub fn lease_events(&self, event: LeaseEvent) -> usize {
        self.heard().iter().filter(|heard| matches!(heard, Heard::Lease(_, e) if *e == event)).count()
    }

    pub fn farewells(&self) -> Vec<(Farewell, Option<Duration>)> {
        let retired = |heard| match heard {
            Heard::Retired(why, age) => Some((why, age)),
            _ => None,
        };
        self.heard().into_iter().filter_map(retired).collect()
    }

    /// Waits until the phases are like this.
    pub async fn until(&self, wanted: impl FnMut(&Phases) -> bool) {
        let mut phases = self.pool.phases();
        let reached = timeout(LONG, phases.wait_for(wanted)).await;
        let now = self.pool.phases().borrow().to_string();
        assert!(reached.is_ok(), "still {now} after an hour; {:?}", self.hypervisor.seen());
    }

    pub async fn until_count(&self, phase: Phase, count: u32) {
        self.until(|phases| phases.total(phase) == count).await;
    }

    pub fn count(&self, phase: Phase) -> u32 {
        self.pool.phases().borrow().total(phase)
    }

    pub async fn claim(&self) -> Result<Claim, ClaimError> {
        self.claim_within(Lane::Normal, 60 * SECOND).await
    }

    pub async fn claim_within(&self, lane: Lane, limit: Duration) -> Result<Claim, ClaimError> {
        self.pool.claim("python", lane, Instant::now() + limit).await
    }

    /// Closes the pool and proves that nothing is left.
    pub async fn close(self) {
        self.pool.close(60 * SECOND).await.unwrap();
        self.sound();
    }

    pub fn sound(&self) {
        let seen = self.hypervisor.seen();
        assert_eq!(seen.wrong, Vec::<String>::new());
        assert_eq!(seen.live, vec![], "{:?}", self.pool.phases().borrow());
        assert_eq!(seen.made, seen.destroyed);
        assert_eq!(self.leases.held(), Vec::<u32>::new());
    }
}

/// Runs a command to its end and returns what it printed.
pub async fn run(claim: &Claim, argv: &[&str]) -> Result<String, SessionError> {
    let running = claim.session().exec(command(argv), false).await?;
    let mut printed = Vec::new();
    let kill = std::future::pending();
    running.finish(Bytes::new(), |_, data| printed.extend_from_slice(&data), kill).await?;
    Ok(String::from_utf8(printed).unwrap())
}
