//! What every lease store promises, as tests of whichever store there is.

use std::time::Duration;

use hearth_pool::lease::{Identity, Lease, LeaseError, LeaseStore, Release, Renewal};
use tokio::time::Instant;

use crate::{
    beliefs::Beliefs,
    wait::{until_passed, until_some},
};

/// CIDs and ports that the stores under test lease: 3 and 4, 9000 and 9001.
pub const IDENTITIES: u32 = 2;
/// How long their leases last.
pub const TTL: Duration = Duration::from_millis(800);
/// How long after its end somebody else may have to wait for a lease.
pub const SLACK: Duration = Duration::from_secs(3);

/// Where the stores under test keep their leases. Those of one backing share them.
pub trait Backing {
    /// What is tested.
    type Store: LeaseStore;

    /// One more process, in effect, that uses the backing.
    fn open(&self) -> Self::Store;
}

async fn lease(store: &impl LeaseStore, request: &str) -> Lease {
    store.acquire(request).await.unwrap()
}

/// Leases as soon as somebody else's lease has ended.
async fn take_over(store: &impl LeaseStore, request: &str) -> Lease {
    let take = async || match store.acquire(request).await {
        Ok(lease) => Some(lease),
        Err(LeaseError::Exhausted { .. }) => None,
        Err(error) => panic!("{error:?}"),
    };
    until_some(TTL + SLACK, "an expired lease is taken over", take).await
}

async fn renew_one(store: &impl LeaseStore, identity: Identity) -> Renewal {
    store.renew(&[identity]).await.unwrap()[0]
}

