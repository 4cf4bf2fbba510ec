//! A host, a world outside of it, and guests, each a namespace.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests share it, and may"
)]

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use hearth_pool::net::{Namespace, Network, NetworkConfig};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use tokio::time::Instant;

/// Set for a process that plays a worker.
pub const ROLE: &str = "HEARTH_TEST_NETWORK_ROLE";
/// Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a guest waits for what never comes. Refusals come at once.
const PATIENCE: Duration = Duration::from_millis(1500);
const HOST: &str = "93.184.0.1";
const SERVER: Ipv4Addr = Ipv4Addr::new(93, 184, 0, 2);

/// Whether networks can be made here. Says aloud what is missing.
pub fn usable() -> bool {
    let nft = Command::new("nft").arg("--version").output().is_ok_and(|output| output.status.success());
    let missing = if !rustix::process::geteuid().is_root() {
        "root"
    } else if !nft {
        "nft"
    } else if !std::path::Path::new("/dev/net/tun").exists() {
        "/dev/net/tun"
    } else {
        return true;
    };
    println!("SKIPPED: networks need {missing}");
    false
}

type Names = Arc<Mutex<BTreeMap<String, (Vec<Ipv4Addr>, u32)>>>;

/// See the module.
pub struct World {
    pub host: Namespace,
    outside: Namespace,
    names: Names,
    asked: Arc<Mutex<Vec<String>>>,
}

impl World {
    /// The outside has `addresses`, and somebody who answers on `ports` of every one; so does the host. The host does not
    /// know how to route private addresses but through it.
    pub async fn make(addresses: &[&str], ports: &[u16]) -> Self {
        let (host, outside) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let there = pid_of(&outside);
        ip(&host, &format!("link add out type veth peer name in netns {}", there.id()));
        drop(there);
        ip(&host, "link set lo up");
        ip(&host, &format!("address add {HOST}/30 dev out"));
        ip(&host, "link set out up");
        ip(&host, &format!("route add default via {SERVER}"));
        ip(&outside, "link set lo up");
        ip(&outside, &format!("address add {SERVER}/30 dev in"));
        ip(&outside, "link set in up");
        for address in addresses {
            ip(&outside, &format!("address add {address}/32 dev lo"));
        }
        for port in ports {
            for namespace in [&outside, &host] {
                serve(namespace, (Ipv4Addr::UNSPECIFIED, *port).into());
            }
            // One socket for each address: an answer has to come from where the question went.
            for address in addresses {
                serve_udp(&outside, SocketAddr::new(address.parse().unwrap(), *port));
            }
            serve_udp(&host, SocketAddr::new(HOST.parse().unwrap(), *port));
        }
        let world = Self { host, outside, names: Arc::default(), asked: Arc::default() };
        world.serve_names();
        world
    }

    pub fn config(&self) -> NetworkConfig {
        NetworkConfig::new(vec![self.server()])
    }

