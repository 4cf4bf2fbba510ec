//! What holders of leases believe, each by its own clock, and whether two ever believe the same.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hearth_pool::lease::{Identity, Lease};
use tokio::time::Instant;

/// One thing that two must not hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Thing {
    Cid(u32),
    Port(u16),
}

#[derive(Clone, Copy, Debug)]
struct Belief {
    token: u64,
    until: Instant,
}

/// Watches all holders of one domain.
#[derive(Debug, Default)]
pub struct Beliefs {
    held: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    beliefs: HashMap<Thing, Belief>,
    newest: HashMap<Thing, u64>,
    leases: u64,
}

fn things(identity: &Identity) -> [Thing; 2] {
    [Thing::Cid(identity.cid), Thing::Port(identity.port)]
}

impl Beliefs {
    fn held(&self) -> MutexGuard<'_, State> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody was given a lease. Panics if somebody else still believes in one, or the token did not grow.
    pub fn given(&self, lease: &Lease) {
        let mut state = self.held();
        let (token, until, now) = (lease.identity.token, lease.expires, Instant::now());
        state.leases += 1;
        for thing in things(&lease.identity) {
            if let Some(other) = state.beliefs.get(&thing) {
                assert!(other.until <= now, "{thing:?} was given twice: {lease:?} while {other:?} lasts");
            }
            let newest = state.newest.insert(thing, token).unwrap_or(0);
            assert!(newest < token, "{thing:?}: token {token} after {newest}");
            state.beliefs.insert(thing, Belief { token, until });
        }
    }

    /// A lease was renewed. Panics if somebody else has been given it.
    pub fn renewed(&self, identity: &Identity, until: Instant) {
        let mut state = self.held();
        for thing in things(identity) {
            let belief = state.beliefs.get_mut(&thing).expect("what is renewed was given");
            assert_eq!(belief.token, identity.token, "{thing:?} was renewed for a holder that is fenced off");
            belief.until = until;
        }
    }

    /// A holder stopped using its lease.
    pub fn stopped(&self, identity: &Identity) {
        let mut state = self.held();
        for thing in things(identity) {
            if state.beliefs.get(&thing).is_some_and(|b| b.token == identity.token) {
                state.beliefs.remove(&thing);
            }
        }
    }

    /// How many leases were given.
    pub fn leases(&self) -> u64 {
        self.held().leases
    }
}
