//! A whole worker in this process, with real VMs.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hearth_pool::{
    guard::GuardCommand,
    kvm::known_kvm,
    net::NetworkConfig,
    pool::{
        Config, RuntimeSlots,
        events::{Event, Farewell},
    },
    snapshot::{HostFacts, Snapshot, host_facts},
};
use hearth_schemas::{manifest::Accelerator, result::JobResult};
use hearth_worker::{
    admit::{Offer, Terms},
    embedded::{self, EmbeddedSink, Submitter},
    handle::Service,
    intake::{DEFAULT_TENANT, Intake},
    ledger::{JobKey, MemoryLedger},
    live::{Events, Outlet},
    local::{Host, Local, Vmm, warm_up},
    objects::{ObjectSettings, Objects},
    reaper,
    service::serve,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{Leftovers, Machine, machine::program};

/// How long everything of a closed worker may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// A worker with an embedded queue.
pub struct Worker {
    local: Local,
    submitter: Submitter,
    serving: JoinHandle<()>,
    service: Arc<Service<MemoryLedger, EmbeddedSink>>,
    watched: Arc<Mutex<Vec<Events>>>,
    terms: Terms,
    accelerator: Accelerator,
    run_dir: TempDir,
    _snapshots: Vec<Snapshot>,
}

impl Worker {
    /// Bakes what is missing and opens a pool with this many slots for each runtime.
    pub async fn open(machine: &Machine, runtimes: &[(&str, u32)]) -> Result<Self> {
        Self::open_with(machine, runtimes, &ObjectSettings::default()).await
    }

    /// The same, with stores of objects.
    pub async fn open_with(
        machine: &Machine,
        runtimes: &[(&str, u32)],
        objects: &ObjectSettings,
    ) -> Result<Self> {
        for (runtime, _) in runtimes {
            machine.baked(runtime)?;
        }
        let run_dir = Self::run_dir()?;
        let host = Self::host(machine, run_dir.path().into()).await?;
        let mut offers = BTreeMap::new();
        let (mut slots, mut snapshots) = (Vec::new(), Vec::new());
        for (runtime, count) in runtimes {
            let snapshot = host.snapshot(runtime)?;
            offers.insert((*runtime).to_owned(), Offer::from(&snapshot.manifest));
            let warm_up = warm_up(&snapshot.manifest);
            slots.push(RuntimeSlots { name: (*runtime).to_owned(), slots: *count, warm_up });
            snapshots.push(snapshot);
        }
        let mut config = Config::new(slots);
        config.observer = Some(Arc::new(|event| {
            if let Event::Retired { slot, why, .. } = event
                && !matches!(why, Farewell::Finished | Farewell::Closing)
            {
                eprintln!("{slot}: {why}");
            }
        }));
        let local = Local::open(&host, config).await?;
        let (submitter, source, sink) = embedded::queue(1000);
        let spool = run_dir.path().join("objects");
        let terms = Terms { objects: objects.terms(), ..Terms::new(offers) };
        let objects = Objects::open(objects, spool)?;
        let intake = Intake { objects, ..Intake::embedded(terms.clone(), &host.worker) };
        let watched = Arc::<Mutex<Vec<Events>>>::default();
        let seen = watched.clone();
        let outlet: Outlet =
            Arc::new(move |events| seen.lock().unwrap_or_else(PoisonError::into_inner).push(events));
        let service = Service::new(MemoryLedger::default(), sink, local.pool().clone(), intake);
        let service = Arc::new(service.with_outlet(outlet));
        let serving = tokio::spawn(serve(service.clone(), source, 64, std::future::pending()));
        let accelerator = host.facts.accelerator;
        let _snapshots = snapshots;
        Ok(Self { local, submitter, serving, service, watched, terms, accelerator, run_dir, _snapshots })
    }

    /// A run directory in memory, with a path short enough for sockets.
    pub fn run_dir() -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("hearth-").tempdir_in("/dev/shm")?)
    }

    /// This host, with the guard of the `hearth` command.
    pub async fn host(machine: &Machine, run_dir: PathBuf) -> Result<Host> {
        let qemu = program("qemu-system-x86_64")?;
        let facts = host_facts(&qemu, Accelerator::Tcg).await?;
        let accelerator =
            known_kvm(&machine.data, &facts).map_or(Accelerator::Tcg, |known| known.accelerator());
        let facts = HostFacts { accelerator, ..facts };
        Ok(Host {
            data_dir: machine.data.clone(),
            run_dir,
            vmm: Vmm::Qemu { qemu, vsock_daemon: program("vhost-device-vsock")? },
            guard: GuardCommand { program: machine.hearth.clone(), arguments: vec!["guard".into()] },
            worker: format!("tests-{}", std::process::id()),
            facts,
            network: NetworkConfig::new(Vec::new()),
            rates: Default::default(),
        })
    }

    /// The pool, for tests below the job.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// Under which terms it takes jobs.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What runs the instructions of its VMs.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// Where its VMs are.
    pub fn path(&self) -> &std::path::Path {
        self.run_dir.path()
    }

    /// Runs one job.
    pub async fn run(&self, job: &serde_json::Value) -> Result<JobResult> {
        let answer = self.submitter.submit(serde_json::to_vec(job)?.into(), None).await?;
        serde_json::from_slice(&answer).context("the result is no result")
    }

    /// The events of the attempt that was begun last and not asked for yet, at a job with `stream`.
    pub fn watched(&self) -> Option<Events> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Cancels a job of no particular tenant.
    ///
    /// # Errors
    /// The ledger does not answer.
    pub async fn cancel(&self, id: &str) -> Result<()> {
        let key = JobKey { tenant: DEFAULT_TENANT.into(), id: id.into() };
        reaper::cancel(&self.service, &key).await?;
        Ok(())
    }

    /// Closes the worker and makes sure that nothing of it is left.
    ///
    /// # Errors
    /// A slot did not close, or something is left.
    pub async fn close(self) -> Result<()> {
        let Self { local, submitter, serving, service, run_dir, .. } = self;
        drop(submitter);
        serving.await?;
        drop(service);
        local.close(Duration::from_secs(10)).await?;
        let left = Leftovers::within(run_dir.path(), GONE_WITHIN);
        ensure!(left == Leftovers::default(), "left behind: {left:#?}");
        Ok(())
    }
}
