//! Broker and Redis by TLS: real servers, certificates made here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod broker;

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use broker::{Private, until};
use hearth_pool::redis_server::{ClientTlsConfig, RedisConfig, RedisServer, TlsCertificates};
use hearth_worker::{
    amqp::link::{Endpoint, Link, LinkError},
    settings::Settings,
    tls::Certificates,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A CA, what it has signed, and a CA that nobody has asked.
struct Papers(tempfile::TempDir);

impl Papers {
    fn new() -> Self {
        let papers = Self(tempfile::tempdir().unwrap());
        let ca = papers.authority("ca");
        papers.authority("stranger");
        papers.sign(&ca, "server", &["localhost", "127.0.0.1"]);
        papers.sign(&ca, "client", &["hearth"]);
        papers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn authority(&self, name: &str) -> Issuer<'static, KeyPair> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        Issuer::new(params, key)
    }

    fn sign(&self, ca: &Issuer<'_, KeyPair>, name: &str, names: &[&str]) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, ca).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// What a client has that trusts `ca`, and shows its own certificate or none.
    fn certificates(&self, ca: &str, shows: bool) -> Certificates {
        let (certificate, key) = (self.path("client.pem"), self.path("client.key"));
        let own = |path: &'_ Path| shows.then(|| path.to_owned());
        let ca = self.path(ca);
        Certificates::read(Some(&ca), own(&certificate).as_deref(), own(&key).as_deref()).unwrap()
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn doctor(arguments: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hearth")).arg("doctor").args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_reached_by_tls_and_a_wrong_ca_is_named() {
    let (papers, port) = (Papers::new(), free_port());
    let config = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
        papers.text("ca.pem"),
        papers.text("server.pem"),
        papers.text("server.key")
    );
    let Some(private) = Private::start_with(1_800_000, &config) else { return };
    private.ready().await;
    let url = format!("amqps://guest:guest@localhost:{port}/%2f");
    let endpoint = |ca: &str, shows| {
        Endpoint::new(&url).unwrap().with_certificates(papers.certificates(ca, shows)).unwrap()
    };
    let link = Link::open(&endpoint("ca.pem", true), "test").await.unwrap();
    link.channel().await.unwrap();
    link.close().await;
    match Link::open(&endpoint("stranger.pem", true), "test").await.err().unwrap() {
        error @ LinkError::Tls { .. } => assert!(error.to_string().contains("broker.ca_file"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(Link::open(&endpoint("ca.pem", false), "test").await.is_err(), "it asks for a certificate");
    let flags = |ca: &str| {
        let own = [("--broker-cert", "client.pem"), ("--broker-key", "client.key"), ("--broker-ca", ca)];
        let own = own.into_iter().flat_map(|(flag, name)| [flag.to_owned(), papers.text(name)]);
        ["--broker".to_owned(), url.clone()].into_iter().chain(own).collect::<Vec<_>>()
    };
    let (good, bad) = (said(&doctor(&flags("ca.pem"))), said(&doctor(&flags("stranger.pem"))));
    assert!(good.contains("RabbitMQ"), "{good}");
    assert!(bad.contains("broker.ca_file"), "{bad}");
    let mut topology = Command::new(env!("CARGO_BIN_EXE_hearth"));
    let topology =
        topology.args(["topology", "--apply", "--runtime", "python", "--shards", "1"]).args(flags("ca.pem"));
    assert!(topology.status().unwrap().success(), "the commands speak TLS");
}

struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_reached_by_tls_and_a_wrong_ca_is_told() {
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: no redis-server is installed here");
        return;
    }
    let (papers, port) = (Papers::new(), free_port());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "redis-server", "--port", "0", "--tls-port", &port.to_string()]);
    command.args([
        "--tls-ca-cert-file",
        &papers.text("ca.pem"),
        "--tls-cert-file",
        &papers.text("server.pem"),
    ]);
    command.args(["--tls-key-file", &papers.text("server.key"), "--tls-auth-clients", "yes"]);
    command.args(["--appendonly", "yes", "--save", "", "--dir", papers.0.path().to_str().unwrap()]);
    let _redis = Redis(command.stdout(Stdio::null()).spawn().unwrap());
    until("it listens", async || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let url = format!("rediss://127.0.0.1:{port}/");
    let server = |ca: &str, shows| {
        let Certificates { ca, identity } = papers.certificates(ca, shows);
        let client_tls =
            identity.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        let certificates = Some(TlsCertificates { client_tls, root_cert: ca });
        RedisServer::new(RedisConfig { certificates, ..RedisConfig::new(&url) }).unwrap()
    };
    server("ca.pem", true).check().await.unwrap();
    let error = server("stranger.pem", true).check().await.unwrap_err();
    let sources = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    let why = sources.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let remedy = hearth_worker::tls::remedy(&why, "redis").unwrap_or_else(|| panic!("{why}"));
    assert!(remedy.contains("redis.ca_file"), "{remedy}");
    server("ca.pem", false).check().await.unwrap_err();
    let flags = |ca: &str| {
        let own = [("--redis-cert", "client.pem"), ("--redis-key", "client.key"), ("--redis-ca", ca)];
        let own = own.into_iter().flat_map(|(flag, name)| [flag.to_owned(), papers.text(name)]);
        ["--redis".to_owned(), url.clone()].into_iter().chain(own).collect::<Vec<_>>()
    };
    let (good, bad) = (said(&doctor(&flags("ca.pem"))), said(&doctor(&flags("stranger.pem"))));
    assert!(good.contains("7.") && !good.contains("redis.ca_file"), "{good}");
    assert!(bad.contains("redis.ca_file"), "{bad}");
}

#[test]
fn wrong_files_and_addresses_without_tls_are_mistakes() {
    let papers = Papers::new();
    let parse = |text: String| Settings::parse(&text, &|_| None);
    let (ca, key) = (papers.text("ca.pem"), papers.text("client.key"));
    let text = format!(
        "[broker]\nurl = \"amqps://x\"\nca_file = \"{key}\"\n[redis]\nurl = \"redis://x\"\nca_file = \"{ca}\"\n"
    );
    let said = parse(text).unwrap_err().to_string();
    assert!(said.contains("broker: ca_file") && said.contains("no certificate"), "{said}");
    assert!(said.contains("redis.url") && said.contains("rediss://"), "{said}");
    let half =
        format!("[broker]\nurl = \"amqps://x\"\ncertificate_file = \"{}\"\n", papers.text("client.pem"));
    assert!(parse(half).unwrap_err().to_string().contains("key_file"));
    let plain = format!("[broker]\nurl = \"amqp://x\"\nca_file = \"{ca}\"\n");
    assert!(parse(plain).unwrap_err().to_string().contains("amqps://"));
    let good = format!(
        "[broker]\nurl = \"amqps://x\"\nca_file = \"{ca}\"\n[redis]\nurl = \"rediss://x\"\nca_file = \"{ca}\"\n"
    );
    assert!(!format!("{:?}", parse(good).unwrap()).contains("BEGIN"), "certificates are not printed");
}
