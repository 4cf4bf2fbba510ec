//! What the service itself costs: a whole worker over RabbitMQ and Redis, with VMs that are processes, so that nothing of
//! what is measured is a virtual machine's.

mod bare;
mod figures;
mod load;
mod rig;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use hearth_tests::process::ProcessMachine;

pub use self::figures::{Figures, table};
use self::{
    bare::Bare,
    load::{Load, Producer},
    rig::{Programs, Rig},
};

/// What a run is told.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    /// Slots of the worker, each a setting of its own with nothing queued.
    pub slots: Vec<u32>,
    /// Jobs that wait when the worker starts, each a setting of its own with [`ServicePlan::queue_slots`] slots.
    pub queued: Vec<u64>,
    /// Slots of the settings with jobs that wait.
    pub queue_slots: u32,
    /// Times that each setting is measured.
    pub repeats: u16,
    /// Jobs, and as many floors, whose overhead is looked at in each.
    pub samples: usize,
    /// For how long a worker is kept saturated, in seconds.
    pub saturated_s: u64,
    /// VMs that are being restored at once.
    pub restores_at_once: u16,
    /// Threads that a worker runs its tasks on; `None`: its own choice.
    pub threads: Option<u16>,
    /// Profile a saturated worker with `perf` into files of this name with slots and jobs that wait after it.
    pub perf: Option<PathBuf>,
}

/// Measures. Says on stderr how far it is.
///
/// # Errors
/// A server, the worker or this machine is not up to it.
pub async fn run(plan: &ServicePlan) -> Result<Vec<Figures>> {
    let programs = Programs::beside_this()?;
    let machine = ProcessMachine::find(&programs.agent, &programs.worker)?;
    let Some(machine) = machine else { bail!("VMs cannot be processes here") };
    let rig = Rig::start(programs).await?;
    let bare = Bare::start(&rig, &machine).await.context("the floor")?;
    let mut all = Vec::new();
    for repeat in 0..plan.repeats {
        let empty = plan.slots.iter().map(|slots| (*slots, 0));
        let queued = plan.queued.iter().map(|queued| (plan.queue_slots, *queued));
        for (slots, queued) in empty.chain(queued) {
            let figures = setting(plan, &rig, &bare, slots, queued).await;
            let figures =
                figures.with_context(|| format!("{slots} slots, {queued} queued, repeat {repeat}"))?;
            eprintln!("{figures}");
            all.push(figures);
        }
    }
    Ok(all)
}

async fn setting(plan: &ServicePlan, rig: &Rig, bare: &Bare, slots: u32, queued: u64) -> Result<Figures> {
    let vhost = rig.vhost()?;
    let mut producer = Producer::start(&vhost).await?;
    producer.fill(queued).await?;
    let worker = rig.worker(&vhost, slots, plan).await?;
    let mut figures = Figures { slots, queued, ..Figures::default() };
    if queued == 0 {
        worker.all_ready().await?;
        figures.alone = producer.alone(&worker, bare, plan.samples).await?;
    }
    let perf = plan.perf.as_ref().map(|file| file.with_extension(format!("{slots}.{queued}.data")));
    let load = Load { slots, lasts_s: plan.saturated_s, perf };
    figures.saturated = producer.saturate(&worker, &load).await?;
    if queued == 0 && slots > 1 {
        worker.all_ready().await?;
        let rate = figures.saturated.jobs_per_s() / 2.0;
        figures.half = producer.at_rate(&worker, bare, rate, plan.samples).await?;
    }
    producer.end();
    worker.stop().await?;
    Ok(figures)
}
