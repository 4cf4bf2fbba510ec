//! Networks of VMs on this kernel: the host, the world and the guests are namespaces, so that this machine's own network is
//! not touched. Needs root, `nft` and /dev/net/tun.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may"
)]

mod world;

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use hearth_pool::net::{NetworkConfig, Networks, Policy};
use world::{World, usable};

const PUBLIC: &str = "93.184.216.34";
const OTHER: &str = "93.184.216.35";
const PRIVATE: &str = "10.9.8.7";
const METADATA: &str = "169.254.169.254";

fn policy(entries: &[&str]) -> Policy {
    let mut policy = Policy::default();
    entries.iter().try_for_each(|entry| policy.add(entry)).unwrap();
    policy
}

/// A world in which every address that a test uses answers on ports 80 and 81.
async fn world() -> Option<World> {
    if !usable() {
        return None;
    }
    Some(World::make(&[PUBLIC, OTHER, PRIVATE, METADATA], &[80, 81]).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_is_reached_and_nothing_else() {
    let Some(world) = world().await else { return };
    let networks = Networks::open(world.config(), world.host.clone()).await.unwrap();
    let network = networks.take().await.unwrap();
    let guest = world.guest(&network);
    // Before there is a policy.
    assert!(guest.connect(PUBLIC, 80).is_err());
    network.allow(policy(&[&format!("{PUBLIC}:80")])).await.unwrap();
    guest.connect(PUBLIC, 80).unwrap();
    for (address, port) in [(PUBLIC, 81), (OTHER, 80), (PRIVATE, 80), (METADATA, 80)] {
        let error = guest.connect(address, port).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{address}:{port} {error}");
    }
    assert!(guest.connect(world.host_address(), 80).is_err(), "the host");
    assert!(guest.connect("192.0.0.1", 80).is_err(), "the router");
    // Another policy takes the place of the first.
    network.allow(policy(&[&format!("{OTHER}:81")])).await.unwrap();
    assert!(guest.connect(PUBLIC, 80).is_err());
    guest.connect(OTHER, 81).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_ranges_are_reached_only_where_they_are_named() {
    let Some(world) = world().await else { return };
    let networks = Networks::open(world.config(), world.host.clone()).await.unwrap();
    let network = networks.take().await.unwrap();
    let guest = world.guest(&network);
    network.allow(policy(&["0.0.0.0/0:80"])).await.unwrap();
    guest.connect(PUBLIC, 80).unwrap();
    for address in [PRIVATE, METADATA, world.host_address()] {
        assert!(guest.connect(address, 80).is_err(), "{address}");
    }
    network.allow(policy(&["0.0.0.0/0:80", &format!("{PRIVATE}:80")])).await.unwrap();
    guest.connect(PRIVATE, 80).unwrap();
    assert!(guest.connect(METADATA, 80).is_err());
    assert!(guest.connect(PRIVATE, 81).is_err());
    // The host itself is behind a second net, whatever a policy says.
    network.allow(policy(&[&format!("{}:80", world.host_address())])).await.unwrap();
    assert!(guest.connect(world.host_address(), 80).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_reached_only_at_what_both_its_operator_and_the_job_name() {
    let Some(world) = world().await else { return };
    let (host, both) = (world.host_address(), [format!("{}:80", world.host_address())]);
    let config = NetworkConfig {
        host_services: vec![both[0].parse().unwrap()],
        blocked: vec![format!("{OTHER}/32").parse().unwrap()],
        ..world.config()
    };
    let networks = Networks::open(config, world.host.clone()).await.unwrap();
    let network = networks.take().await.unwrap();
    let guest = world.guest(&network);
    network.allow(policy(&both.each_ref().map(String::as_str))).await.unwrap();
    guest.connect(host, 80).unwrap();
    assert!(guest.connect(host, 81).is_err());
    assert!(guest.connect(PUBLIC, 80).is_err());
    // Not by a range in which it lies, not by a name, not at a port that the operator has not named.
    world.name("host.example.com", &[host], 60);
    for entry in ["0.0.0.0/0:80", "93.184.0.0/30:80", "host.example.com:80", &format!("{host}:81")] {
        network.allow(policy(&[entry])).await.unwrap();
        let _ = guest.resolve("host.example.com");
        for port in [80, 81] {
            assert!(guest.connect(host, port).is_err(), "{entry} {port}");
        }
    }
    // What the operator has blocked is reached by who names it.
    network.allow(policy(&["0.0.0.0/0:80"])).await.unwrap();
    guest.connect(PUBLIC, 80).unwrap();
    assert!(guest.connect(OTHER, 80).is_err());
    network.allow(policy(&[&format!("{OTHER}:80")])).await.unwrap();
    guest.connect(OTHER, 80).unwrap();
    // A worker beside it whose operator has named nothing.
    let others = Networks::open(world.config(), world.host.clone()).await.unwrap();
    let network = others.take().await.unwrap();
    network.allow(policy(&both.each_ref().map(String::as_str))).await.unwrap();
    assert!(world.guest(&network).connect(host, 80).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_and_udp_go_nowhere_but_to_the_resolver() {
    let Some(world) = world().await else { return };
    world.name("api.example.com", &[PUBLIC], 60);
    let config = NetworkConfig {
        host_services: vec![format!("{}:80", world.host_address()).parse().unwrap()],
        ..world.config()
    };
    let networks = Networks::open(config, world.host.clone()).await.unwrap();
    let network = networks.take().await.unwrap();
    let guest = world.guest(&network);
    let host = format!("{}:80", world.host_address());
    network.allow(policy(&["0.0.0.0/0:80", "api.example.com:80", &host])).await.unwrap();
    world.join_by_ipv6(&guest, &network);
    guest.connect(PUBLIC, 80).unwrap();
    guest.connect(world.host_address(), 80).unwrap();
    guest.resolve("api.example.com").unwrap();
    let public = format!("{PUBLIC}:80");
    let (network_own, hosts) = (["192.0.0.1:80", "[fd00:1::1]:80", &public], ["[fd00:2::1]:80", &host]);
    for to in network_own.iter().chain(&hosts) {
        assert!(guest.echo_udp(to).is_err(), "{to}");
    }
    for to in ["fd00:1::1", "fd00:2::1"] {
        assert!(guest.connect(to, 80).is_err(), "{to}");
    }
    // It is the rules that hold it, and behind them a second net for the host.
    world.open_all(&network);
    for to in network_own {
        guest.echo_udp(to).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
    guest.connect("fd00:1::1", 80).unwrap();
    for to in hosts {
        assert!(guest.echo_udp(to).is_err(), "{to}");
    }
    assert!(guest.connect("fd00:2::1", 80).is_err());
}

/// Two workers of one host whose settings differ: the second one's table must not be the end of the first one's networks.
#[tokio::test(flavor = "multi_thread")]
async fn workers_with_links_in_different_ranges_do_not_cut_each_other_off() {
    let Some(world) = world().await else { return };
    let mut guests = Vec::new();
    // The third has a part of the first one's range, and the fourth the same.
    for links in ["198.18.0.0/15", "10.200.0.0/24", "198.18.7.0/24", "198.18.0.0/15"] {
        let config = NetworkConfig { links: links.parse().unwrap(), ..world.config() };
        let networks = Networks::open(config, world.host.clone()).await.unwrap();
        let network = networks.take().await.unwrap();
        network.allow(policy(&[&format!("{PUBLIC}:80")])).await.unwrap();
        let guest = world.guest(&network);
        guests.push((links, guest, network, networks));
        for (links, guest, ..) in &guests {
            guest.connect(PUBLIC, 80).unwrap_or_else(|error| panic!("{links}: {error}"));
        }
    }
    let (_, first, ..) = &guests[0];
    let others = guests[1..].iter().flat_map(|(_, _, network, _)| world.addresses_of(network));
    for other in others {
        assert!(first.connect(&other.to_string(), 80).is_err(), "VMs do not reach each other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_do_not_reach_each_other() {
    let Some(world) = world().await else { return };
    let networks = Networks::open(world.config(), world.host.clone()).await.unwrap();
    let (one, two) = (networks.take().await.unwrap(), networks.take().await.unwrap());
    let (guest, _other) = (world.guest(&one), world.guest(&two));
    let links = world.addresses_of(&two);
    assert!(!links.is_empty());
    for link in links {
        one.allow(policy(&[&format!("{link}:80"), "0.0.0.0/0:80"])).await.unwrap();
        assert!(guest.connect(&link.to_string(), 80).is_err(), "{link}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_resolved_if_they_are_allowed_and_hold_for_their_time() {
    let Some(world) = world().await else { return };
    world.name("api.example.com", &[PUBLIC], 5);
    world.name("evil.example.com", &[METADATA, PRIVATE], 5);
    let networks = Networks::open(world.config(), world.host.clone()).await.unwrap();
    let network = networks.take().await.unwrap();
    let guest = world.guest(&network);
    network.allow(policy(&["api.example.com:80", "evil.example.com:80"])).await.unwrap();
    assert!(guest.connect(PUBLIC, 80).is_err(), "nobody has asked for it");
    assert_eq!(guest.resolve("api.example.com").unwrap(), [PUBLIC.parse::<Ipv4Addr>().unwrap()]);
    guest.connect(PUBLIC, 80).unwrap();
    assert!(guest.connect(PUBLIC, 81).is_err());
    assert!(guest.resolve("evil.example.com").unwrap().is_empty(), "answers in blocked ranges are dropped");
    assert!(guest.connect(METADATA, 80).is_err());
    assert!(guest.resolve("other.example.com").is_err(), "refused");
    assert_eq!(world.asked(), ["api.example.com", "evil.example.com"], "nobody hears of other names");
    world.until("the address is forgotten", || guest.connect(PUBLIC, 80).is_err()).await;
    guest.resolve("api.example.com").unwrap();
    guest.connect(PUBLIC, 80).unwrap();
    // Another name server is not reached.
    assert!(guest.resolve_at(world.server(), "api.example.com").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_bytes_are_limited() {
    let Some(world) = world().await else { return };
    let mut config = world.config();
    (config.connections_max, config.bytes_max) = (3, 200_000);
    let networks = Networks::open(config, world.host.clone()).await.unwrap();
    let network = networks.take().await.unwrap();
    let guest = world.guest(&network);
    network.allow(policy(&[&format!("{PUBLIC}:80")])).await.unwrap();
    let held: Vec<_> = (0..3).map(|_| guest.connect(PUBLIC, 80).unwrap()).collect();
    assert_eq!(guest.connect(PUBLIC, 80).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let sent = guest.send(&held[0], 1_000_000);
    assert!((100_000..200_000).contains(&sent), "{sent} bytes came back of what was sent");
    drop(held);
    assert!(guest.connect(PUBLIC, 80).is_err(), "what was allowed is used up");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_with_the_network_however_it_ends() {
    let Some(world) = world().await else { return };
    let networks = Networks::open(world.config(), world.host.clone()).await.unwrap();
    let network = networks.take().await.unwrap();
    let name = network.tap().to_owned();
    assert!(name.len() <= 15 && world.links().contains(&name));
    network.remove().await.unwrap();
    assert!(!world.links().contains(&name), "removed at once");
    network.remove().await.unwrap();
    drop(network);

    // Dropped, as by a restore that was cancelled.
    let network = networks.take().await.unwrap();
    let name = network.tap().to_owned();
    drop(network);
    world.until("the kernel has removed it", || !world.links().contains(&name)).await;

    // A process that is still in it keeps it, until it ends.
    let network = networks.take().await.unwrap();
    let name = network.tap().to_owned();
    let mut process =
        network.namespace().run(|| std::process::Command::new("sleep").arg("60").spawn()).unwrap();
    drop(network);
    drop(networks);
    assert!(world.links().contains(&name));
    process.kill().unwrap();
    process.wait().unwrap();
    world.until("nothing is left", || world.links().is_empty()).await;
}

/// Seen in NQRust: names made of the VM's own, which the kernel did not take. The first half shows its answer.
#[tokio::test(flavor = "multi_thread")]
async fn no_link_has_a_name_that_the_kernel_does_not_take() {
    let Some(world) = world().await else { return };
    let made = |name: &str| {
        world.host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                let link = rtnetlink::LinkVeth::new(name, "peer").build();
                handle.link().add(link).execute().await.map_err(io::Error::other)
            })
        })
    };
    let refused = made("hth-python-0-17f").unwrap_err().to_string();
    assert!(refused.contains("out of range") || refused.contains("Invalid"), "16 bytes: {refused}");
    // The longest that there can be: of the last link of all addresses.
    made(&format!("hth{}", u32::MAX >> 2)).unwrap();
    let config = NetworkConfig { links: "128.0.0.0/1".parse().unwrap(), ..world.config() };
    let network = Networks::open(config, world.host.clone()).await.unwrap().take().await.unwrap();
    assert!(network.tap().len() <= 15 && world.links().contains(&network.tap().to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_leaves_no_network() {
    let Some(world) = world().await else { return };
    let mut child = world.worker();
    world.until("it has networks", || world.links().len() >= 3).await;
    child.kill().unwrap();
    child.wait().unwrap();
    world.until("nothing is left", || world.links().is_empty()).await;
}

/// A process that has networks until it is killed.
#[tokio::test]
#[ignore = "not a test: a worker to be killed"]
async fn role_worker() {
    if std::env::var_os(world::ROLE).is_none() {
        return;
    }
    let host = hearth_pool::net::Namespace::own().unwrap();
    let networks = Networks::open(hearth_pool::net::NetworkConfig::new(Vec::new()), host).await.unwrap();
    let _held: Arc<_> = networks.take().await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_networks_at_once_have_links_of_their_own() {
    let Some(world) = world().await else { return };
    let networks = Arc::new(Networks::open(world.config(), world.host.clone()).await.unwrap());
    let mut taking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let networks = Arc::clone(&networks);
        taking.spawn(async move { networks.take().await.unwrap() });
    }
    let taken = taking.join_all().await;
    let mut names: Vec<&str> = taken.iter().map(|network| network.tap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 8);
}
