//! A new snapshot takes over from an old one under a pool of real VMs.

use std::{fs, path::Path, sync::Arc, time::Duration};

use hearth_pool::{
    phase::Phase,
    pool::{Config, Lane, Outcome, RuntimeSlots, events::Event},
    snapshot::{MEMORY, ROOT, SCRATCH, STATE, SnapshotStore},
};
use hearth_schemas::manifest::Manifest;
use hearth_tests::real::{Leftovers, Machine, Worker};
use hearth_worker::local::{Host, Local};
use tokio::time::{Instant, timeout};

use crate::{machine, room};

const RUNTIME: &str = "bash";
const SLOTS: u32 = 2;
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

/// Publishes what a bake would, of the files of a snapshot that was baked before: as another one of that name.
fn publish(store: &SnapshotStore, from: &Path, name: &str) {
    let text = fs::read_to_string(from.join("manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_str(&text).unwrap();
    let draft = store.draft(RUNTIME).unwrap().unwrap();
    for file in [MEMORY, STATE, ROOT, SCRATCH] {
        fs::hard_link(from.join(file), draft.directory().join(file)).unwrap();
    }
    draft.publish(&Manifest { inputs_sha256: name.to_owned(), ..manifest }).unwrap();
}

/// A host whose only snapshot is one of its own, called `old`.
async fn host(machine: &Machine, run_dir: &Path) -> (Host, tempfile::TempDir) {
    machine.baked(RUNTIME).unwrap();
    // Beside the machine's own: files are linked.
    let data = tempfile::Builder::new().prefix("takes-over-").tempdir_in(&machine.data).unwrap();
    let mut host = Worker::host(machine, run_dir.to_owned()).await.unwrap();
    let baked = host.snapshot(RUNTIME).unwrap();
    publish(&SnapshotStore::new(data.path()), &baked.directory, "old");
    host.data_dir = data.path().to_owned();
    (host, data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_snapshot_takes_over_and_the_old_one_goes() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    let run_dir = Worker::run_dir().unwrap();
    let (host, data) = host(machine, run_dir.path()).await;
    let store = SnapshotStore::new(data.path());
    let old = data.path().join("snapshots").join(RUNTIME).join("old");
    let mut config = Config::new(vec![RuntimeSlots { name: RUNTIME.into(), slots: SLOTS, warm_up: None }]);
    let steps = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&steps);
    config.observer = Some(Arc::new(move |event| {
        if let Event::Moved { from, to, .. } = event {
            heard.lock().unwrap().push((from, to));
        }
    }));
    let local = Local::open(&host, config).await.unwrap();
    let pool = local.pool().clone();
    let mut phases = pool.phases();
    let all_ready = |phases: &hearth_pool::pool::Phases| phases.total(Phase::Ready) == SLOTS;
    timeout(LONG, phases.wait_for(all_ready)).await.unwrap().unwrap();
    // A job has a VM of the old snapshot all the while.
    let claim = async || pool.claim(RUNTIME, Lane::Normal, Instant::now() + LONG).await.unwrap();
    let held = claim().await;
    publish(&store, &old, "new");
    assert!(old.exists(), "VMs of it live");
    timeout(LONG, phases.wait_for(|phases| phases.total(Phase::Ready) == SLOTS - 1)).await.unwrap().unwrap();
    drop(held);
    // The other one, which nobody claims, is replaced.
    let mut snapshots = Vec::new();
    timeout(LONG, async {
        while old.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the old snapshot goes when its last VM has");
    timeout(LONG, phases.wait_for(all_ready)).await.unwrap().unwrap();
    let (mut ready, mut fewest) = (0, None);
    for (from, to) in steps.lock().unwrap().iter() {
        ready = ready + u32::from(*to == Phase::Ready) - u32::from(*from == Phase::Ready);
        // From when all were Ready for the first time.
        fewest = fewest.map(|fewest: u32| fewest.min(ready)).or((ready == SLOTS).then_some(SLOTS));
    }
    assert_eq!(fewest, Some(1), "one was Ready at every step");
    for _ in 0..SLOTS {
        let claim = claim().await;
        assert_eq!(claim.outcome(), Outcome::Hit);
        snapshots.push(claim.vm().snapshot.clone());
    }
    assert_eq!(snapshots, ["new", "new"]);
    drop(pool);
    local.close(LONG).await.unwrap();
    assert_eq!(Leftovers::of(run_dir.path()), Leftovers::default());
}
