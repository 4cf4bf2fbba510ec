//! Whether KVM runs a guest of QEMU here.

use std::io;

use hearth_schemas::manifest::Accelerator;

use super::{
    QemuConfig,
    boot::{BootRequest, boot},
    memory::MemoryPlace,
};
use crate::{
    guard::Guard,
    image::{Image, Progress},
    kvm::{KvmAnswer, PROBE_LIMIT, causes, known_kvm, remember},
    runtime::Runtime,
    snapshot::HostFacts,
};

/// Boots a guest with KVM, unless the answer is known, and remembers what came of it.
pub async fn probe_kvm(
    config: &QemuConfig,
    guard: &Guard,
    here: &HostFacts,
    runtime: &Runtime,
    image: &Image,
    progress: &dyn Progress,
) -> io::Result<KvmAnswer> {
    if let Some(known) = known_kvm(&config.data_dir, here) {
        return Ok(known);
    }
    progress.report("probe", &format!("booting a guest with KVM, at most {PROBE_LIMIT:?}"));
    let memory = MemoryPlace::best(&config.memory_dir);
    let request = BootRequest {
        qemu: &config.qemu,
        guard,
        memory: &memory,
        scratch_dir: &config.scratch_dir,
        accelerator: Accelerator::Kvm,
        runtime,
        image,
        limit: PROBE_LIMIT,
        network: None,
    };
    let answer = match boot(&request).await {
        Ok(booted) => {
            booted.end().await.map_err(io::Error::other)?;
            KvmAnswer { usable: true, why: "a guest booted and its agent answered".to_owned() }
        }
        Err(error) => KvmAnswer { usable: false, why: causes(&error) },
    };
    progress.report("probe", &answer.why);
    remember(&config.data_dir, here, &answer)?;
    Ok(answer)
}
