//! What is known of KVM on this host.
//!
//! A `/dev/kvm` proves nothing: some hosts offer one that makes VMs, accepts processors, and then takes a minute to reach
//! the console and dies on an instruction. Only a guest whose agent answers in time proves it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hearth_schemas::manifest::Accelerator;
use serde::{Deserialize, Serialize};

use crate::snapshot::{HostFacts, sha256_of};

/// Within this a guest with KVM has answered many times over: on hardware it takes about a second.
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(20);
const DEVICE: &str = "/dev/kvm";
const FILE: &str = "kvm-probe.json";

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmAnswer {
    /// A guest ran.
    pub usable: bool,
    /// Why not, or how it was found out; for people.
    pub why: String,
}

impl KvmAnswer {
    /// What runs guests here.
    pub fn accelerator(&self) -> Accelerator {
        if self.usable { Accelerator::Kvm } else { Accelerator::Tcg }
    }
}

/// What is known without trying: there is no device, or a probe of this kernel, processor and hypervisor has said.
/// `None` means that nobody has tried. Blocks for a short time.
pub fn known_kvm(data_dir: &Path, here: &HostFacts) -> Option<KvmAnswer> {
    if !Path::new(DEVICE).exists() {
        return Some(KvmAnswer { usable: false, why: format!("there is no {DEVICE}") });
    }
    remembered(data_dir).remove(&key(here))
}

pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// An answer holds for one kernel, processor and hypervisor of the host.
fn key(here: &HostFacts) -> String {
    sha256_of(&(&here.hypervisor_version, &here.host))
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// What cannot be read was not remembered.
fn remembered(data_dir: &Path) -> BTreeMap<String, KvmAnswer> {
    let bytes = fs::read(path(data_dir)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

pub(crate) fn remember(data_dir: &Path, here: &HostFacts, answer: &KvmAnswer) -> io::Result<()> {
    let mut answers = remembered(data_dir);
    answers.insert(key(here), answer.clone());
    fs::create_dir_all(data_dir)?;
    let new = data_dir.join(format!("{FILE}.{}", std::process::id()));
    fs::write(&new, serde_json::to_vec_pretty(&answers)?)?;
    fs::rename(new, path(data_dir))
}

/// Forgets every answer, so that the next bake tries again. Blocks for a short time.
pub fn forget_kvm(data_dir: &Path) -> io::Result<()> {
    match fs::remove_file(path(data_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_schemas::manifest::Host;

    fn here(kernel: &str) -> HostFacts {
        let host = Host {
            cpu_vendor: "V".to_owned(),
            cpu_model: "M".to_owned(),
            cpu_flags_sha256: "f".to_owned(),
            kernel: kernel.to_owned(),
        };
        HostFacts { hypervisor_version: "10".to_owned(), accelerator: Accelerator::Tcg, host }
    }

    #[test]
    fn an_answer_holds_for_its_host_only_and_until_forgotten() {
        let data = tempfile::tempdir().unwrap();
        let no = KvmAnswer { usable: false, why: "it hung".to_owned() };
        remember(data.path(), &here("6.1"), &no).unwrap();
        remember(data.path(), &here("6.2"), &KvmAnswer { usable: true, ..no.clone() }).unwrap();
        assert_eq!(remembered(data.path()).get(&key(&here("6.1"))), Some(&no));
        assert_eq!(remembered(data.path()).get(&key(&here("6.3"))), None);
        forget_kvm(data.path()).unwrap();
        forget_kvm(data.path()).unwrap();
        assert!(remembered(data.path()).is_empty());
    }
}
