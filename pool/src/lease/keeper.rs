//! Keeps the leases of a pool: one task renews all of them, from acquisition to release.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{RwLock, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{Identity, LeaseError, LeaseStore, Release, Renewal};
use crate::pool::{
    StepLimits,
    events::{Event, LeaseEvent},
    gauges::Voice,
};

/// Between two tries of a renewal that the store did not answer, at least; and between any two renewals.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// See [`RETRY_MIN`]; at most.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Renewals begin when this part of what lasts until the margin is over: two more tries fit before the lease is
/// at risk, and as many again when the store is merely slow.
const RENEW_AFTER: u32 = 3;

/// When a lease is next renewed.
fn renew_at(now: Instant, expires: Instant, margin: Duration) -> Instant {
    now + (expires.saturating_duration_since(now).saturating_sub(margin) / RENEW_AFTER).max(RETRY_MIN)
}

/// When a renewal that failed is tried again: sooner as the margin comes nearer.
fn retry_at(now: Instant, expires: Instant, margin: Duration) -> Instant {
    let left = expires.saturating_duration_since(now).saturating_sub(margin);
    now + (left / 4).clamp(RETRY_MIN, RETRY_MAX)
}

/// A lease in the keeper's care. Renewed until [`Keeper::release`], even when this is dropped: a VM may still
/// use it.
#[derive(Debug)]
pub(crate) struct Held {
    identity: Identity,
    /// `None` once it is lost.
    expires: watch::Receiver<Option<Instant>>,
    margin: Duration,
}

impl Held {
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Resolves when the lease is lost, or expires within the margin. Needs no answer of anybody. Cancel safe.
    pub(crate) async fn at_risk(&self) {
        let mut expires = self.expires.clone();
        loop {
            let Some(until) = *expires.borrow_and_update() else { return };
            let risk = until.checked_sub(self.margin).unwrap_or(until);
            tokio::select! {
                biased;
                changed = expires.changed() => if changed.is_err() { return },
                () = sleep_until(risk) => return,
            }
        }
    }
}

struct Entry {
    expires: watch::Sender<Option<Instant>>,
    renew_at: Instant,
}

type Entries = Arc<Mutex<BTreeMap<u64, (Identity, Entry)>>>;

/// Leases for slots. When it is dropped, its task ends.
pub(crate) struct Keeper<L> {
    store: Arc<L>,
    /// By token, which no two leases share.
    entries: Entries,
    /// Held for writing while a batch is renewed, for reading while a lease is released: no lease is renewed after
    /// its release.
    gate: Arc<RwLock<()>>,
    /// Wakes the task; its end ends the task.
    changed: watch::Sender<()>,
    margin: Duration,
    limits: StepLimits,
    voice: Voice,
}

impl<L: LeaseStore> Keeper<L> {
    pub(crate) fn spawn(store: L, margin: Duration, limits: StepLimits, voice: Voice) -> Arc<Self> {
        let (changed, wake) = watch::channel(());
        let store = Arc::new(store);
        let (entries, gate) = (Entries::default(), Arc::new(RwLock::new(())));
        let task = Task {
            store: Arc::clone(&store),
            entries: Arc::clone(&entries),
            gate: Arc::clone(&gate),
            margin,
            limit: limits.renew,
            voice: voice.clone(),
        };
        tokio::spawn(task.run(wake));
        Arc::new(Self { store, entries, gate, changed, margin, limits, voice })
    }

    /// Leases an identity. The same request again after a timeout gets the same lease. Not cancel safe, but bounded.
    pub(crate) async fn acquire(&self, request: &str) -> Result<Held, LeaseError> {
        let acquired = timeout(self.limits.acquire, self.store.acquire(request)).await;
        let lease = acquired.unwrap_or_else(|late| {
            Err(LeaseError::Unavailable { what: "no answer to acquire".into(), source: Box::new(late) })
        });
        let lease = lease.inspect_err(|_| self.say(None, LeaseEvent::Refused))?;
        let (sender, expires) = watch::channel(Some(lease.expires));
        let renew_at = renew_at(Instant::now(), lease.expires, self.margin);
        let entry = Entry { expires: sender, renew_at };
        lock(&self.entries).insert(lease.identity.token, (lease.identity, entry));
        self.changed.send_replace(());
        self.say(Some(lease.identity), LeaseEvent::Acquired);
        Ok(Held { identity: lease.identity, expires, margin: self.margin })
    }

