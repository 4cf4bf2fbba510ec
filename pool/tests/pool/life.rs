//! Claims of a healthy pool.

use std::{collections::BTreeSet, time::Duration};

use hearth_pool::{
    phase::Phase,
    pool::{ClaimCounts, ClaimError, Lane, Outcome, events::Farewell},
    session::GetLimits,
};
use tokio::time::{Instant, timeout};

use crate::rig::{LONG, MS, Rig, SECOND, command, run, slots};

#[tokio::test(start_paused = true)]
async fn a_vm_serves_one_job() {
    let rig = Rig::new(2);
    let mut tokens = BTreeSet::new();
    for n in 0..20 {
        let claim = rig.claim().await.unwrap();
        assert!(tokens.insert(claim.vm().identity.token), "a second job in one VM");
        let limits = GetLimits { files_max: 9, file_max_bytes: 99, total_max_bytes: 99 };
        let mut found = claim.session().get(vec!["**".into()], limits).await.unwrap();
        assert!(found.next().await.unwrap().is_none(), "the tree of job {n} is empty");
        let mut upload = claim.session().put().await.unwrap();
        upload.file("left-behind", 0o600, 2, &b"me"[..]).await.unwrap();
        upload.finish(SECOND).await.unwrap();
        assert_eq!(run(&claim, &["echo", "hi"]).await.unwrap(), "echo hi");
        match n % 2 {
            0 => claim.finish(),
            _ => drop(claim),
        }
    }
    rig.until_count(Phase::Ready, 2).await;
    assert_eq!(rig.hypervisor.seen().destroyed, 20);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_identity_is_free_only_after_its_vm_is_destroyed() {
    // The rig's lease store asks the hypervisor at every release, and the hypervisor looks at every restore.
    let rig = Rig::with(
        3,
        |config| config.max_age = 20 * SECOND,
        |knobs| knobs.fail_destroys = 5,
        |leases| leases.ranges.cids = 3..=5,
    );
    let mut cids = BTreeSet::new();
    for n in 0..30 {
        let claim = rig.claim().await.unwrap();
        cids.insert(claim.vm().identity.cid);
        if n % 3 == 0 {
            rig.hypervisor.kill(claim.vm().identity.cid);
        }
        tokio::time::sleep(3 * SECOND).await;
    }
    assert_eq!(cids, (3..=5).collect(), "three identities for thirty VMs");
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_hits_waits_or_times_out() {
    let rig = Rig::new(1);
    rig.until_count(Phase::Ready, 1).await;
    let hit = rig.claim().await.unwrap();
    assert_eq!((hit.outcome(), hit.waited()), (Outcome::Hit, Duration::ZERO));
    let error = rig.claim_within(Lane::Normal, 5 * SECOND).await.unwrap_err();
    let timed_out = ClaimError::Timeout { runtime: "python".into(), waited: 5 * SECOND, last_failure: None };
    assert_eq!(error, timed_out);
    drop(hit);
    let wait = rig.claim().await.unwrap();
    assert_eq!(wait.outcome(), Outcome::Wait);
    assert_eq!(wait.waited(), (20 + 500 + 50) * MS, "destroy, restore, dial");
    let counts = rig.pool.claim_counts();
    assert_eq!(counts["python"], ClaimCounts { hit: 1, wait: 1, timeout: 1 });
    drop(wait);
    let unknown = rig.pool.claim("cobol", Lane::Normal, Instant::now() + SECOND).await.unwrap_err();
    assert_eq!(unknown.to_string(), "unknown runtime \"cobol\"; this pool has python");
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_says_where_its_time_went() {
    let rig = Rig::with(1, |config| config.runtimes[0].warm_up = Some(command(&["true"])), |_| {}, |_| {});
    rig.until_count(Phase::Ready, 1).await;
    tokio::time::sleep(7 * SECOND).await;
    let claim = rig.claim().await.unwrap();
    let vm = claim.vm();
    let steps: Vec<_> = vm.steps.iter().map(|step| (step.name, step.took)).collect();
    assert_eq!(
        steps,
        [
            ("fake", 500 * MS),
            ("dial", 50 * MS),
            ("hello", Duration::ZERO),
            ("wake", Duration::ZERO),
            ("warm_up", Duration::ZERO)
        ]
    );
    assert_eq!((vm.slot.to_string().as_str(), vm.snapshot.as_str()), ("python-0", "fake"));
    assert_eq!(vm.age, 7 * SECOND + 50 * MS);
    assert_eq!((vm.identity.cid, vm.identity.port), (3, 9000));
    assert_ne!(vm.nonce, [0; 32]);
    drop(claim);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn better_lanes_go_first_and_within_a_lane_who_came_first() {
    let rig = Rig::new(1);
    let held = rig.claim().await.unwrap();
    let (served, mut order) = tokio::sync::mpsc::channel(9);
    let asked = [
        (Lane::Batch, "b1"),
        (Lane::Normal, "n1"),
        (Lane::Interactive, "i1"),
        (Lane::Normal, "n2"),
        (Lane::Interactive, "i2"),
    ];
    for (lane, name) in asked {
        let (pool, served) = (rig.pool.clone(), served.clone());
        tokio::spawn(async move {
            let claim = pool.claim("python", lane, Instant::now() + LONG).await.unwrap();
            served.send(name).await.unwrap();
            drop(claim);
        });
        // Each is in the queue before the next one comes.
        tokio::time::sleep(MS).await;
    }
    drop((held, served));
    let mut names = Vec::new();
    while let Some(name) = order.recv().await {
        names.push(name);
    }
    assert_eq!(names, ["i1", "i2", "n1", "n2", "b1"]);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn slots_refill_by_themselves_a_few_at_a_time() {
    let rig = Rig::with(8, |config| config.restores_at_once = 2, |_| {}, |_| {});
    let mut most = 0;
    rig.until(|phases| {
        most = most.max(phases.total(Phase::Restoring) + phases.total(Phase::Greeting));
        phases.total(Phase::Ready) == 8
    })
    .await;
    assert_eq!(most, 2);
    let claims: Vec<_> = futures(8, &rig).await;
    assert_eq!(rig.count(Phase::Claimed), 8);
    drop(claims);
    rig.until_count(Phase::Ready, 8).await;
    rig.close().await;
}

async fn futures(n: usize, rig: &Rig) -> Vec<hearth_pool::pool::Claim> {
    let mut claims = Vec::new();
    for _ in 0..n {
        claims.push(rig.claim().await.unwrap());
    }
    claims
}

#[tokio::test(start_paused = true)]
async fn runtimes_have_queues_of_their_own() {
    let rig = Rig::with(1, |config| config.runtimes.push(slots("bash", 1)), |_| {}, |_| {});
    let python = rig.claim().await.unwrap();
    let bash = rig.pool.claim("bash", Lane::Batch, Instant::now() + SECOND).await.unwrap();
    assert_eq!((python.vm().slot.runtime.as_str(), bash.vm().slot.runtime.as_str()), ("python", "bash"));
    assert_eq!(rig.pool.phases().borrow().count("bash", Phase::Claimed), 1);
    let none = rig.pool.claim("bash", Lane::Interactive, Instant::now() + SECOND).await;
    assert!(matches!(none, Err(ClaimError::Timeout { .. })));
    drop((python, bash));
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_nobody_claims_is_replaced_before_it_is_too_old() {
    let max_age = 100 * SECOND;
    let rig = Rig::with(4, |config| config.max_age = max_age, |_| {}, |_| {});
    let stale = |rig: &Rig| -> Vec<_> {
        rig.farewells().into_iter().filter(|(why, _)| *why == Farewell::Stale).collect()
    };
    timeout(LONG, async {
        while stale(&rig).len() < 12 {
            tokio::time::sleep(SECOND).await;
        }
    })
    .await
    .unwrap();
    let ages: BTreeSet<_> = stale(&rig).into_iter().map(|(_, age)| age.unwrap()).collect();
    assert!(ages.iter().all(|age| (90 * SECOND..=max_age + MS).contains(age)), "{ages:?}");
    assert!(ages.len() > 8, "they do not go together: {ages:?}");
    rig.close().await;
}