    pub fn host_address(&self) -> &'static str {
        HOST
    }

    pub fn server(&self) -> SocketAddr {
        (SERVER, 53).into()
    }

    /// From now on a name has these addresses.
    pub fn name(&self, name: &str, addresses: &[&str], ttl: u32) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.names.lock().unwrap().insert(format!("{name}."), (addresses, ttl));
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn serve_names(&self) {
        let socket = self.outside.run(|| UdpSocket::bind((SERVER, 53))).unwrap();
        let (names, asked) = (Arc::clone(&self.names), Arc::clone(&self.asked));
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let question = query.queries[0].clone();
                let mut answer = Message::response(query.metadata.id, OpCode::Query);
                answer.add_query(question.clone());
                let name = question.name().to_lowercase().to_ascii();
                asked.lock().unwrap().push(name.trim_end_matches('.').to_owned());
                match names.lock().unwrap().get(&name) {
                    Some((addresses, ttl)) => {
                        answer.add_answers(addresses.iter().map(|address| {
                            Record::from_rdata(question.name().clone(), *ttl, RData::A(A(*address)))
                        }));
                    }
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                }
                socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
            }
        });
    }

    /// Attaches a guest to a network, as its VM would be.
    pub fn guest(&self, network: &Network) -> Guest {
        Guest::attach(network)
    }

    /// The addresses of a network's way out.
    pub fn addresses_of(&self, network: &Network) -> Vec<Ipv4Addr> {
        let inside = network.namespace();
        let said = inside.run(|| Command::new("ip").args(["-4", "-o", "address"]).output()).unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        let words = text.lines().filter(|line| line.contains("uplink"));
        words
            .map(|line| line.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap())
            .collect()
    }

    /// Gives everybody on the way from guest to host IPv6, as nobody who is well-behaved would: `fd00:1::1` is the network,
    /// `fd00:2::1` the host, and both answer.
    pub fn join_by_ipv6(&self, guest: &Guest, network: &Network) {
        let (inside, tap) = (network.namespace(), network.tap());
        ip(&guest.namespace, "-6 address add fd00:1::2/64 dev eth0 nodad");
        ip(inside, &format!("-6 address add fd00:1::1/64 dev {tap} nodad"));
        ip(&guest.namespace, "-6 route add default via fd00:1::1");
        ip(inside, "-6 address add fd00:2::2/64 dev uplink nodad");
        ip(&self.host, &format!("-6 address add fd00:2::1/64 dev {tap} nodad"));
        ip(&self.host, "-6 route add fd00:1::/64 via fd00:2::2");
        // Nobody has to discover anybody: a discovery that the rules drop goes on failing for a while after them.
        for (namespace, device, own, address, neighbour) in [
            (&guest.namespace, "eth0", 2, "fd00:1::1", 1),
            (inside, tap, 1, "fd00:1::2", 2),
            (inside, "uplink", 3, "fd00:2::1", 4),
            (&self.host, tap, 4, "fd00:2::2", 3),
        ] {
            ip(namespace, &format!("link set {device} address 06:00:00:00:00:0{own}"));
            let known = format!("lladdr 06:00:00:00:00:0{neighbour} dev {device} nud permanent");
            ip(namespace, &format!("-6 neigh replace {address} {known}"));
        }
        inside.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")).unwrap();
        for (namespace, at) in [(inside, "[fd00:1::1]:80"), (&self.host, "[fd00:2::1]:80")] {
            serve(namespace, at.parse().unwrap());
            serve_udp(namespace, at.parse().unwrap());
        }
        serve_udp(inside, "192.0.0.1:80".parse().unwrap());
    }

    /// Lets everything through that a network drops.
    pub fn open_all(&self, network: &Network) {
        for chain in ["input", "output", "forward"] {
            let rule = ["insert", "rule", "inet", "hearth", chain, "accept"];
            let output = network.namespace().run(|| Command::new("nft").args(rule).output()).unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    }

    /// The links of networks that the host has.
    pub fn links(&self) -> Vec<String> {
        let said = self.host.run(|| Command::new("ip").args(["-o", "link"]).output()).unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        let names = text.lines().filter_map(|line| line.split_whitespace().nth(1));
        let names = names.map(|name| name.trim_end_matches(':').split('@').next().unwrap().to_owned());
        names.filter(|name| name.starts_with("hth")).collect()
    }

    /// Waits until it holds.
    pub async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds() {
            assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A process on the host that makes networks.
    pub fn worker(&self) -> Child {
        let program = std::env::current_exe().unwrap();
        let start = || {
            Command::new(&program)
                .args(["--exact", "role_worker", "--ignored", "--nocapture", "--test-threads=1"])
                .env(ROLE, "worker")
                .stdout(Stdio::null())
                .spawn()
        };
        self.host.run(start).unwrap()
    }
}

/// A process in a namespace, for `ip`, which takes a namespace by a process's number; it ends with this.
fn pid_of(namespace: &Namespace) -> Sleeper {
    Sleeper(namespace.run(|| Command::new("sleep").arg("60").spawn()).unwrap())
}

struct Sleeper(Child);

impl Sleeper {
    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn ip(namespace: &Namespace, arguments: &str) {
    let output = namespace.run(|| Command::new("ip").args(arguments.split(' ')).output()).unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sends back what it gets.
pub fn serve_udp(namespace: &Namespace, at: SocketAddr) {
    let socket = namespace.run(|| UdpSocket::bind(at)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// The same over TCP.
pub fn serve(namespace: &Namespace, at: SocketAddr) {
    let listener = namespace.run(|| TcpListener::bind(at)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut copy = stream.try_clone().unwrap();
                let _ = io::copy(&mut stream, &mut copy);
            });
        }
    });
}

/// What a VM is to a network: somebody at the other end of a TAP. Frames go between that and a veth of the guest's own
/// namespace.
pub struct Guest {
    namespace: Namespace,
}

impl Guest {
    fn attach(network: &Network) -> Self {
        let namespace = Namespace::new().unwrap();
        let inside = network.namespace();
        // A bridge between the TAP's place and the guest: the TAP itself would need somebody to read its frames. So the guest's
        // link takes over the TAP's name, which is all that the rules know of it.
        let tap = network.tap();
        ip(inside, &format!("link delete {tap}"));
        let there = pid_of(&namespace);
        ip(inside, &format!("link add {tap} type veth peer name eth0 netns {}", there.id()));
        drop(there);
        ip(inside, &format!("address add 192.0.0.1/30 dev {tap}"));
        ip(inside, &format!("link set {tap} up"));
        ip(&namespace, "link set lo up");
        ip(&namespace, "address add 192.0.0.2/30 dev eth0");
        ip(&namespace, "link set eth0 up");
        ip(&namespace, "route add default via 192.0.0.1");
        Self { namespace }
    }

    pub fn connect(&self, address: &str, port: u16) -> io::Result<TcpStream> {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        let stream = self.namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Sends a word by UDP and waits for it to come back.
    pub fn echo_udp(&self, to: &str) -> io::Result<()> {
        let to: SocketAddr = to.parse().unwrap();
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = self.namespace.run(|| UdpSocket::bind((any, 0)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        socket.send(b"hi")?;
        socket.recv(&mut [0; 2]).map(drop)
    }

    /// Sends so many bytes and returns how many came back.
    pub fn send(&self, mut stream: &TcpStream, bytes: usize) -> usize {
        let mut reader = stream.try_clone().unwrap();
        let read = thread::spawn(move || {
            let (mut buffer, mut total) = ([0; 4096], 0);
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                total += count;
            }
            total
        });
        let chunk = [7; 4096];
        let mut sent = 0;
        while sent < bytes && stream.write_all(&chunk).is_ok() {
            sent += chunk.len();
        }
        // Both ways are counted.
        2 * read.join().unwrap()
    }

    pub fn resolve(&self, name: &str) -> io::Result<Vec<Ipv4Addr>> {
        self.resolve_at((hearth_pool::net::GATEWAY, 53).into(), name)
    }

    pub fn resolve_at(&self, server: SocketAddr, name: &str) -> io::Result<Vec<Ipv4Addr>> {
        let socket = self.namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut message = Message::new(3, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), RecordType::A));
        socket.connect(server)?;
        socket.send(&message.to_vec().unwrap())?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer)?;
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        if answer.metadata.response_code != ResponseCode::NoError {
            return Err(io::Error::other(format!("{}", answer.metadata.response_code)));
        }
        let addresses = answer.answers.iter().filter_map(|record| match record.data {
            RData::A(A(address)) => Some(address),
            _ => None,
        });
        Ok(addresses.collect())
    }
}
