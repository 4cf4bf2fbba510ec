//! The rules of a network, as nft reads them. Pure. Only numbers and our own words go in: nothing that a job wrote.

use std::{
    collections::BTreeSet,
    fmt::{Display, Write as _},
    net::{Ipv4Addr, SocketAddrV4},
};

use ipnet::Ipv4Net;

use super::{GATEWAY, GUEST, LINK_PREFIX, NetworkConfig, Policy, Target, blocked};

/// The table that holds everything.
const TABLE: &str = "inet hearth";
/// Addresses of names that are allowed at once.
const RESOLVED_MAX: u32 = 4096;

/// What a namespace begins with: names are asked of us, and nothing else goes anywhere. `tap` is the guest's side, `uplink`
/// the host's; `own` are addresses of the host.
pub(super) fn base(config: &NetworkConfig, tap: &str, uplink: &str, own: &[Ipv4Addr]) -> String {
    let blocked = blocked::ranges().chain([config.links]).chain(config.blocked.iter().copied());
    let blocked = elements(Ipv4Net::aggregate(&blocked.collect()));
    let own = elements(own);
    let (bytes, connections) = (config.bytes_max, config.connections_max);
    format!(
        "table {TABLE} {{
  quota budget {{ over {bytes} bytes }}
  set own {{ type ipv4_addr; {own} }}
  set blocked {{ type ipv4_addr; flags interval; {blocked} }}
  set resolved {{ type ipv4_addr . inet_service; flags timeout; size {RESOLVED_MAX}; }}
  chain allowed {{ }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname \"{tap}\" ip saddr {GUEST} ip daddr {GATEWAY} udp dport 53 accept
  }}
  chain output {{
    type filter hook output priority filter; policy drop;
    oifname \"{tap}\" ip daddr {GUEST} udp sport 53 accept
    oifname \"{tap}\" ip daddr {GUEST} meta l4proto {{ icmp, tcp }} accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    quota name \"budget\" drop
    ct state established,related accept
    iifname != \"{tap}\" drop
    ip saddr != {GUEST} drop
    ct state new ct count over {connections} reject with tcp reset
    jump allowed
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
  chain outward {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"{uplink}\" masquerade
  }}
}}
"
    )
}

/// The elements of a set; one without any says nothing of them.
fn elements(all: impl IntoIterator<Item = impl Display>) -> String {
    let all = all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", ");
    if all.is_empty() { all } else { format!("elements = {{ {all} }}") }
}

/// What a job may reach, in place of what was allowed before. What lies in a blocked range is reached only where it is named,
/// and the host only where one address and port of it are, which the operator has to name, too.
pub(super) fn allow(policy: &Policy, config: &NetworkConfig) -> String {
    let mut rules = format!("flush chain {TABLE} allowed\nflush set {TABLE} resolved\n");
    let mut add = |rule: String| {
        let _ = writeln!(rules, "add rule {TABLE} allowed {rule}");
    };
    let (services, others): (Vec<Target>, Vec<Target>) = policy
        .targets
        .iter()
        .partition(|target| config.host_services.iter().any(|service| target.is(*service)));
    let names_blocked = |target: &Target| {
        target.names_blocked() || config.blocked.iter().any(|blocked| blocked.contains(&target.range))
    };
    let (named, open): (Vec<Target>, Vec<Target>) = others.into_iter().partition(names_blocked);
    for target in services {
        add(format!("ip daddr {} tcp dport {} accept", target.range.addr(), target.port));
    }
    add("ip daddr @own return".to_owned());
    for target in named {
        add(format!("ip daddr {} tcp dport {} accept", target.range, target.port));
    }
    add("ip daddr @blocked return".to_owned());
    for target in open {
        add(format!("ip daddr {} tcp dport {} accept", target.range, target.port));
    }
    add("ip daddr . tcp dport @resolved accept".to_owned());
    rules
}

/// Lets addresses be reached on these ports for so many seconds from now, whether they were before or not.
pub(super) fn resolved(addresses: &[(Ipv4Addr, u32)], ports: &BTreeSet<u16>) -> String {
    let mut rules = String::new();
    for (address, seconds) in addresses {
        for port in ports {
            // What is there already keeps its time, so it is taken away first; and that needs it to be there.
            let element = format!("element {TABLE} resolved {{ {address} . {port}");
            let _ =
                writeln!(rules, "add {element} }}\ndelete {element} }}\nadd {element} timeout {seconds}s }}");
        }
    }
    rules
}

