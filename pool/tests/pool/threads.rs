//! The pool on several threads, in real time, with leases in a real file.

use std::{sync::Arc, time::Duration};

use hearth_pool::{
    fakes::{FakeHypervisor, Knobs, Ran},
    lease::{
        LeaseStore,
        local::{LocalConfig, LocalLeases},
    },
    pool::{Config, Lane, Pool},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::rig::{LONG, MS, SECOND, run, slots};

const CLAIMERS: u32 = 8;
const CLAIMS: u32 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claims_and_changes_of_mind_on_several_threads_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let leases = LocalLeases::open(LocalConfig::new(dir.path())).unwrap();
    let knobs = Knobs {
        restore_takes: MS,
        dial_takes: Duration::ZERO,
        destroy_takes: Duration::ZERO,
        ..Knobs::default()
    };
    let hypervisor = FakeHypervisor::new(knobs, Arc::new(|_| Ran::prints("hi")));
    let mut config = Config::new(vec![slots("python", 3)]);
    config.restores_at_once = 3;
    let pool = Pool::spawn(config, hypervisor.clone(), leases);
    let mut claimers = JoinSet::new();
    for claimer in 0..CLAIMERS {
        let pool = pool.clone();
        claimers.spawn(async move {
            for claim in 0..CLAIMS {
                // Some give up in the middle of a hand-over, some never.
                let patience = if claim % 2 == 0 { 20 * SECOND } else { (claimer * 97 % 13) * MS / 10 };
                let deadline = Instant::now() + 20 * SECOND;
                if let Ok(claim) = timeout(patience, pool.claim("python", Lane::Normal, deadline)).await {
                    assert_eq!(run(&claim.unwrap(), &["hi"]).await.unwrap(), "hi");
                }
            }
        });
    }
    while let Some(done) = timeout(LONG, claimers.join_next()).await.unwrap() {
        done.unwrap();
    }
    let counts = pool.claim_counts()["python"];
    assert!(counts.hit + counts.wait >= u64::from(CLAIMERS * CLAIMS / 2), "{counts:?}");
    pool.close(20 * SECOND).await.unwrap();
    let seen = hypervisor.seen();
    assert_eq!((seen.live, seen.wrong), (vec![], vec![]));
    let again = LocalLeases::open(LocalConfig::new(dir.path())).unwrap();
    assert_eq!(again.acquire("a").await.unwrap().identity.cid, 3, "every lease was given back");
}
