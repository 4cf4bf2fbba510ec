//! Which hypervisor a command uses, and why.

use std::path::PathBuf;

use hearth_pool::{
    firecracker::{self, Confinement, HostError, Jailer},
    kvm::known_kvm,
    qemu::transport_of_host,
    runtime::Runtimes,
    snapshot::{HostFacts, Verification, host_facts},
};
use hearth_schemas::manifest::{Accelerator, Transport};
use hearth_worker::local::Vmm;

use super::exit::{Exit, Failure};
use crate::{
    config::{Config, Hypervisor, Insecure, find_program},
    doctor::gather::host_cgroup,
};

/// Below cgroup v2's mount: holds the groups of all jailed VMs.
const PARENT_CGROUP: &str = "hearth";
/// What a jail limits a VM by.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// What makes VMs here.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The programs.
    pub vmm: Vmm,
    /// What snapshots are compared with.
    pub facts: HostFacts,
    /// Why it is this one, for people.
    pub why: String,
}

/// Why Firecracker is not used.
#[derive(Debug, thiserror::Error)]
enum Lack {
    #[error("{0} is not installed (deploy/install-firecracker.sh installs a release)")]
    Program(&'static str),
    #[error("its jailer needs root")]
    NotRoot,
    #[error("its jailer needs cgroup v2 with {0}, which this host does not have")]
    Controllers(String),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("KVM boots no guest here ({0})")]
    Kvm(String),
    #[error("no runtime is baked for it (hearth bake does that)")]
    NotBaked,
}

/// For commands that restore VMs: Firecracker where it can be used and has a snapshot that fits.
pub async fn for_jobs(config: &Config, runtimes: &Runtimes) -> Result<Choice, Failure> {
    let firecracker = match config.hypervisor {
        Hypervisor::Qemu => return qemu(config, "as told".to_owned()).await,
        Hypervisor::Firecracker => return by_firecracker(config).await.map_err(|lack| failure(&lack)),
        Hypervisor::Auto => by_firecracker(config).await,
    };
    match firecracker {
        Ok(choice) if baked(config, &choice, runtimes) || find_program(QEMU).is_none() => Ok(choice),
        Ok(_) => qemu(config, since(&Lack::NotBaked)).await,
        Err(lack) => qemu(config, since(&lack)).await,
    }
}

/// For bakes: Firecracker where it can be used and nobody has seen KVM fail.
pub async fn for_bake(config: &Config) -> Result<Choice, Failure> {
    let choice = match config.hypervisor {
        Hypervisor::Qemu => return qemu(config, "as told".to_owned()).await,
        Hypervisor::Firecracker => return by_firecracker(config).await.map_err(|lack| failure(&lack)),
        Hypervisor::Auto => by_firecracker(config).await,
    };
    match choice {
        Err(lack) => qemu(config, since(&lack)).await,
        Ok(choice) => match known_kvm(&config.data_dir, &choice.facts) {
            Some(answer) if !answer.usable => without_kvm(config, &answer.why).await,
            _ => Ok(choice),
        },
    }
}

/// Where Firecracker was tried and KVM booted no guest.
pub async fn without_kvm(config: &Config, why: &str) -> Result<Choice, Failure> {
    let lack = Lack::Kvm(why.lines().next().unwrap_or_default().to_owned());
    match config.hypervisor {
        Hypervisor::Firecracker => Err(failure(&lack)),
        _ => qemu(config, since(&lack)).await,
    }
}

const QEMU: &str = "qemu-system-x86_64";

async fn qemu(config: &Config, why: String) -> Result<Choice, Failure> {
    let missing = |name: &str| {
        Failure::new(Exit::Unavailable, format!("{name} not found (hypervisor: qemu, {why})"))
            .remedy("hearth doctor says what to install")
    };
    let program = find_program(QEMU).ok_or_else(|| missing(QEMU))?;
    let vsock_daemon = match transport_of_host() {
        Transport::VhostUserVsock => {
            find_program("vhost-device-vsock").ok_or_else(|| missing("vhost-device-vsock"))?
        }
        // Never started.
        _ => PathBuf::from("vhost-device-vsock"),
    };
    let facts = host_facts(&program, Accelerator::Tcg).await.map_err(|error| {
        Failure::from_error(Exit::Unavailable, &error).remedy("hearth doctor says what this host lacks")
    })?;
    // KVM counts once a guest has booted with it.
    let known = known_kvm(&config.data_dir, &facts);
    let accelerator = known.map_or(Accelerator::Tcg, |known| known.accelerator());
    let facts = HostFacts { accelerator, ..facts };
    Ok(Choice { vmm: Vmm::Qemu { qemu: program, vsock_daemon }, facts, why })
}

async fn by_firecracker(config: &Config) -> Result<Choice, Lack> {
    let firecracker = find_program("firecracker").ok_or(Lack::Program("firecracker"))?;
    let confinement = confinement(config)?;
    let jailer = match &confinement {
        Confinement::Jailer(jailer) => Some(jailer.jailer.as_path()),
        Confinement::InsecureDirect => None,
    };
    let facts = firecracker::host_facts(&firecracker, jailer).await?;
    let insecure_seccomp = config.insecure.contains(&Insecure::NoSeccomp);
    let why = match &confinement {
        Confinement::Jailer(_) => "in jails",
        Confinement::InsecureDirect => "insecure: without its jailer",
    };
    let filters = if insecure_seccomp { ", insecure: without its filter of system calls" } else { "" };
    let why = format!("{why}{filters}");
    Ok(Choice { vmm: Vmm::Firecracker { firecracker, confinement, insecure_seccomp }, facts, why })
}

fn confinement(config: &Config) -> Result<Confinement, Lack> {
    if config.insecure.contains(&Insecure::NoJailer) {
        return Ok(Confinement::InsecureDirect);
    }
    let jailer = find_program("jailer").ok_or(Lack::Program("jailer"))?;
    if !rustix::process::geteuid().is_root() {
        return Err(Lack::NotRoot);
    }
    let cgroup = host_cgroup();
    let missing: Vec<&str> =
        CONTROLLERS.into_iter().filter(|name| !cgroup.controllers.iter().any(|have| have == name)).collect();
    match cgroup.mount {
        Some(cgroup_root) if missing.is_empty() => Ok(Confinement::Jailer(Jailer {
            jailer,
            first_uid: config.jail_uids.first,
            uids: config.jail_uids.count(),
            cgroup_root,
            parent_cgroup: PARENT_CGROUP.to_owned(),
        })),
        _ => Err(Lack::Controllers(missing.join(", "))),
    }
}

fn baked(config: &Config, choice: &Choice, runtimes: &Runtimes) -> bool {
    let store = choice.vmm.store(&config.data_dir);
    runtimes.iter().any(|runtime| store.current(&runtime.name, &choice.facts, Verification::Size).is_ok())
}

fn since(lack: &Lack) -> String {
    format!("since Firecracker is not used: {}", super::exit::chain(lack))
}

fn failure(lack: &Lack) -> Failure {
    Failure::new(Exit::Unavailable, format!("Firecracker cannot be used: {}", super::exit::chain(lack)))
        .remedy("hearth doctor says what this host lacks; --hypervisor qemu uses QEMU instead")
}
