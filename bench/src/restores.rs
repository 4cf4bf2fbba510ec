//! From nothing to a VM that may be claimed, and the claim. The floor is the same restore by hand.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hearth_pool::{
    hypervisor::RestoreStep,
    phase::Phase,
    pool::{Bounds, Config, Lane, Outcome, RuntimeSlots, events::Event},
    scale::scaler::Policy,
};
use hearth_schemas::manifest::Manifest;
use hearth_worker::local::{Host, Local, warm_up};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use crate::{Plan, by_hand::ByHand, series::Report};

const TO_WAKE: &str = "restore to wake confirmed";
const TO_READY: &str = "restore to ready";
const FROM_DORMANT: &str = "restore from a dormant VMM to wake confirmed";
const CLAIM: &str = "claim of a warm VM";
/// The step that ends a greeting, where there is one.
const WARM_UP: &str = "warm_up";
/// Of the series, the ones that are no step.
pub const NAMES: [&str; 4] = [TO_WAKE, TO_READY, FROM_DORMANT, CLAIM];

/// Bound of everything that a sample waits for.
const LIMIT: Duration = Duration::from_secs(120);
/// After this a pool is idle.
const SETTLES: Duration = Duration::from_millis(50);
/// The first restore finds cold caches: it does not count.
const DISCARDED: usize = 1;

/// One of ours, one by hand, and so on.
///
/// # Errors
/// A VM failed.
pub async fn run(
    plan: &Plan,
    host: &Host,
    manifest: &Manifest,
    by_hand: &ByHand,
    report: &mut Report,
) -> Result<()> {
    for sample in 0..plan.samples + DISCARDED {
        let mut pair = Report::default();
        ours(plan, host, manifest, &mut pair).await.context("a restore of ours")?;
        from_dormant(plan, host, manifest, &mut pair).await.context("a restore from a dormant VMM")?;
        by_hand_to_ready(manifest, by_hand, &mut pair).await.context("a restore by hand")?;
        if sample >= DISCARDED {
            report.take(pair);
        }
    }
    Ok(())
}

/// What the pool told of its only slot.
enum Told {
    Moved(Phase, Instant),
    Steps(Vec<RestoreStep>),
}

async fn ours(plan: &Plan, host: &Host, manifest: &Manifest, report: &mut Report) -> Result<()> {
    let (tell, mut told) = mpsc::channel(64);
    let slots = RuntimeSlots { name: plan.runtime.clone(), slots: 1, warm_up: warm_up(manifest) };
    let mut config = Config::new(vec![slots]);
    config.observer = Some(Arc::new(move |event| {
        let told = match event {
            Event::Moved { to, .. } => Told::Moved(to, Instant::now()),
            Event::Restored { steps, .. } => Told::Steps(steps.to_vec()),
            _ => return,
        };
        let _ = tell.try_send(told);
    }));
    let local = Local::open(host, config).await?;
    let (began, ready, steps) = timeout(LIMIT, until_ready(&mut told)).await??;
    let whole = ready.duration_since(began);
    let warm_up: Duration = steps.iter().filter(|step| step.name == WARM_UP).map(|step| step.took).sum();
    report.ours(TO_WAKE, whole.saturating_sub(warm_up));
    report.ours(TO_READY, whole);
    for step in &steps {
        report.ours(&named(step.name), step.took);
    }
    claim(plan, &local, report).await?;
    local.close(Duration::ZERO).await?;
    Ok(())
}

async fn until_ready(told: &mut mpsc::Receiver<Told>) -> Result<(Instant, Instant, Vec<RestoreStep>)> {
    let (mut began, mut ready, mut steps) = (None, None, None);
    loop {
        match told.recv().await.context("the pool ended")? {
            Told::Moved(Phase::Leasing, at) => began = Some(at),
            Told::Moved(Phase::Ready, at) => ready = Some(at),
            Told::Moved(phase @ (Phase::Retiring | Phase::Cooling), _) => {
                anyhow::bail!("the slot went {phase} instead of ready")
            }
            Told::Moved(..) => {}
            Told::Steps(of) => steps = Some(of),
        }
        if let (Some(began), Some(ready), true) = (began, ready, steps.is_some()) {
            return Ok((began, ready, steps.unwrap_or_default()));
        }
    }
}

/// One VM is claimed, and a dormant VMM becomes the next.
async fn from_dormant(plan: &Plan, host: &Host, manifest: &Manifest, report: &mut Report) -> Result<()> {
    let (tell, mut told) = mpsc::channel(64);
    let slots = RuntimeSlots { name: plan.runtime.clone(), slots: 2, warm_up: warm_up(manifest) };
    let mut config = Config::new(vec![slots]);
    config.scaling = Some(Policy::default());
    config.bounds.insert(plan.runtime.clone(), Bounds { floor: 1, dormant: 1, ..Bounds::default() });
    config.observer = Some(Arc::new(move |event| {
        let _ = match event {
            Event::Restored { turn, steps, .. } => {
                let warm_up = steps.iter().filter(|step| step.name == WARM_UP).map(|step| step.took);
                let ahead = steps.iter().all(|step| step.name != "start");
                tell.try_send(Some((turn.saturating_sub(warm_up.sum()), ahead)))
            }
            Event::Started { .. } => tell.try_send(None),
            _ => return,
        };
    }));
    let local = Local::open(host, config).await?;
    let next =
        async |told: &mut mpsc::Receiver<_>| timeout(LIMIT, told.recv()).await?.context("the pool ended");
    // The first VM, and a VMM that was started once that was Ready.
    ensure!(next(&mut told).await?.is_some() && next(&mut told).await?.is_none(), "not in their order");
    let claim = local.pool().claim(&plan.runtime, Lane::Normal, Instant::now() + LIMIT).await?;
    let (took, ahead) = next(&mut told).await?.context("another VMM was started")?;
    ensure!(ahead, "its VMM was not started ahead");
    report.ours(FROM_DORMANT, took);
    drop(claim);
    local.close(Duration::ZERO).await?;
    Ok(())
}

/// The claim of a VM that is there, against waking one task and being woken by it.
async fn claim(plan: &Plan, local: &Local, report: &mut Report) -> Result<()> {
    // The slot says that it is ready a moment before it stands in the queue.
    sleep(SETTLES).await;
    let began = Instant::now();
    let claim = local.pool().claim(&plan.runtime, Lane::Normal, began + LIMIT).await?;
    report.ours(CLAIM, began.elapsed());
    ensure!(claim.outcome() == Outcome::Hit, "the claim had to wait");
    drop(claim);

    let (ask, asked) = oneshot::channel::<()>();
    let (answer, answered) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let _ = asked.await;
        let _ = answer.send(());
    });
    tokio::task::yield_now().await;
    let began = Instant::now();
    let _ = ask.send(());
    let _ = answered.await;
    report.floor(CLAIM, began.elapsed());
    Ok(())
}

async fn by_hand_to_ready(manifest: &Manifest, by_hand: &ByHand, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let mut vm = by_hand.restore().await?;
    let session = vm.session().await?;
    report.floor(TO_WAKE, began.elapsed());
    report.floor(FROM_DORMANT, began.elapsed());
    if warm_up(manifest).is_some() {
        let warming = Instant::now();
        vm.warm_up(&session).await?;
        report.floor(&named(WARM_UP), warming.elapsed());
    }
    report.floor(TO_READY, began.elapsed());
    for step in vm.steps() {
        report.floor(&named(step.name), step.took);
    }
    drop(session);
    vm.end().await
}

fn named(step: &str) -> String {
    format!("  restore: {step}")
}
