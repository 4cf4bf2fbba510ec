//! Whether a snapshot would run here as it was baked.

use std::{fs, io, path::Path};

use hearth_schemas::manifest::{Accelerator, HypervisorKind, MANIFEST_VERSION, Manifest, SnapshotFile};

use super::{digest::sha256_file, host::HostFacts};

/// How well files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// They are there and as long as they were: what a start can afford.
    Size,
    /// Their bytes are what they were.
    Digest,
}

/// Why a snapshot does not fit this host; nothing when it does. Pure.
///
/// A guest of TCG sees nothing of the host but the rate of its time stamp counter, which goes with the model.
pub fn unfit(manifest: &Manifest, here: &HostFacts) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut compare = |what: &str, baked: &str, now: &str| {
        if baked != now {
            reasons.push(format!("it was baked with {what} {baked}, here is {now}"));
        }
    };
    compare("manifest version", &manifest.manifest_version.to_string(), &MANIFEST_VERSION.to_string());
    let hypervisor = match manifest.hypervisor {
        HypervisorKind::Qemu => "QEMU",
        HypervisorKind::Firecracker => "Firecracker",
    };
    compare(hypervisor, &manifest.hypervisor_version, &here.hypervisor_version);
    let (then, now) = (&manifest.host, &here.host);
    compare("processor", &then.cpu_model, &now.cpu_model);
    if manifest.accelerator == Accelerator::Kvm {
        compare("processor of", &then.cpu_vendor, &now.cpu_vendor);
        compare("host kernel", &then.kernel, &now.kernel);
        if then.cpu_flags_sha256 != now.cpu_flags_sha256 {
            reasons.push("the processor's flags are others than at the bake".to_owned());
        }
        if here.accelerator != Accelerator::Kvm {
            reasons.push("it was baked with KVM, which does not run a guest here".to_owned());
        }
    }
    reasons
}

/// What is wrong with a snapshot's files; nothing when all are as the manifest says. Blocks, by
/// [`Verification::Digest`] for seconds.
pub(super) fn damaged(
    directory: &Path,
    files: &[SnapshotFile],
    how: Verification,
) -> Result<Vec<String>, io::Error> {
    let mut reasons = Vec::new();
    for file in files {
        let path = directory.join(&file.name);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                reasons.push(format!("{} is missing", file.name));
            }
            Err(error) => return Err(error),
            Ok(metadata) if metadata.len() != file.size_bytes => reasons.push(format!(
                "{} has {} bytes and should have {}",
                file.name,
                metadata.len(),
                file.size_bytes
            )),
            Ok(_) if how == Verification::Digest && sha256_file(&path)? != file.sha256 => {
                reasons.push(format!("{} has changed since the bake", file.name));
            }
            Ok(_) => {}
        }
    }
    Ok(reasons)
}
