//! `hearth bake`: from a runtime's file to a snapshot that jobs are restored from.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use hearth_pool::{
    firecracker,
    guard::Guard,
    image::{self, CommandError, Image, ImageError, ImageRequest},
    kvm::{KvmAnswer, forget_kvm},
    net::{Network, NetworkError, runtime_of, with_card},
    qemu,
    runtime::{Runtime, Runtimes},
    snapshot::{Baked, HostFacts},
};
use hearth_worker::local::{Host, Vmm, firecracker_config, qemu_config};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    host, hypervisor,
    interrupt::Interrupted,
    output::{self, Style},
    progress::Progress,
    runtime::find,
};
use crate::config::{Config, Hypervisor};

/// Build a runtime's image, boot it, warm it up, and snapshot it
///
/// Does nothing when nothing has changed since the last bake. The image is built with the host's own apt sources and is kept
/// for later bakes. Needs root.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hearth bake python\n  \
    hearth bake --all\n  \
    hearth bake python+net              for jobs with a network\n  \
    hearth bake python --refresh        with the newest packages and kernel of the mirror\n  \
    hearth bake python --force          another snapshot of the same image")]
pub struct Arguments {
    /// The runtimes
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// Every runtime that `hearth runtime list` shows
    #[arg(long)]
    all: bool,
    /// Boot and snapshot even if nothing has changed
    #[arg(long)]
    force: bool,
    /// Look for newer packages and a newer kernel, and build the image anew
    #[arg(long)]
    refresh: bool,
    /// Print what there is now as a JSON array
    #[arg(long)]
    json: bool,
}

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    /// The runtime.
    runtime: String,
    /// Whether there is a new snapshot; if not, nothing had changed.
    changed: bool,
    /// Where the snapshot is.
    snapshot: PathBuf,
}

/// Bakes one after another; the first that fails ends it.
pub fn run(config: &Config, arguments: &Arguments) -> Result<Exit, Failure> {
    let runtimes = super::runtimes(config)?;
    let wanted: Vec<Wanted<'_>> = match arguments.all {
        true => runtimes.iter().map(|runtime| Wanted { runtime, card: false }).collect(),
        false => {
            arguments.names.iter().map(|name| Wanted::find(&runtimes, name)).collect::<Result<_, _>>()?
        }
    };
    let agent = config.agent_path().map_err(|error| Failure::from_error(Exit::Config, &error))?;
    let baked = super::block_on(async {
        let mut interrupted = Interrupted::listen()?;
        tokio::select! {
            baked = bake_all(config, arguments, &wanted, agent) => baked,
            failure = interrupted.wait() => Err(failure),
        }
    })?;
    if arguments.json {
        output::json(&baked, Style::Pretty)?;
    }
    Ok(Exit::Accepted)
}

/// A runtime, and whether its VMs are to have a network card.
#[derive(Clone, Copy, Debug)]
struct Wanted<'a> {
    runtime: &'a Runtime,
    card: bool,
}

impl<'a> Wanted<'a> {
    fn find(runtimes: &'a Runtimes, name: &str) -> Result<Self, Failure> {
        let (name, card) = runtime_of(name);
        Ok(Self { runtime: find(runtimes, name)?, card })
    }

    /// What its snapshot is called.
    fn key(&self) -> String {
        if self.card { with_card(&self.runtime.name) } else { self.runtime.name.clone() }
    }
}

