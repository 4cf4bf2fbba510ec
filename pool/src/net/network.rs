//! One VM's network.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    GATEWAY, Namespace, NetworkConfig, NetworkError, Policy, host,
    links::{Link, UPLINK},
    nft,
    resolver::Resolver,
    rules, tap,
};

/// The port of DNS.
const DNS: u16 = 53;

/// A namespace with a card's other end in it. When this is dropped and the VM has ended, the kernel removes everything;
/// [`Network::remove`] removes at once what can be seen of it on the host.
#[derive(Debug)]
pub struct Network {
    config: Arc<NetworkConfig>,
    outside: Namespace,
    inside: Namespace,
    link: Link,
    tap: String,
    resolver: Mutex<Option<Stopping>>,
}

/// A task that ends with this.
#[derive(Debug)]
struct Stopping(JoinHandle<()>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Network {
    /// Makes one in which nothing is allowed. Blocks for some ten milliseconds.
    pub(super) fn make(config: &Arc<NetworkConfig>, outside: &Namespace) -> Result<Self, NetworkError> {
        let inside = Namespace::new().map_err(host("make a network namespace (needs root)"))?;
        let link = free_link(config, outside, &inside)?;
        let tap = link.name();
        let network = Self {
            config: Arc::clone(config),
            outside: outside.clone(),
            inside,
            link,
            tap,
            resolver: Mutex::default(),
        };
        match network.furnish() {
            Ok(()) => Ok(network),
            Err(error) => {
                let _ = network.link.remove(outside);
                Err(error)
            }
        }
    }

    fn furnish(&self) -> Result<(), NetworkError> {
        // Before there is anything that could send.
        let own = self.outside.run(own_addresses).map_err(host("look up the host's own addresses"))?;
        let rules = rules::base(&self.config, &self.tap, UPLINK, &own);
        nft::apply(&self.config.nft, &self.inside, &rules).map_err(host("set a network's rules"))?;
        let forwarding = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
        self.inside.run(forwarding).map_err(host("forward between a network's links"))?;
        self.give(0)?;
        self.link.raise_tap(&self.inside).map_err(host("raise a TAP"))
    }

    /// Where it is: a path for whoever is to start a VM in it. Good while this lives.
    pub fn path(&self) -> PathBuf {
        self.inside.path()
    }

    /// What a card's TAP is called in it.
    pub fn tap(&self) -> &str {
        &self.tap
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.inside
    }

    /// What goes before a command that is to run in it.
    pub fn entered(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.path().display()), "--".to_owned()]
    }

    /// Lets a user attach to the TAP.
    pub fn give(&self, owner: u32) -> Result<(), NetworkError> {
        self.inside.run(|| tap::persist(&self.tap, owner)).map_err(host("make a TAP"))
    }

    /// From now on the VM reaches what the policy says, and nothing that it could reach before.
    pub async fn allow(self: &Arc<Self>, policy: Policy) -> Result<(), NetworkError> {
        self.stop_resolver();
        let rules = rules::allow(&policy, &self.config);
        self.apply(rules).await?;
        if policy.names.is_empty() {
            return Ok(());
        }
        let bind = {
            let inside = self.inside.clone();
            move || inside.run(|| UdpSocket::bind((GATEWAY, DNS)))
        };
        let socket = spawn_blocking(bind).await.unwrap_or_else(|error| Err(error.into()));
        let socket = socket.map_err(host("listen for a guest's questions"))?;
        let setter = RuleSetter { nft: self.config.nft.clone(), inside: self.inside.clone() };
        let resolver =
            Resolver::new(socket, policy, self.config.upstream.clone(), self.outside.clone(), setter)
                .map_err(host("listen for a guest's questions"))?;
        *self.resolver.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Stopping(tokio::spawn(resolver.run())));
        Ok(())
    }

    /// Removes the host's end at once. The rest goes with the namespace. Idempotent.
    pub async fn remove(&self) -> Result<(), NetworkError> {
        self.stop_resolver();
        let (link, outside) = (self.link, self.outside.clone());
        let removed = spawn_blocking(move || link.remove(&outside)).await;
        removed.unwrap_or_else(|error| Err(error.into())).map_err(host("remove a link"))
    }

    fn stop_resolver(&self) {
        self.resolver.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    async fn apply(&self, rules: String) -> Result<(), NetworkError> {
        let setter = RuleSetter { nft: self.config.nft.clone(), inside: self.inside.clone() };
        setter.apply(rules).await.map_err(host("set a network's rules"))
    }
}

