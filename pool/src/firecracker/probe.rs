//! Whether KVM runs a guest of Firecracker here.

use std::io;

use super::{
    FirecrackerConfig,
    boot::{BootRequest, boot},
};
use crate::{
    guard::Guard,
    image::{Image, Progress},
    kvm::{KvmAnswer, PROBE_LIMIT, causes, known_kvm, remember},
    runtime::Runtime,
    snapshot::HostFacts,
};

/// Boots a guest, unless the answer is known, and remembers what came of it.
pub async fn probe_kvm(
    config: &FirecrackerConfig,
    guard: &Guard,
    here: &HostFacts,
    runtime: &Runtime,
    image: &Image,
    progress: &dyn Progress,
) -> io::Result<KvmAnswer> {
    if let Some(known) = known_kvm(&config.data_dir, here) {
        return Ok(known);
    }
    progress.report("probe", &format!("booting a guest by Firecracker, at most {PROBE_LIMIT:?}"));
    let answer =
        match boot(&BootRequest { config, guard, runtime, image, limit: PROBE_LIMIT, network: None }).await {
            Ok(booted) => {
                guard.end(&booted.name).await.map_err(io::Error::other)?;
                KvmAnswer { usable: true, why: "a guest booted and its agent answered".to_owned() }
            }
            Err(error) => KvmAnswer { usable: false, why: causes(&error) },
        };
    progress.report("probe", &answer.why);
    remember(&config.data_dir, here, &answer)?;
    Ok(answer)
}
