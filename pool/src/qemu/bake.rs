//! From an image to a snapshot: boot, warm up, save.

mod manifest;

use std::{fs::File, io, path::Path, time::Duration};

use tokio::time::sleep;

use self::manifest::{inputs_sha256, manifest};
use super::{
    QemuConfig,
    boot::{BootError, BootRequest, Booted, boot},
    memory::MemoryPlace,
    qmp::{
        Qmp, QmpError,
        commands::{Capability, Migrate, QueryMigrate, SetCapabilities, Stop},
    },
};
use crate::{
    guard::{Guard, GuardError},
    image::{Image, Progress},
    net::Network,
    runtime::Runtime,
    session::SessionError,
    snapshot::{Baked, Draft, HostFacts, MEMORY, PublishError, SCRATCH, STATE, SnapshotStore, Verification},
    vm::{
        clone::{Holes, StopOnDrop, copy, save_sparse},
        warm_up::{self, WarmUpError},
    },
};

/// How long a boot may take. By translation on an idle host it takes four seconds.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long the agent may take to write its caches and fall silent.
const QUIESCE_LIMIT: Duration = Duration::from_secs(60);
/// How often somebody is asked whether it is done.
const POLL: Duration = Duration::from_millis(20);

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum BakeError {
    /// The image did not boot.
    #[error("the image of {runtime} does not boot")]
    Boot {
        /// The runtime.
        runtime: String,
        /// Why.
        #[source]
        source: BootError,
    },
    /// A command of the warm-up failed.
    #[error("warm-up {argv:?} {how}: {output}")]
    WarmUp {
        /// The command.
        argv: Vec<String>,
        /// What became of it.
        how: String,
        /// The end of what it said.
        output: String,
    },
    /// The agent failed.
    #[error("the agent failed; the guest's console ends with: {console}")]
    Session {
        /// What the guest said last.
        console: String,
        /// Why.
        #[source]
        source: SessionError,
    },
    /// QEMU did not save the state.
    #[error("QEMU")]
    Qmp(#[from] QmpError),
    /// QEMU says why.
    #[error("the state cannot be saved: {0}")]
    Save(String),
    /// The VM cannot be ended.
    #[error("the VM cannot be ended")]
    Guard(#[from] GuardError),
    /// A file could not be read or written.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The snapshot could not be put in place.
    #[error("the snapshot cannot be put in place")]
    Publish(#[from] PublishError),
}

/// What to bake.
#[derive(Clone, Copy, Debug)]
pub struct BakeRequest<'a> {
    /// Where things are.
    pub config: &'a QemuConfig,
    /// Who makes the VM; started with the same run directory.
    pub guard: &'a Guard,
    /// This host; its accelerator is the one that is baked for.
    pub here: &'a HostFacts,
    /// The runtime.
    pub runtime: &'a Runtime,
    /// What it boots from.
    pub image: &'a Image,
    /// Where its card is attached meanwhile, for a snapshot with one; the runtime's name then says so.
    pub network: Option<&'a Network>,
    /// Bake even if nothing has changed.
    pub again: bool,
}

/// Bakes a runtime's snapshot, if there is not one of the same inputs that fits this host. Waits while another process
/// bakes the same runtime. Cancelled or failed, it leaves at most a directory that the next bake removes; its VM ends
/// with the guard.
pub async fn bake_snapshot(request: &BakeRequest<'_>, progress: &dyn Progress) -> Result<Baked, BakeError> {
    let store = SnapshotStore::new(&request.config.data_dir);
    let inputs_sha256 = inputs_sha256(request);
    let runtime = &request.runtime.name;
    let draft = store.wait_for_draft(runtime, progress).await?;
    if !request.again
        && let Ok(current) = store.current(runtime, request.here, Verification::Size)
        && current.manifest.inputs_sha256 == inputs_sha256
    {
        return Ok(Baked::Unchanged(current.directory));
    }
    let memory = MemoryPlace::best(&request.config.memory_dir);
    progress.report("boot", &format!("booting {runtime} by {:?}", request.here.accelerator));
    let boot_request = BootRequest {
        qemu: &request.config.qemu,
        guard: request.guard,
        memory: &memory,
        scratch_dir: &request.config.scratch_dir,
        accelerator: request.here.accelerator,
        runtime: request.runtime,
        image: request.image,
        limit: BOOT_LIMIT,
        network: request.network,
    };
    let booted = boot(&boot_request).await;
    let mut booted = booted.map_err(|source| BakeError::Boot { runtime: runtime.clone(), source })?;
    let saved = save(request, &mut booted, &draft, progress).await;
    let ended = booted.end().await;
    let protocol_version = saved?;
    ended?;
    progress.report("publish", "digesting and putting in place");
    let manifest = manifest(request, inputs_sha256, protocol_version);
    let image = request.image.clone();
    let directory = blocking("publish", move || Ok(draft.publish_image(&manifest, &image))).await??;
    Ok(Baked::New(directory))
}

/// Warms up, and saves memory, state and the scratch disk to the draft. Returns the agent's highest protocol version.
async fn save(
    request: &BakeRequest<'_>,
    booted: &mut Booted<'_>,
    draft: &Draft,
    progress: &dyn Progress,
) -> Result<u32, BakeError> {
    for (number, command) in request.runtime.warm_up.iter().enumerate() {
        let of = request.runtime.warm_up.len();
        progress.report("warm-up", &format!("{} of {of}: {}", number + 1, command.argv.join(" ")));
        warm_up::run(&booted.session, command).await.map_err(|error| match error {
            WarmUpError::Session(source) => BakeError::Session { console: booted.console(), source },
            WarmUpError::Failed { argv, how, output } => BakeError::WarmUp { argv, how, output },
        })?;
    }
    progress.report("save", "stopping the guest and saving it");
    let quiesced = booted.session.quiesce(QUIESCE_LIMIT).await;
    quiesced.map_err(|source| BakeError::Session { console: booted.console(), source })?;
    let protocol_version = booted.session.hello().version_max;
    booted.qmp.execute(&Stop {}).await?;
    save_state(&mut booted.qmp, &draft.directory().join(STATE)).await?;
    let memory = booted.memory.file.try_clone().map_err(host("share memory"))?;
    let target = draft.directory().join(MEMORY);
    let (scratch, saved_scratch) = (booted.scratch.clone(), draft.directory().join(SCRATCH));
    let stop = StopOnDrop::default();
    let flag = stop.flag();
    let bytes = blocking("save memory and the scratch disk", move || {
        save_sparse(&scratch, &saved_scratch, &flag)?;
        let target = File::options().write(true).create_new(true).open(target)?;
        copy(&memory, &target, Holes::Dig, &flag)
    });
    let bytes = bytes.await?;
    progress.report("save", &format!("{} MiB of memory are not zero", bytes >> 20));
    Ok(protocol_version)
}

async fn save_state(qmp: &mut Qmp, path: &Path) -> Result<(), BakeError> {
    let ignore_shared = Capability { capability: "x-ignore-shared", state: true };
    qmp.execute(&SetCapabilities { capabilities: vec![ignore_shared] }).await?;
    qmp.execute(&Migrate { uri: format!("file:{}", path.display()) }).await?;
    loop {
        let migration = qmp.execute(&QueryMigrate {}).await?;
        match migration.status.as_deref() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                return Err(BakeError::Save(migration.error_desc.unwrap_or_default()));
            }
            _ => sleep(POLL).await,
        }
    }
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BakeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(error.into())).map_err(host(what))
}

fn host(what: &'static str) -> impl Fn(io::Error) -> BakeError {
    move |source| BakeError::Host { what, source }
}