/// The host's own table: a second net below that of each namespace, and the way out. Its rules are made anew, its sets
/// grow: each worker of the host may have links of its own, and name services of the host.
pub(super) fn of_host(links: Ipv4Net, services: &[SocketAddrV4]) -> String {
    let services = elements(services.iter().map(|service| format!("{} . {}", service.ip(), service.port())));
    let ours = format!("\"{LINK_PREFIX}*\"");
    format!(
        "table ip hearth {{ }}
flush table ip hearth
table ip hearth {{
  set links {{
    type ipv4_addr; flags interval; auto-merge; elements = {{ {links} }}
  }}
  set services {{
    type ipv4_addr . inet_service; {services}
  }}
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifname {ours} ip saddr @links ip daddr . tcp dport @services accept
    iifname {ours} drop
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifname {ours} oifname {ours} drop
    iifname {ours} ip saddr != @links drop
    oifname {ours} ct state new drop
  }}
  chain outward {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @links oifname != {ours} masquerade
  }}
}}
table ip6 hearth {{ }}
flush table ip6 hearth
table ip6 hearth {{
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifname {ours} drop
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifname {ours} drop
    oifname {ours} drop
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_ranges_come_before_what_is_blocked_and_all_else_after() {
        let mut policy = Policy::default();
        for entry in ["0.0.0.0/0:443", "10.1.0.0/16:5432", "a.example:80"] {
            policy.add(entry).unwrap();
        }
        policy.add("203.0.114.7:25").unwrap();
        policy.add("5.6.7.8:5432").unwrap();
        policy.add("5.6.7.8:80").unwrap();
        let config = NetworkConfig {
            blocked: vec!["203.0.114.0/24".parse().unwrap()],
            host_services: vec!["5.6.7.8:5432".parse().unwrap(), "5.6.7.8:22".parse().unwrap()],
            ..NetworkConfig::new(Vec::new())
        };
        let rules: Vec<String> = allow(&policy, &config).lines().map(str::to_owned).collect();
        assert_eq!(
            rules,
            [
                "flush chain inet hearth allowed",
                "flush set inet hearth resolved",
                "add rule inet hearth allowed ip daddr 5.6.7.8 tcp dport 5432 accept",
                "add rule inet hearth allowed ip daddr @own return",
                "add rule inet hearth allowed ip daddr 10.1.0.0/16 tcp dport 5432 accept",
                "add rule inet hearth allowed ip daddr 203.0.114.7/32 tcp dport 25 accept",
                "add rule inet hearth allowed ip daddr @blocked return",
                "add rule inet hearth allowed ip daddr 0.0.0.0/0 tcp dport 443 accept",
                "add rule inet hearth allowed ip daddr 5.6.7.8/32 tcp dport 80 accept",
                "add rule inet hearth allowed ip daddr . tcp dport @resolved accept",
            ]
        );
        assert!(!rules.concat().contains("a.example"), "nothing that a job wrote");
    }

    #[test]
    fn the_host_and_the_links_are_blocked_and_everything_is_dropped_first() {
        let config = NetworkConfig::new(Vec::new());
        let rules = base(&config, "hth7", "uplink", &[Ipv4Addr::new(5, 6, 7, 8)]);
        for part in [
            "own { type ipv4_addr; elements = { 5.6.7.8 } }",
            "198.18.0.0/15",
            "169.254.0.0/16",
            "over 1073741824 bytes",
            "ct count over 64",
        ] {
            assert!(rules.contains(part), "{part}\n{rules}");
        }
        assert_eq!(rules.matches("policy drop").count(), 3, "{rules}");
    }

    #[test]
    fn a_resolved_address_has_its_time_on_each_port() {
        let rules = resolved(&[(Ipv4Addr::new(1, 2, 3, 4), 30)], &BTreeSet::from([80, 443]));
        assert_eq!(rules.lines().count(), 6);
        assert!(
            rules.ends_with("add element inet hearth resolved { 1.2.3.4 . 443 timeout 30s }\n"),
            "{rules}"
        );
    }
}
