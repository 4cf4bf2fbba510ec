//! What this host has for networks of VMs.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
};

use hearth_pool::net::NetworkConfig;
use ipnet::Ipv4Net;
use serde_json::Value;

use super::facts::{Network, Program};

/// What the names of our links begin with.
const OURS: &str = "hth";

/// Looks. Changes nothing.
pub fn network(nft: Program) -> Network {
    let links = NetworkConfig::new(Vec::new()).links;
    let read = |path| fs::read_to_string(path).ok();
    let resolvers = NetworkConfig::upstream_of_host().unwrap_or_default();
    Network {
        in_use: in_use(&nft),
        nft,
        tun: Path::new("/dev/net/tun").exists(),
        forwards: read("/proc/sys/net/ipv4/ip_forward").map(|setting| setting.trim() == "1"),
        resolvers: resolvers.iter().map(|resolver| resolver.ip().to_string()).collect(),
        links,
        foreign: foreign(&read("/proc/net/route").unwrap_or_default(), links),
    }
}

/// The ranges in the host's table of ours. Needs root.
fn in_use(nft: &Program) -> Option<Vec<String>> {
    let Program::Found { path, .. } = nft else { return None };
    let mut command = Command::new(path);
    let output =
        command.args(["--json", "list", "set", "ip", "hearth", "links"]).stdin(Stdio::null()).output();
    let output = output.ok()?;
    if output.status.success() {
        return Some(ranges(&serde_json::from_slice(&output.stdout).ok()?));
    }
    // Without the table nobody has a network; without root nobody knows.
    let said = String::from_utf8_lossy(&output.stderr);
    said.contains("No such file").then(Vec::new)
}

/// The elements of a set as `nft --json` lists it: a prefix, a range or one address each.
fn ranges(listed: &Value) -> Vec<String> {
    let objects = listed.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let sets = objects.filter_map(|object| object.pointer("/set/elem")?.as_array());
    let text = |element: &Value| {
        let prefix = element.pointer("/prefix/addr").zip(element.pointer("/prefix/len"));
        match (prefix, element.get("range").and_then(Value::as_array).map(Vec::as_slice)) {
            (Some((address, length)), _) => Some(format!("{}/{length}", address.as_str()?)),
            (None, Some([from, to])) => Some(format!("{}-{}", from.as_str()?, to.as_str()?)),
            _ => Some(element.as_str()?.to_owned()),
        }
    };
    sets.flatten().filter_map(text).collect()
}

/// Routes into `links` over interfaces that are not ours, as /proc/net/route has them: interface, destination, gateway, five
/// more fields, mask at the eighth; addresses in hexadecimal as the machine holds them.
fn foreign(table: &str, links: Ipv4Net) -> Vec<(Ipv4Net, String)> {
    let address =
        |hex: &str| u32::from_str_radix(hex, 16).map(|bits| Ipv4Addr::from(bits.to_ne_bytes())).ok();
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (interface, to, mask) = (*fields.first()?, *fields.get(1)?, *fields.get(7)?);
        let net = Ipv4Net::with_netmask(address(to)?, address(mask)?).ok()?;
        Some((net, interface.to_owned()))
    });
    let overlaps = |net: &Ipv4Net| net.prefix_len() > 0 && (links.contains(net) || net.contains(&links));
    routes.filter(|(net, interface)| overlaps(net) && !interface.starts_with(OURS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_nft_lists_them() {
        let listed = serde_json::json!({"nftables": [{"metainfo": {"version": "1.0.6"}}, {"set": {"elem": [
            {"prefix": {"addr": "198.18.0.0", "len": 15}}, {"range": ["10.0.0.1", "10.0.0.9"]}, "10.1.1.1"
        ]}}]});
        assert_eq!(ranges(&listed), ["198.18.0.0/15", "10.0.0.1-10.0.0.9", "10.1.1.1"]);
        assert!(ranges(&serde_json::json!({})).is_empty());
    }

    #[test]
    fn routes_of_others_into_our_links_are_found_and_ours_and_the_default_are_not() {
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let line = |interface: &str, to: [u8; 4], mask: [u8; 4]| {
            let hex = |bytes| format!("{:08X}", u32::from_ne_bytes(bytes));
            format!("{interface}\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n", hex(to), hex(mask))
        };
        let table = [
            head.to_owned(),
            line("eth0", [0; 4], [0; 4]),
            line("eth0", [10, 0, 0, 0], [255, 0, 0, 0]),
            line("hth3", [198, 18, 0, 12], [255, 255, 255, 252]),
            line("bench0", [198, 19, 4, 0], [255, 255, 255, 0]),
        ];
        let links = NetworkConfig::new(Vec::new()).links;
        let found = foreign(&table.concat(), links);
        assert_eq!(found, [("198.19.4.0/24".parse().unwrap(), "bench0".to_owned())]);
    }
}