async fn bake_all(
    config: &Config,
    arguments: &Arguments,
    wanted: &[Wanted<'_>],
    agent: PathBuf,
) -> Result<Vec<Report>, Failure> {
    let worker = host::worker();
    let mut host = host::with(config, &worker, hypervisor::for_bake(config).await?)?;
    let guard = host.guard().await.map_err(|error| host::failure(&error))?;
    let mut reports = Vec::new();
    for wanted in wanted {
        let key = wanted.key();
        let runtime = wanted.runtime;
        let progress = BakeProgress { progress: Progress::lasting(config), runtime: &key };
        let request =
            ImageRequest { data: &host.data_dir, runtime, agent: &agent, refresh: arguments.refresh };
        let image = image::build(&request, &progress).await.map_err(|error| image_failure(&error))?;
        let order = Order { host: &host, guard: &guard, runtime, image: &image, network: None };
        // Who asks for Firecracker by name has it baked at the guest's own pace.
        if let (Vmm::Firecracker { .. }, Hypervisor::Auto) = (&host.vmm, config.hypervisor) {
            let answer = probe_host(&order, &progress).await?;
            if !answer.usable {
                host = host::with(config, &worker, hypervisor::without_kvm(config, &answer.why).await?)?;
            }
        }
        let network = match wanted.card {
            true => Some(network(&host).await?),
            false => None,
        };
        let named = Runtime { name: key.clone(), ..runtime.clone() };
        let network = network.as_deref();
        let order = Order { host: &host, guard: &guard, runtime: &named, image: &image, network };
        let baked = bake(&order, arguments.force, &progress).await?;
        progress.progress.finish();
        let (changed, snapshot) = match baked {
            Baked::New(snapshot) => (true, snapshot),
            Baked::Unchanged(snapshot) => (false, snapshot),
        };
        if !config.quiet {
            let what = if changed { "baked" } else { "nothing has changed since its last bake" };
            eprintln!("{key}: {what} ({})", snapshot.display());
        }
        reports.push(Report { runtime: key, changed, snapshot });
    }
    Ok(reports)
}

/// One runtime to bake.
struct Order<'a> {
    host: &'a Host,
    guard: &'a Guard,
    runtime: &'a Runtime,
    image: &'a Image,
    network: Option<&'a Network>,
}

/// Where the card of a VM that is baked is attached. Nothing is allowed there.
async fn network(host: &Host) -> Result<Arc<Network>, Failure> {
    let failed = |error: NetworkError| {
        Failure::from_error(Exit::Unavailable, &error).remedy("networks need root, nft and /dev/net/tun")
    };
    host.networks().await.map_err(failed)?.take().await.map_err(failed)
}

/// Whether KVM boots a guest here, by the host's hypervisor. Remembered, so asked once.
async fn probe_host(order: &Order<'_>, progress: &BakeProgress<'_>) -> Result<KvmAnswer, Failure> {
    let Order { host, guard, runtime, image, .. } = *order;
    let answer = match &host.vmm {
        Vmm::Qemu { qemu, vsock_daemon } => {
            let config = qemu_config(host, qemu, vsock_daemon);
            qemu::probe_kvm(&config, guard, &host.facts, runtime, image, progress).await
        }
        Vmm::Firecracker { firecracker, confinement, insecure_seccomp } => {
            let config = firecracker_config(host, firecracker, confinement, *insecure_seccomp);
            firecracker::probe_kvm(&config, guard, &host.facts, runtime, image, progress).await
        }
    };
    answer.map_err(|error| Failure::from_error(Exit::Internal, &error))
}

async fn bake(order: &Order<'_>, again: bool, progress: &BakeProgress<'_>) -> Result<Baked, Failure> {
    let Order { host, guard, runtime, image, network } = *order;
    match &host.vmm {
        Vmm::Qemu { qemu, vsock_daemon } => {
            let config = qemu_config(host, qemu, vsock_daemon);
            let answer = probe_host(order, progress).await?;
            let here = &HostFacts { accelerator: answer.accelerator(), ..host.facts.clone() };
            let request = qemu::BakeRequest { config: &config, guard, here, runtime, image, network, again };
            qemu::bake_snapshot(&request, progress).await.map_err(|error| qemu_failure(&error))
        }
        Vmm::Firecracker { firecracker, confinement, insecure_seccomp } => {
            let config = firecracker_config(host, firecracker, confinement, *insecure_seccomp);
            let here = &host.facts;
            let request =
                firecracker::BakeRequest { config: &config, guard, here, runtime, image, network, again };
            firecracker::bake_snapshot(&request, progress).await.map_err(|error| firecracker_failure(&error))
        }
    }
}