/// Sets rules of one network.
#[derive(Clone, Debug)]
pub(super) struct RuleSetter {
    nft: PathBuf,
    inside: Namespace,
}

impl RuleSetter {
    pub async fn apply(&self, rules: String) -> io::Result<()> {
        let Self { nft, inside } = self.clone();
        let applied = spawn_blocking(move || nft::apply(&nft, &inside, &rules)).await;
        applied.unwrap_or_else(|error| Err(error.into()))
    }
}

/// Makes the first link whose number nobody has: the kernel decides between processes.
fn free_link(config: &NetworkConfig, outside: &Namespace, inside: &Namespace) -> Result<Link, NetworkError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = NEXT.fetch_add(1, Ordering::Relaxed);
    let count = (1_u32 << (32 - u32::from(config.links.prefix_len()).clamp(1, 32))) / 4;
    for offset in 0..count {
        let number = first.wrapping_add(offset) % count;
        let Some(link) = Link::nth(config.links, number) else { break };
        if link.make(outside, inside).map_err(host("make a link"))? {
            return Ok(link);
        }
    }
    Err(NetworkError::NoLink(config.links))
}

/// The addresses of the caller's namespace, whichever the interface.
fn own_addresses() -> io::Result<Vec<Ipv4Addr>> {
    let table = std::fs::read_to_string("/proc/thread-self/net/fib_trie")?;
    Ok(local_addresses(&table))
}

/// In the kernel's table each local address is a line `|-- address`, and the next says `host LOCAL`.
fn local_addresses(table: &str) -> Vec<Ipv4Addr> {
    let lines = table.lines();
    let local = lines.clone().zip(lines.skip(1)).filter(|(_, next)| next.contains("host LOCAL"));
    let mut addresses: Vec<Ipv4Addr> =
        local.filter_map(|(line, _)| line.trim().strip_prefix("|-- ")?.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Makes the host ready for networks: its own rules, and forwarding. Blocks.
pub(super) fn prepare_host(config: &NetworkConfig, outside: &Namespace) -> Result<(), NetworkError> {
    let rules = rules::of_host(config.links, &config.host_services);
    nft::apply(&config.nft, outside, &rules).map_err(host("set the host's rules"))?;
    let forward = || forwarding(Path::new("/proc/sys/net/ipv4/ip_forward"));
    outside.run(forward).map_err(host("let the host forward (net.ipv4.ip_forward)"))
}

fn forwarding(setting: &Path) -> io::Result<()> {
    if std::fs::read_to_string(setting)?.trim() == "1" {
        return Ok(());
    }
    tracing::warn!("net.ipv4.ip_forward is set to 1, for the networks of VMs");
    std::fs::write(setting, "1")
}

/// The servers that the host itself asks, as `resolv.conf` names them.
pub(super) fn servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let words = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    words.filter_map(|word| Some(SocketAddr::new(word.trim().parse().ok()?, DNS))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_read_from_the_kernels_table() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
            |-- 10.0.0.5\n           /32 host LOCAL\n     |-- 10.0.0.255\n           /32 link BROADCAST\n     \
            |-- 10.0.0.5\n           /32 host LOCAL\n     |-- 127.0.0.1\n           /32 host LOCAL\n";
        assert_eq!(local_addresses(table), [Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(127, 0, 0, 1)]);
        assert!(own_addresses().is_ok());
    }

    #[test]
    fn the_hosts_servers_are_read() {
        let text = "# a comment\nnameserver 10.0.0.2\nsearch example.com\nnameserver ::1\nnameserver what\n";
        let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.2:53", "[::1]:53"]);
    }
}
