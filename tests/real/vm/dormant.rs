//! QEMU that was started and has no guest yet: it takes little, a restore takes it first, and it ends like any other.

use std::{fs, path::Path, sync::Arc, time::Duration};

use hearth_pool::{
    phase::Phase,
    pool::{Bounds, Config, Lane, Phases, RuntimeSlots, events::Event},
    scale::{
        gate::{Cost, DORMANT_MIB},
        scaler::Policy,
    },
};
use hearth_tests::real::{Leftovers, Worker};
use hearth_worker::local::Local;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::{machine, room};

const RUNTIME: &str = "bash";
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

fn at_rest(phases: &Phases) -> bool {
    (phases.total(Phase::Ready), phases.total(Phase::Dormant)) == (1, 1)
}

/// The QEMUs of a run directory with the memory that is theirs alone or their guest's, in KiB; least first.
fn qemus(run_dir: &Path) -> Vec<(u64, i32)> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let qemu = |pid: i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let ours = cwd.starts_with(run_dir) && command.starts_with(b"/usr/bin/qemu-system");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok().filter(|_| ours)?;
        let kib = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        Some((kib("RssAnon:")? + kib("RssShmem:")?, pid))
    };
    let mut qemus: Vec<_> = pids.filter_map(qemu).collect();
    qemus.sort();
    qemus
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dormant_qemu_takes_little_is_used_first_and_is_replaced_when_it_ends() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    machine.baked(RUNTIME).unwrap();
    let run_dir = Worker::run_dir().unwrap();
    let host = Worker::host(machine, run_dir.path().into()).await.unwrap();
    let mut config = Config::new(vec![RuntimeSlots { name: RUNTIME.into(), slots: 2, warm_up: None }]);
    config.scaling = Some(Policy::default());
    let cost = Cost { memory_mib: 256, cpu_milli: 1000 };
    config.bounds.insert(RUNTIME.into(), Bounds { floor: 1, cost, dormant: 1 });
    let (tell, mut started) = mpsc::channel(8);
    config.observer = Some(Arc::new(move |event| {
        if let Event::Started { .. } = event {
            let _ = tell.try_send(());
        }
    }));
    let local = Local::open(&host, config).await.unwrap();
    let pool = local.pool().clone();
    let mut phases = pool.phases();
    timeout(LONG, phases.wait_for(at_rest)).await.unwrap().unwrap();
    timeout(LONG, started.recv()).await.unwrap().unwrap();
    let both = qemus(run_dir.path());
    eprintln!("QEMUs, KiB and process: {both:?}");
    assert!(both[0].0 < DORMANT_MIB * 1024 && both[1].0 > both[0].0, "one has no guest: {both:?}");

    // It ends: another takes its place.
    kill_process(Pid::from_raw(both[0].1).unwrap(), Signal::KILL).unwrap();
    timeout(LONG, started.recv()).await.unwrap().unwrap();
    timeout(LONG, phases.wait_for(at_rest)).await.unwrap().unwrap();
    let now = qemus(run_dir.path());
    assert!(now.len() == 2 && now.iter().all(|(_, pid)| *pid != both[0].1), "{now:?} after {both:?}");

    // Two are claimed, and there is no third slot whose VM could be there sooner: the second comes from the dormant one,
    // whose start took none of its time.
    let claim = async || pool.claim(RUNTIME, Lane::Normal, Instant::now() + LONG).await.unwrap();
    let (first, second) = (claim().await, claim().await);
    let steps =
        |claim: &hearth_pool::pool::Claim| claim.vm().steps.iter().map(|step| step.name).collect::<Vec<_>>();
    assert!(steps(&first).contains(&"start"), "{:?}", first.vm().steps);
    assert!(
        !steps(&second).contains(&"start") && steps(&second).contains(&"load"),
        "{:?}",
        second.vm().steps
    );
    second.session().ping(LONG).await.unwrap();
    drop((first, second, pool));
    local.close(LONG).await.unwrap();
    assert_eq!(Leftovers::of(run_dir.path()), Leftovers::default());
}
