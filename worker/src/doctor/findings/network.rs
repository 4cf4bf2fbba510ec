//! What jobs with a network need. Without it every other job runs.

use super::{Finding, Level};
use crate::doctor::facts::{Network, Program};

pub fn network(network: &Network, root: bool) -> Finding {
    let warn =
        |what: &str| Finding::new("network", Level::Warn, format!("no job has a network here: {what}"));
    let Program::Found { version, .. } = &network.nft else {
        return warn("nft is missing").remedy("apt-get install --no-install-recommends nftables");
    };
    if !network.tun {
        return warn("/dev/net/tun is missing").remedy("modprobe tun");
    }
    if let Some((range, interface)) = network.foreign.first() {
        let links = network.links;
        let what = format!("{range} is behind {interface}, and {links} is where VMs have their links");
        return Finding::new("network", Level::Warn, what)
            .remedy("give network.links in the worker's settings a range that nothing here uses");
    }
    if network.resolvers.is_empty() {
        return Finding::new(
            "network",
            Level::Warn,
            "/etc/resolv.conf names no server: jobs reach addresses only",
        )
        .remedy("give network.resolvers in the worker's settings");
    }
    let version = version.map(|version| format!(" {version}")).unwrap_or_default();
    let forwards = match network.forwards {
        Some(true) => "ip_forward is on",
        Some(false) => "ip_forward is off, and turned on by the first worker with networks",
        None => "ip_forward cannot be read",
    };
    let in_use = match network.in_use.as_deref() {
        None => "links in use unknown".to_owned(),
        Some([]) => "no links in use".to_owned(),
        Some(ranges) => format!("links in use: {}", ranges.join(", ")),
    };
    if !root {
        return Finding::new("network", Level::Ok, "what it takes is there; without root no VM has one");
    }
    let resolvers = network.resolvers.join(", ");
    Finding::new("network", Level::Ok, format!("nft{version}; {forwards}; names by {resolvers}; {in_use}"))
}