fn image_failure(error: &ImageError) -> Failure {
    let exit = match error {
        ImageError::NoAgent { .. } | ImageError::Agent { .. } => Exit::Config,
        ImageError::NotRoot
        | ImageError::NoSources { .. }
        | ImageError::Command(CommandError::Missing { .. }) => Exit::Unavailable,
        _ => Exit::Internal,
    };
    let failure = Failure::from_error(exit, error);
    match error {
        ImageError::NotRoot => failure.remedy("run it as root"),
        ImageError::Command(CommandError::Failed { .. }) => {
            failure.remedy("is the mirror reachable (apt-get update)? Then bake again")
        }
        ImageError::Io { .. } => failure.remedy("mend that, or give --data-dir, and bake again"),
        _ => failure,
    }
}

const MEND_WARM_UP: &str = "mend warm_up in the runtime's file and bake again";
const REFRESH: &str = "is the agent this version's (make agent)? Else bake again with --refresh";
const DOCTOR: &str = "hearth doctor says what this host lacks; then bake again";

fn qemu_failure(error: &qemu::BakeError) -> Failure {
    use qemu::BakeError as Error;
    Failure::from_error(Exit::Internal, error).remedy(match error {
        Error::WarmUp { .. } => MEND_WARM_UP,
        Error::Boot { .. } | Error::Session { .. } => REFRESH,
        _ => DOCTOR,
    })
}

fn firecracker_failure(error: &firecracker::BakeError) -> Failure {
    use firecracker::BakeError as Error;
    Failure::from_error(Exit::Internal, error).remedy(match error {
        Error::WarmUp(_) => MEND_WARM_UP,
        Error::Boot { .. } | Error::Session(_) => REFRESH,
        _ => DOCTOR,
    })
}

/// A bake's progress under its runtime's name.
struct BakeProgress<'a> {
    progress: Progress,
    runtime: &'a str,
}

impl image::Progress for BakeProgress<'_> {
    fn report(&self, step: &'static str, message: &str) {
        // Of a command of many lines, the first.
        let message = message.lines().next().unwrap_or_default();
        self.progress.step(&format!("{} {step}", self.runtime), message);
    }
}

/// Boots a guest with KVM, whatever is remembered, and remembers what comes of it. Boots what a bake has built.
pub async fn probe(config: &Config, runtimes: &Runtimes) -> Result<(), Failure> {
    forget_kvm(&config.data_dir).map_err(|error| Failure::from_error(Exit::Internal, &error))?;
    let host = host::with(config, &host::worker(), hypervisor::for_bake(config).await?)?;
    let baked = |runtime: &&Runtime| host.vmm.store(&host.data_dir).current_name(&runtime.name).is_some();
    let Some(runtime) = runtimes.iter().find(baked) else {
        return Err(Failure::new(Exit::Unavailable, "there is no image yet that could be booted")
            .remedy("run: hearth bake python (which tries KVM by itself)"));
    };
    let agent = config.agent_path().map_err(|error| Failure::from_error(Exit::Config, &error))?;
    let progress = BakeProgress { progress: Progress::lasting(config), runtime: &runtime.name };
    let request = ImageRequest { data: &host.data_dir, runtime, agent: &agent, refresh: false };
    let image = image::build(&request, &progress).await.map_err(|error| image_failure(&error))?;
    let guard = host.guard().await.map_err(|error| host::failure(&error))?;
    let probed =
        probe_host(&Order { host: &host, guard: &guard, runtime, image: &image, network: None }, &progress)
            .await;
    progress.progress.finish();
    probed.map(drop)
}
