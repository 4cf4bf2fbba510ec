//! This host as the commands see it.

use std::{
    io,
    path::{Path, PathBuf},
};

use hearth_pool::{
    guard::GuardCommand,
    kvm::known_kvm,
    qemu::transport_of_host,
    snapshot::{HostFacts, host_facts},
};
use hearth_schemas::manifest::{Accelerator, Transport};
use hearth_worker::local::{Host, OpenError};

use super::exit::{Exit, Failure};
use crate::config::{Config, find_program};

/// This process's name in records and results: unique among the live ones of this host.
pub fn worker() -> String {
    let name = rustix::system::uname();
    format!("{}-{}", name.nodename().to_string_lossy(), std::process::id())
}

/// What is needed to restore VMs here. Fails when this host cannot.
pub async fn open(config: &Config, worker: &str) -> Result<Host, Failure> {
    let qemu = program("qemu-system-x86_64")?;
    let vsock_daemon = match transport_of_host() {
        Transport::VhostUserVsock => program("vhost-device-vsock")?,
        // Never started.
        _ => PathBuf::from("vhost-device-vsock"),
    };
    let internal = |error: io::Error| Failure::from_error(Exit::Internal, &error);
    let guard =
        GuardCommand { program: std::env::current_exe().map_err(internal)?, arguments: vec!["guard".into()] };
    let facts = facts(config, &qemu).await.map_err(|error| {
        Failure::from_error(Exit::Unavailable, &error).remedy("hearth doctor says what this host lacks")
    })?;
    let (data_dir, run_dir) = (config.data_dir.clone(), config.run_dir.clone());
    Ok(Host { data_dir, run_dir, qemu, vsock_daemon, guard, worker: worker.to_owned(), facts })
}

/// What snapshots are compared with: KVM counts once a guest has booted with it.
pub async fn facts(config: &Config, qemu: &Path) -> io::Result<HostFacts> {
    let facts = host_facts(qemu, Accelerator::Tcg).await?;
    let accelerator =
        known_kvm(&config.data_dir, &facts).map_or(Accelerator::Tcg, |known| known.accelerator());
    Ok(HostFacts { accelerator, ..facts })
}

/// Why there are no VMs, as an exit code.
pub fn failure(error: &OpenError) -> Failure {
    Failure::from_error(Exit::Unavailable, error).remedy("hearth doctor says what this host lacks")
}

pub fn program(name: &str) -> Result<PathBuf, Failure> {
    find_program(name).ok_or_else(|| {
        Failure::new(Exit::Unavailable, format!("{name} not found"))
            .remedy("hearth doctor says what to install")
    })
}
