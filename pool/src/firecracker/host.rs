//! What a snapshot's fitness depends on, of this host.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
};

use hearth_schemas::manifest::Accelerator;
use tokio::process::Command;

use super::api::{Features, Unsupported, Version, VersionError};
use crate::snapshot::{HostFacts, this_host};

/// Firecracker does not run here.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// It cannot be asked.
    #[error("{} --version", program.display())]
    Program {
        /// The binary.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It says no version.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// Its release is not used.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The jailer is of another release.
    #[error("Firecracker is {firecracker} and its jailer {jailer}: install both from one release")]
    Mismatch {
        /// Firecracker's.
        firecracker: Version,
        /// The jailer's.
        jailer: Version,
    },
    /// There is no hardware virtualisation that this process may use.
    #[error("/dev/kvm cannot be opened")]
    Kvm(#[source] io::Error),
    /// Processor or kernel cannot be read.
    #[error("look at this host")]
    Facts(#[source] io::Error),
}

/// Looks at this host, its Firecracker and, if there is one, its jailer. That /dev/kvm opens does not prove that it boots
/// a guest: a bake does.
pub async fn host_facts(firecracker: &Path, jailer: Option<&Path>) -> Result<HostFacts, HostError> {
    let version = version(firecracker).await?;
    Features::of(version)?;
    if let Some(path) = jailer {
        let jailer = self::version(path).await?;
        if jailer != version {
            return Err(HostError::Mismatch { firecracker: version, jailer });
        }
    }
    std::fs::File::options().read(true).write(true).open("/dev/kvm").map_err(HostError::Kvm)?;
    let host = this_host().map_err(HostError::Facts)?;
    Ok(HostFacts { hypervisor_version: version.to_string(), accelerator: Accelerator::Kvm, host })
}

async fn version(program: &Path) -> Result<Version, HostError> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().await;
    let output = output.map_err(|source| HostError::Program { program: program.to_owned(), source })?;
    Ok(spoken(&String::from_utf8_lossy(&output.stdout))?)
}

/// The version in `Firecracker v1.16.1`, the first line.
fn spoken(text: &str) -> Result<Version, VersionError> {
    let line = text.lines().next().unwrap_or_default();
    line.rsplit(' ').next().unwrap_or_default().parse().map_err(|_| VersionError(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_say_their_version_in_the_first_line() {
        assert_eq!(spoken("Firecracker v1.16.1\n\n2026 exiting\n"), Ok(Version::new(1, 16, 1)));
        assert_eq!(spoken("Jailer v1.15.1\n"), Ok(Version::new(1, 15, 1)));
        assert!(spoken("").is_err());
    }
}
