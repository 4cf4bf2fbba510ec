//! This host as the commands see it.

use std::{io, path::Path};

use hearth_pool::{guard::GuardCommand, net::NetworkConfig, rates::Rates};
use hearth_worker::{
    local::{Host, OpenError},
    objects::ObjectSettings,
};

use super::{
    exit::{Exit, Failure},
    hypervisor::{self, Choice},
};
use crate::config::{Config, setting};

/// This process's name in records and results: unique among the live ones of this host.
pub fn worker() -> String {
    let name = rustix::system::uname();
    format!("{}-{}", name.nodename().to_string_lossy(), std::process::id())
}

/// What is needed to restore VMs here. Fails when this host cannot.
pub async fn open(config: &Config, worker: &str) -> Result<Host, Failure> {
    let runtimes = super::runtimes(config)?;
    with(config, worker, hypervisor::for_jobs(config, &runtimes).await?)
}

/// This host with the hypervisor that was chosen.
pub fn with(config: &Config, worker: &str, choice: Choice) -> Result<Host, Failure> {
    let internal = |error: io::Error| Failure::from_error(Exit::Internal, &error);
    let guard =
        GuardCommand { program: std::env::current_exe().map_err(internal)?, arguments: vec!["guard".into()] };
    let (data_dir, run_dir) = (config.data_dir.clone(), config.run_dir.clone());
    let Choice { vmm, facts, why } = choice;
    tracing::info!(hypervisor = vmm.name(), %why, version = %facts.hypervisor_version, "hypervisor chosen");
    // Without one, no name has an address; networks are few, and who has one is told then.
    let network = NetworkConfig::new(NetworkConfig::upstream_of_host().unwrap_or_default());
    Ok(Host {
        data_dir,
        run_dir,
        vmm,
        guard,
        worker: worker.to_owned(),
        facts,
        network,
        rates: Rates::default(),
    })
}

/// The stores of a single process, of which without a file there are none.
pub fn objects(file: Option<&Path>) -> Result<ObjectSettings, Failure> {
    let Some(path) = file else { return Ok(ObjectSettings::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::NoInput, format!("{}: {error}", path.display())))?;
    ObjectSettings::parse(&text, &setting)
        .map_err(|error| Failure::new(Exit::Config, format!("{}:\n{error}", path.display())))
}

/// Why there are no VMs, as an exit code.
pub fn failure(error: &OpenError) -> Failure {
    Failure::from_error(Exit::Unavailable, error).remedy("hearth doctor says what this host lacks")
}