/// Every identity is given once; then the store says so, and when to ask again.
pub async fn exhaustion_is_told_with_a_hint<B: Backing>(backing: B) {
    let (one, two) = (backing.open(), backing.open());
    let beliefs = Beliefs::default();
    let first = lease(&one, "a").await;
    beliefs.given(&first);
    beliefs.given(&lease(&two, "b").await);
    for store in [&one, &two] {
        match store.acquire("c").await.unwrap_err() {
            LeaseError::Exhausted { retry_after, .. } => assert!(retry_after <= TTL + SLACK),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(one.release(&first.identity).await.unwrap(), Release::Released);
    beliefs.stopped(&first.identity);
    beliefs.given(&lease(&two, "c").await);
}

/// A request whose answer was lost is asked again and gets what it got.
pub async fn the_same_request_gets_the_same_lease<B: Backing>(backing: B) {
    let (one, two) = (backing.open(), backing.open());
    let first = lease(&one, "a").await;
    let again = lease(&one, "a").await;
    assert_eq!(first.identity, again.identity);
    assert!(first.expires <= again.expires);
    let theirs = lease(&two, "a").await;
    assert_ne!(theirs.identity.cid, first.identity.cid, "a request is its store's own");
    assert_ne!(theirs.identity.port, first.identity.port);
    assert_eq!(one.release(&first.identity).await.unwrap(), Release::Released);
    let later = lease(&one, "a").await;
    assert!(
        later.identity.token > first.identity.token,
        "what was given back is not given as if it were held"
    );
}

/// An expired lease is somebody else's, and its late holder is told so.
pub async fn an_expired_lease_is_taken_and_its_late_holder_refused<B: Backing>(backing: B) {
    let (one, two) = (backing.open(), backing.open());
    let old = lease(&one, "a").await;
    let other = lease(&one, "b").await;
    let taken = take_over(&two, "c").await;
    assert!(old.expires <= Instant::now() || taken.identity.cid != old.identity.cid);
    let mine = if taken.identity.cid == old.identity.cid { old } else { other };
    assert_eq!((taken.identity.cid, taken.identity.port), (mine.identity.cid, mine.identity.port));
    assert!(taken.identity.token > mine.identity.token);
    assert_eq!(renew_one(&one, mine.identity).await, Renewal::Lost);
    assert_eq!(one.release(&mine.identity).await.unwrap(), Release::NotHeld);
    assert!(matches!(renew_one(&two, taken.identity).await, Renewal::Until(_)), "the new holder keeps it");
}

/// Late is late, also when nobody else has taken the lease.
pub async fn a_late_renewal_and_a_late_release_are_refused<B: Backing>(backing: B) {
    let store = backing.open();
    let (renewed, released) = (lease(&store, "a").await, lease(&store, "b").await);
    until_passed(released.expires.max(renewed.expires)).await;
    assert_eq!(renew_one(&store, renewed.identity).await, Renewal::Lost);
    assert_eq!(store.release(&released.identity).await.unwrap(), Release::NotHeld);
}

/// Whoever renews in time keeps the lease for as long as it likes.
pub async fn a_renewed_lease_lasts<B: Backing>(backing: B) {
    let (one, two) = (backing.open(), backing.open());
    let held = [lease(&one, "a").await.identity, lease(&one, "b").await.identity];
    let enough = Instant::now() + TTL * 5 / 2;
    let keep = async || {
        let renewed = one.renew(&held).await.unwrap();
        let until: Vec<Instant> = renewed.iter().map(until_of).collect();
        assert!(until.iter().all(|u| *u > Instant::now()), "{until:?}");
        assert!(matches!(two.acquire("c").await, Err(LeaseError::Exhausted { .. })));
        (Instant::now() > enough).then_some(())
    };
    until_some(TTL * 4, "the time is over", keep).await;
}

fn until_of(renewal: &Renewal) -> Instant {
    match renewal {
        Renewal::Until(until) => *until,
        Renewal::Lost => panic!("lost although renewed in time"),
    }
}

/// One batch, its answers in the order asked, whatever else is in it.
pub async fn a_batch_is_answered_in_order<B: Backing>(backing: B) {
    let store = backing.open();
    let (a, b) = (lease(&store, "a").await.identity, lease(&store, "b").await.identity);
    let fenced = Identity { token: a.token - 1, ..a };
    let unknown = Identity { cid: 4242, ..b };
    let answers = store.renew(&[fenced, b, unknown, a]).await.unwrap();
    assert!(
        matches!(answers[..], [Renewal::Lost, Renewal::Until(_), Renewal::Lost, Renewal::Until(_)]),
        "{answers:?}"
    );
    assert_eq!(store.renew(&[]).await.unwrap(), []);
    assert_eq!(store.release(&fenced).await.unwrap(), Release::NotHeld);
    assert_eq!(store.release(&a).await.unwrap(), Release::Released);
    assert_eq!(store.release(&a).await.unwrap(), Release::NotHeld, "once is enough");
    assert_eq!(renew_one(&store, a).await, Renewal::Lost);
    assert!(matches!(renew_one(&store, b).await, Renewal::Until(_)));
}

/// However many ask at once, no two hold the same.
pub async fn nothing_is_given_twice_at_once<B: Backing>(backing: B) {
    let stores = [backing.open(), backing.open(), backing.open()];
    let beliefs = Beliefs::default();
    let work = async |store: &B::Store, name: usize| {
        for round in 0..20 {
            let lease = take_over(store, &format!("{name} {round}")).await;
            beliefs.given(&lease);
            let until = until_of(&renew_one(store, lease.identity).await);
            beliefs.renewed(&lease.identity, until);
            beliefs.stopped(&lease.identity);
            assert_eq!(store.release(&lease.identity).await.unwrap(), Release::Released);
        }
    };
    tokio::join!(work(&stores[0], 0), work(&stores[1], 1), work(&stores[2], 2), work(&stores[2], 3));
    assert_eq!(beliefs.leases(), 80);
}

/// Makes one test of each rule. `$open` is a future of `Option<Backing>`; without a backing the test is skipped, and
/// whatever returns `None` says so aloud.
#[macro_export]
macro_rules! lease_rules {
    ($open:expr) => {
        $crate::lease_rules! { @ $open;
            exhaustion_is_told_with_a_hint
            the_same_request_gets_the_same_lease
            an_expired_lease_is_taken_and_its_late_holder_refused
            a_late_renewal_and_a_late_release_are_refused
            a_renewed_lease_lasts
            a_batch_is_answered_in_order
            nothing_is_given_twice_at_once
        }
    };
    (@ $open:expr; $($rule:ident)*) => {
        $(
            #[tokio::test]
            async fn $rule() {
                if let Some(backing) = $open.await {
                    $crate::lease_rules::$rule(backing).await;
                }
            }
        )*
    };
}
