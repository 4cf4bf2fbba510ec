//! From an image to a snapshot: boot, warm up, save.

use std::{
    fs, io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hearth_schemas::manifest::{HypervisorKind, MANIFEST_VERSION, Machine, Manifest, Transport};

use super::{
    FirecrackerConfig,
    api::{ApiError, Running, SnapshotCreate, SnapshotType},
    boot::{BootError, BootRequest, Booted, boot},
    place::Place,
    serial::SerialPort,
};
use crate::{
    guard::{Guard, GuardError},
    image::{Image, Progress},
    net::Network,
    runtime::Runtime,
    session::{Session, SessionError},
    snapshot::{Baked, Draft, HostFacts, MEMORY, PublishError, SCRATCH, STATE, Verification, sha256_of},
    vm::{
        clone::{StopOnDrop, save_sparse},
        warm_up::{self, WarmUpError},
    },
};

/// Raise it when the same image must give another snapshot.
const BAKE_VERSION: u32 = 2;
/// How long a boot may take. By KVM it takes less than a second, and under emulation as much as a minute.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long the agent may take to write its caches and fall silent.
const QUIESCE_LIMIT: Duration = Duration::from_secs(60);

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
    /// The warm-up failed.
    #[error(transparent)]
    WarmUp(#[from] WarmUpError),
    /// The agent failed.
    #[error("the agent failed")]
    Session(#[from] SessionError),
    /// Firecracker did not save the VM.
    #[error("the VM cannot be saved")]
    Save(#[from] ApiError),
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
    pub config: &'a FirecrackerConfig,
    /// Who makes the VM; started with the same run directory.
    pub guard: &'a Guard,
    /// This host.
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
    let store = request.config.store();
    let inputs_sha256 = inputs_sha256(request);
    let runtime = &request.runtime.name;
    let draft = store.wait_for_draft(runtime, progress).await?;
    if !request.again
        && let Ok(current) = store.current(runtime, request.here, Verification::Size)
        && current.manifest.inputs_sha256 == inputs_sha256
    {
        return Ok(Baked::Unchanged(current.directory));
    }
    progress.report("boot", &format!("booting {runtime} by Firecracker"));
    let boot_request = BootRequest {
        config: request.config,
        guard: request.guard,
        runtime: request.runtime,
        image: request.image,
        limit: BOOT_LIMIT,
        network: request.network,
    };
    let booted = boot(&boot_request).await;
    let booted = booted.map_err(|source| BakeError::Boot { runtime: runtime.clone(), source })?;
    let Booted { name, place, running, session, serial } = booted;
    let saved = async {
        let protocol_version = quieten(request.runtime, session, serial.as_ref(), progress).await?;
        save(running, &place, &draft, progress).await?;
        Ok::<_, BakeError>(protocol_version)
    };
    let saved = saved.await;
    let ended = request.guard.end(&name).await;
    let protocol_version = saved?;
    ended?;
    progress.report("publish", "digesting and putting in place");
    let manifest = manifest(request, inputs_sha256, protocol_version);
    let image = request.image.clone();
    let published = blocking("publish", move || Ok(draft.publish_image(&manifest, &image))).await?;
    Ok(Baked::New(published?))
}

/// Warms up, and brings the guest to a state in which nobody speaks with it. Returns the agent's highest protocol version.
async fn quieten(
    runtime: &Runtime,
    session: Session,
    serial: Option<&SerialPort>,
    progress: &dyn Progress,
) -> Result<u32, BakeError> {
    for (number, command) in runtime.warm_up.iter().enumerate() {
        let of = runtime.warm_up.len();
        progress.report("warm-up", &format!("{} of {of}: {}", number + 1, command.argv.join(" ")));
        warm_up::run(&session, command).await?;
    }
    progress.report("save", "pausing the guest and saving it");
    session.quiesce(QUIESCE_LIMIT).await?;
    let protocol_version = session.hello().version_max;
    // Every clone would have the connection, and none of them its other end.
    drop(session);
    if let Some(port) = serial {
        let silent = port.silence().await;
        silent.map_err(|source| BakeError::Host { what: "wait for the serial port to be silent", source })?;
    }
    Ok(protocol_version)
}

/// Saves memory, state and the scratch disk to the draft.
async fn save(
    running: Running,
    place: &Place,
    draft: &Draft,
    progress: &dyn Progress,
) -> Result<(), BakeError> {
    let create = SnapshotCreate {
        snapshot_type: SnapshotType::Full,
        snapshot_path: STATE.to_owned(),
        mem_file_path: MEMORY.to_owned(),
    };
    running.snapshot(create).await?;
    let pair = |name| (place.file(name), draft.directory().join(name));
    let [memory, state, scratch] = [MEMORY, STATE, SCRATCH].map(pair);
    let stop = StopOnDrop::default();
    let flag = stop.flag();
    let bytes = blocking("take over the snapshot's files", move || {
        fs::copy(state.0, state.1)?;
        save_sparse(&scratch.0, &scratch.1, &flag)?;
        save_sparse(&memory.0, &memory.1, &flag)
    });
    progress.report("save", &format!("{} MiB of memory are not zero", bytes.await? >> 20));
    Ok(())
}

fn manifest(request: &BakeRequest<'_>, inputs_sha256: String, protocol_version: u32) -> Manifest {
    let runtime = request.runtime;
    let (transport, serial) = runtime.transport.on(Transport::HybridVsock);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Manifest {
        manifest_version: MANIFEST_VERSION,
        runtime: runtime.name.clone(),
        inputs_sha256,
        baked_unix_s: now.as_secs(),
        hypervisor: HypervisorKind::Firecracker,
        hypervisor_version: request.here.hypervisor_version.clone(),
        accelerator: request.here.accelerator,
        host: request.here.host.clone(),
        transport,
        serial,
        protocol_version,
        machine: Machine {
            vcpus: runtime.vcpus,
            vm_memory_mib: runtime.vm_memory_mib,
            scratch_mib: runtime.scratch_mib,
            kernel: request.image.kernel_version.clone(),
            card: request.network.is_some(),
        },
        entry: runtime.entry.clone(),
        languages: runtime.languages.clone(),
        files: Vec::new(),
    }
}

/// What the snapshot depends on, as one digest: baked again when it changes. The host's part is what
/// [`crate::snapshot::unfit`] compares.
fn inputs_sha256(request: &BakeRequest<'_>) -> String {
    let here = request.here;
    let image = &request.image.inputs_sha256;
    let card = request.network.is_some();
    sha256_of(&("firecracker", BAKE_VERSION, image, &here.hypervisor_version, &here.host, card))
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BakeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(error.into())).map_err(|source| BakeError::Host { what, source })
}
