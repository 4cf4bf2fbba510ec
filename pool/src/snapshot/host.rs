//! What a snapshot's fitness depends on, of this host.

use std::{fs, io, path::Path, process::Stdio};

use hearth_schemas::manifest::{Accelerator, Host};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::digest::sha256;

/// This host, as far as snapshots care.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The hypervisor's version as it prints it: of QEMU, the distributor's part included.
    pub hypervisor_version: String,
    /// The best accelerator that was proved to work.
    pub accelerator: Accelerator,
    /// Processor and kernel.
    pub host: Host,
}

/// Looks at this host and its QEMU. `accelerator` is what a probe found.
pub async fn host_facts(qemu: &Path, accelerator: Accelerator) -> io::Result<HostFacts> {
    let output = Command::new(qemu).arg("--version").stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| {
        io::Error::new(error.kind(), format!("{}: {error}; run `hearth doctor`", qemu.display()))
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let hypervisor_version = version(&text).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} --version says {text:?}", qemu.display()))
    })?;
    Ok(HostFacts { hypervisor_version, accelerator, host: this_host()? })
}

/// Processor and kernel.
pub fn this_host() -> io::Result<Host> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    Ok(host(&cpuinfo, kernel))
}

/// What follows `version` in the first line.
fn version(text: &str) -> Option<String> {
    let (_, version) = text.lines().next()?.split_once(" version ")?;
    Some(version.trim().to_owned())
}

fn host(cpuinfo: &str, kernel: String) -> Host {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().map(str::trim) == Some(name));
        line.and_then(|line| line.split_once(':')).map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let mut flags: Vec<String> = field("flags").split_ascii_whitespace().map(str::to_owned).collect();
    flags.sort_unstable();
    Host {
        cpu_vendor: field("vendor_id"),
        cpu_model: field("model name"),
        cpu_flags_sha256: sha256(flags.join(" ").as_bytes()),
        kernel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_flags_does_not_matter_and_their_set_does() {
        let cpu = |flags: &str| {
            let text = format!(
                "processor\t: 0\nvendor_id\t: V\nmodel name\t: M 1: x\nflags\t\t: {flags}\nvmx flags\t: a\n"
            );
            host(&text, "6.1".to_owned())
        };
        let (one, two) = (cpu("fpu sse avx"), cpu("avx fpu sse"));
        assert_eq!(one, two);
        assert_eq!((one.cpu_vendor.as_str(), one.cpu_model.as_str()), ("V", "M 1: x"));
        assert_ne!(one.cpu_flags_sha256, cpu("fpu sse").cpu_flags_sha256);
    }

    #[test]
    fn the_version_has_the_distributors_part() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright\n";
        assert_eq!(version(text).unwrap(), "10.0.2 (Debian 1:10.0.2+ds-2)");
        assert_eq!(version("no\n"), None);
    }
}
