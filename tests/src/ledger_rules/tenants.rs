//! Tenants: how much of each may run, over all workers.

use std::time::Duration;

use hearth_worker::ledger::{
    Beat, Begun, Busy, Ledger, Rate, Registered, Registration, Seized, TenantLimits, Token, shard,
};
use tokio::time::Instant;

use super::{Backing, TAKEN_OVER_WITHIN, begin, due_in, failed, job};
use crate::wait::{until, until_some};

fn limited(limits: TenantLimits) -> Registration {
    Registration { limits, ..Registration::default() }
}

/// Over all workers; a job counts until it is given back, committed, or its owner dies.
pub async fn a_tenant_runs_no_more_jobs_than_it_may<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let two_at_most = limited(TenantLimits { running_max: Some(2), starts: None });
    let begin = async |ledger: &B::Ledger, id: &str| {
        ledger.begin_with(&job("t", id), "digest", "w", &two_at_most).await.unwrap()
    };
    let begun = async |ledger: &B::Ledger, id: &str| match begin(ledger, id).await {
        Begun::Begun { token, .. } => token,
        other => panic!("{other:?}"),
    };
    let (a, _dies) = (begun(one, "a").await, begun(two, "b").await);
    assert_eq!(begin(one, "c").await, Begun::TenantBusy(Busy::Running(2)));
    assert!(matches!(begin(one, "b").await, Begun::Held { .. }), "a job is not in its own way");
    assert_eq!(one.running("t").await.unwrap(), 2);
    let other = two.begin_with(&job("u", "c"), "digest", "w", &two_at_most).await.unwrap();
    assert!(matches!(other, Begun::Begun { .. }), "tenants are not in each other's way");
    one.give_back(&a, failed("w", false)).await.unwrap();
    let c = begun(two, "c").await;
    assert_eq!(begin(one, "a").await, Begun::TenantBusy(Busy::Running(2)));
    one.commit(&c, "r".into()).await.unwrap();
    let a = begun(one, "a").await;
    let dead = async || {
        assert_eq!(one.heartbeat(&a).await.unwrap(), Beat::Ours);
        one.running("t").await.unwrap() == 1
    };
    until(TAKEN_OVER_WITHIN, "a dead owner's job runs no more", dead).await;
    begun(two, "d").await;
}

/// A burst, then one after the other at the rate, over all workers; later attempts do not count.
pub async fn a_tenants_jobs_begin_no_faster_than_they_may<B: Backing>(backing: B) {
    let ledgers = backing.ledgers();
    let (per_minute, burst) = (300, 3);
    let every = Duration::from_secs(60) / per_minute;
    let rate = limited(TenantLimits { running_max: None, starts: Some(Rate { per_minute, burst }) });
    let begin = async |tenant: &str, n: usize| {
        ledgers[n % 2].begin_with(&job(tenant, &n.to_string()), "digest", "w", &rate).await.unwrap()
    };
    let began = Instant::now();
    let mut tokens: Vec<Token> = Vec::new();
    while tokens.len() < 9 {
        let n = tokens.len();
        let token = until_some(TAKEN_OVER_WITHIN, "another one begins", async || match begin("t", n).await {
            Begun::Begun { token, .. } => Some(token),
            Begun::TenantBusy(Busy::Rate { free_in }) => {
                assert!(n >= 3, "a burst is not held up");
                assert!(free_in <= every, "{free_in:?}");
                None
            }
            other => panic!("{other:?}"),
        });
        tokens.push(token.await);
    }
    // Six after the burst: the last of them not before six times the pause.
    assert!(began.elapsed() >= every * 6 * 9 / 10, "{:?}", began.elapsed());
    assert!(matches!(begin("u", 0).await, Begun::Begun { .. }), "tenants are not in each other's way");
    let mut next = 9;
    let used_up = async || {
        next += 1;
        matches!(begin("t", next).await, Begun::TenantBusy(Busy::Rate { .. }))
    };
    until(TAKEN_OVER_WITHIN, "the rate is used up", used_up).await;
    ledgers[0].give_back(&tokens[0], failed("w", true)).await.unwrap();
    assert!(matches!(begin("t", 0).await, Begun::Begun { .. }), "an attempt that is not the first");
}

/// Each tenant with waiting jobs has a shard to itself, and keeps it as long as one of them waits.
pub async fn tenants_wait_apart_while_there_are_shards_enough<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let shards = 3;
    // Tenants who would wait in the same place if each had it to itself.
    let mut names = (0..).map(|n| format!("t{n}")).filter(|name| shard(name, shards) == 1);
    let [a, b, c, d] = [(); 4].map(|()| names.next().unwrap());
    let wait = async |tenant: &str, id: &str| {
        let registration = Registration { shards, ..due_in(60_000) };
        match one.register(&job(tenant, id), "digest", &registration).await.unwrap() {
            Registered::Waiting { shard, cancelled: false } => shard,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([wait(&a, "1").await, wait(&a, "2").await, wait(&a, "2").await], [1, 1, 1]);
    assert_eq!([wait(&b, "1").await, wait(&b, "2").await], [2, 2]);
    assert_eq!([wait(&c, "1").await, wait(&b, "3").await], [0, 2]);
    assert_eq!(wait(&d, "1").await, 0, "with whom the fewest wait");
    begin(two, &job(&a, "1"), "w").await;
    assert_eq!(wait(&a, "3").await, 1, "while one waits");
    for id in ["2", "3"] {
        begin(two, &job(&a, id), "w").await;
    }
    assert_eq!(wait("e", "1").await, 1, "a's is free again");
    // One that is given back waits again; one that is ended without a run does not.
    let token = begin(two, &job(&c, "1"), "w").await;
    two.give_back(&token, failed("w", true)).await.unwrap();
    assert_eq!(wait(&c, "1").await, 1, "e's has as few as d's, and home goes first");
    for (tenant, id) in [(&b, "1"), (&b, "2"), (&b, "3")] {
        one.cancel(&job(tenant, id)).await.unwrap();
        assert!(matches!(two.seize(&job(tenant, id), "w").await.unwrap(), Seized::Seized(_)));
    }
    assert_eq!(wait(&a, "4").await, 2, "b's is free again");
}
