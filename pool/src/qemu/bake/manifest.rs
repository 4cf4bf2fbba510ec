//! What a snapshot says about itself, and what it depends on.

use std::time::{SystemTime, UNIX_EPOCH};

use hearth_schemas::manifest::{Accelerator, HypervisorKind, MANIFEST_VERSION, Machine, Manifest};

use super::BakeRequest;
use crate::{qemu::transport_of_host, snapshot::sha256_of};

/// Raise it when the same image must give another snapshot.
const BAKE_VERSION: u32 = 2;

pub(super) fn manifest(request: &BakeRequest<'_>, inputs_sha256: String, protocol_version: u32) -> Manifest {
    let runtime = request.runtime;
    let (transport, serial) = runtime.transport.on(transport_of_host());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Manifest {
        manifest_version: MANIFEST_VERSION,
        runtime: runtime.name.clone(),
        inputs_sha256,
        baked_unix_s: now.as_secs(),
        hypervisor: HypervisorKind::Qemu,
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
pub(super) fn inputs_sha256(request: &BakeRequest<'_>) -> String {
    let here = request.here;
    let host = match here.accelerator {
        Accelerator::Kvm => sha256_of(&here.host),
        Accelerator::Tcg => here.host.cpu_model.clone(),
    };
    let image = &request.image.inputs_sha256;
    let card = request.network.is_some();
    sha256_of(&(BAKE_VERSION, image, here.accelerator, &here.hypervisor_version, host, card))
}
