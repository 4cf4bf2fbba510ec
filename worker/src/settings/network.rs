//! The table `[network]`.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use hearth_pool::net::{NetworkConfig, never_allowed};
use ipnet::Ipv4Net;

use super::read::{Mistakes, Section};
use crate::admit::NetworkTerms;

/// The port of DNS.
const DNS: u16 = 53;
/// Largest `bytes_max_mib`.
const MIB_MAX: u64 = 1 << 30;
/// Longest prefix of `links`: one link has four addresses.
const LINKS_BITS_MAX: u8 = 30;

/// See [`super::Settings::network`]. What is absent is the host's own, or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSettings {
    links: Option<Ipv4Net>,
    resolvers: Option<Vec<SocketAddr>>,
    bytes_max_mib: Option<u64>,
    connections_max: Option<u32>,
    blocked: Vec<Ipv4Net>,
    private: Vec<Ipv4Net>,
    host: Vec<SocketAddrV4>,
}

impl NetworkSettings {
    /// With what is not said as it is in `host`.
    pub fn config(&self, host: NetworkConfig) -> NetworkConfig {
        NetworkConfig {
            links: self.links.unwrap_or(host.links),
            upstream: self.resolvers.clone().unwrap_or(host.upstream),
            bytes_max: self.bytes_max_mib.map_or(host.bytes_max, |mib| mib << 20),
            connections_max: self.connections_max.unwrap_or(host.connections_max),
            blocked: self.blocked.clone(),
            host_services: self.host.clone(),
            ..host
        }
    }

    /// What jobs may name.
    pub fn terms(&self) -> NetworkTerms {
        NetworkTerms { private: self.private.clone(), host: self.host.clone() }
    }
}

pub(super) fn network(mut section: Section<'_>, mistakes: &mut Mistakes) -> NetworkSettings {
    let ranges = |section: &mut Section<'_>, name, mistakes: &mut Mistakes| {
        let texts = section.texts(name, mistakes).unwrap_or_default();
        let mut ranges = Vec::new();
        for text in texts {
            match text.parse() {
                Ok(range) => ranges.push(range),
                Err(_) => mistakes.note(
                    &format!("network.{name}"),
                    format!("{text:?} given; allowed are ranges such as \"10.1.0.0/16\""),
                ),
            }
        }
        ranges
    };
    let links = section.field("links", mistakes, |value| {
        let range = value.as_str().and_then(|text| text.parse::<Ipv4Net>().ok());
        range
            .filter(|range| range.prefix_len() <= LINKS_BITS_MAX)
            .ok_or_else(|| format!("{value} given; allowed is a range such as \"198.18.0.0/15\""))
    });
    let resolvers = section.field("resolvers", mistakes, |value| {
        let all = value.as_array().map(|all| all.iter().map(|one| server(one.as_str()?)).collect());
        all.flatten().ok_or_else(|| format!("{value} given; allowed is a list of addresses"))
    });
    let mib = section.field("bytes_max_mib", mistakes, |value| whole(value, MIB_MAX));
    let connections = section.field("connections_max", mistakes, |value| whole(value, 65_535));
    let (blocked, private) =
        (ranges(&mut section, "blocked", mistakes), ranges(&mut section, "private", mistakes));
    let host = section.field("host", mistakes, |value| {
        let all = value.as_array().map(|all| all.iter().map(|one| service(one.as_str()?)).collect());
        all.flatten().ok_or_else(|| {
            format!("{value} given; allowed is a list of addresses of this host with a port, such as \"10.0.0.5:5432\"")
        })
    });
    section.end(mistakes);
    let host = host.unwrap_or_default();
    let connections_max = connections.and_then(|number| u32::try_from(number).ok());
    NetworkSettings { links, resolvers, bytes_max_mib: mib, connections_max, blocked, private, host }
}

fn whole(value: &toml::Value, most: u64) -> Result<u64, String> {
    let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
    number
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| format!("{value} given; allowed is a whole number from 1 to {most}"))
}

/// An address that a VM can reach, and a port.
fn service(text: &str) -> Option<SocketAddrV4> {
    let service: SocketAddrV4 = text.parse().ok()?;
    (service.port() > 0 && !never_allowed(Ipv4Net::from(*service.ip()))).then_some(service)
}

/// With or without a port.
fn server(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, DNS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (NetworkSettings, Vec<String>) {
        let (mut table, mut mistakes) = (text.parse().unwrap(), Mistakes::default());
        let section = Section::take(&mut table, "network", &|_| None, &mut mistakes);
        (network(section, &mut mistakes), mistakes.0)
    }

    #[test]
    fn what_is_said_takes_the_place_of_the_hosts() {
        let (settings, mistakes) = read(
            "[network]\nlinks = \"10.200.0.0/16\"\nresolvers = [\"10.0.0.2\", \"[::1]:5353\"]\nbytes_max_mib = 5\n\
             connections_max = 7\nprivate = [\"10.1.0.0/16\"]\nhost = [\"10.0.0.5:5432\"]\nblocked = [\"5.6.7.0/24\"]\n",
        );
        assert_eq!(mistakes, Vec::<String>::new());
        let config = settings.config(NetworkConfig::new(Vec::new()));
        assert_eq!(config.links.to_string(), "10.200.0.0/16");
        assert_eq!(
            config.upstream.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.2:53", "[::1]:5353"]
        );
        assert_eq!((config.bytes_max, config.connections_max, config.blocked.len()), (5 << 20, 7, 1));
        assert_eq!((settings.terms().private.len(), settings.terms().host.len()), (1, 1));
        assert_eq!(config.host_services, settings.terms().host);
        let host = NetworkConfig::new(vec![([127, 0, 0, 53], 53).into()]);
        assert_eq!(NetworkSettings::default().config(host.clone()), host);
    }

    #[test]
    fn what_is_wrong_is_said_by_its_field() {
        let (_, mistakes) = read(
            "[network]\nlinks = \"10.0.0.0/31\"\nresolvers = [\"dns.example\"]\nbytes_max_mib = 0\n\
             connections_max = 70000\nprivate = [\"x\"]\nhost = [\"127.0.0.1:80\"]\nwhat = 1\n",
        );
        for wrong in ["10.0.0.5", "10.0.0.5:0", "[::1]:80", "10.0.0.0/8:80"] {
            let (_, mistakes) = read(&format!("[network]\nhost = [\"{wrong}\"]\n"));
            assert!(mistakes[0].starts_with("network.host: "), "{wrong}: {mistakes:?}");
        }
        let fields: Vec<&str> = mistakes.iter().map(|mistake| mistake.split(':').next().unwrap()).collect();
        for field in ["links", "resolvers", "bytes_max_mib", "connections_max", "private", "host", "what"] {
            assert!(fields.contains(&format!("network.{field}").as_str()), "{field}: {mistakes:?}");
        }
    }
}