    /// Gives a lease back; whatever the store says, it is not renewed any more. Not cancel safe, but bounded.
    pub(crate) async fn release(&self, held: Held) {
        let _gate = self.gate.read().await;
        lock(&self.entries).remove(&held.identity.token);
        let released = timeout(self.limits.release, self.store.release(&held.identity)).await;
        let event = match released {
            Ok(Ok(Release::Released)) => LeaseEvent::Released,
            Ok(Ok(Release::NotHeld)) => LeaseEvent::ReleasedLate,
            Ok(Err(error)) => {
                tracing::warn!(identity = ?held.identity, %error, "a lease is left to expire");
                LeaseEvent::ReleaseFailed
            }
            Err(_) => LeaseEvent::ReleaseFailed,
        };
        self.say(Some(held.identity), event);
    }

    /// Lets a lease expire by itself, since somebody holds its CID's lock: given back, it would be what is given next.
    /// Not cancel safe, but bounded.
    pub(crate) async fn shelve(&self, held: Held) {
        let _gate = self.gate.read().await;
        lock(&self.entries).remove(&held.identity.token);
        self.say(Some(held.identity), LeaseEvent::Shelved);
    }

    fn say(&self, identity: Option<Identity>, event: LeaseEvent) {
        self.voice.say(Event::Lease { identity, event });
    }
}

fn lock(entries: &Entries) -> std::sync::MutexGuard<'_, BTreeMap<u64, (Identity, Entry)>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What renews.
struct Task<L> {
    store: Arc<L>,
    entries: Entries,
    gate: Arc<RwLock<()>>,
    margin: Duration,
    limit: Duration,
    voice: Voice,
}

impl<L: LeaseStore> Task<L> {
    async fn run(self, mut wake: watch::Receiver<()>) {
        loop {
            let next = lock(&self.entries).values().map(|(_, entry)| entry.renew_at).min();
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = wake.changed() => if changed.is_err() { return },
                () = due => self.renew().await,
            }
        }
    }

    /// Renews every lease there is, so that all are due together from then on.
    async fn renew(&self) {
        let _gate = self.gate.write().await;
        let identities: Vec<_> = lock(&self.entries).values().map(|(identity, _)| *identity).collect();
        let answer = timeout(self.limit, self.store.renew(&identities)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!(%error, "leases were not renewed");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!(limit = ?self.limit, "the lease store did not answer a renewal");
                Vec::new()
            }
        };
        let mut answer = answer.into_iter();
        for identity in identities {
            let event = self.renewed(&identity, answer.next());
            self.voice.say(Event::Lease { identity: Some(identity), event });
        }
    }

    fn renewed(&self, identity: &Identity, renewal: Option<Renewal>) -> LeaseEvent {
        let now = Instant::now();
        let mut entries = lock(&self.entries);
        let Some((_, entry)) = entries.get_mut(&identity.token) else { return LeaseEvent::Released };
        match renewal {
            Some(Renewal::Until(expires)) => {
                entry.renew_at = renew_at(now, expires, self.margin);
                entry.expires.send_replace(Some(expires));
                LeaseEvent::Renewed
            }
            Some(Renewal::Lost) => {
                entry.expires.send_replace(None);
                entries.remove(&identity.token);
                LeaseEvent::Lost
            }
            None => {
                let expires = entry.expires.borrow().unwrap_or(now);
                entry.renew_at = retry_at(now, expires, self.margin);
                LeaseEvent::RenewalFailed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn renewals_leave_time_for_two_more_before_the_margin() {
        let (now, margin) = (Instant::now(), 10 * SECOND);
        let first = renew_at(now, now + 60 * SECOND, margin);
        assert!(first - now >= 16 * SECOND && first - now < 17 * SECOND);
        let late = now + 49 * SECOND;
        assert!(retry_at(late, now + 60 * SECOND, margin) < now + 50 * SECOND, "once more before the margin");
        assert_eq!(retry_at(now, now + 60 * SECOND, margin) - now, RETRY_MAX);
        assert_eq!(renew_at(now, now, margin) - now, RETRY_MIN, "a lease of no length does not spin");
        assert_eq!(retry_at(now, now, margin) - now, RETRY_MIN);
    }
}
