//! What the command is told by its flags and by the environment. Nothing else reads the environment.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{ArgAction, Args, ValueEnum};
use hearth_worker::tls::Certificates;

use crate::cli::exit::{Exit, Failure};

/// Where the system's own tools are; mke2fs and depmod are in /usr/sbin, which not every user's `PATH` has.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Config {
    /// Where images and snapshots are kept
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "HEARTH_DATA",
        hide_env_values = true,
        default_value = "/var/lib/hearth"
    )]
    pub data_dir: PathBuf,

    /// Where the files of running VMs, the locks and the leases are; on tmpfs, and one for all workers of a host
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "HEARTH_RUN",
        hide_env_values = true,
        default_value = "/run/hearth"
    )]
    pub run_dir: PathBuf,

    /// A directory of runtime files (*.toml) that replace built-in runtimes by name, or add to them
    #[arg(long, global = true, value_name = "DIR", env = "HEARTH_RUNTIMES", hide_env_values = true)]
    pub runtimes: Option<PathBuf>,

    /// The guest agent that `bake` puts into images [default: `hearth-agent` beside this program]
    #[arg(long, global = true, value_name = "FILE", env = "HEARTH_AGENT", hide_env_values = true)]
    pub agent: Option<PathBuf>,

    /// What makes the VMs; `auto` is Firecracker where it works, else QEMU
    #[arg(
        long,
        global = true,
        value_name = "WHICH",
        env = "HEARTH_HYPERVISOR",
        hide_env_values = true,
        default_value = "auto"
    )]
    pub hypervisor: Hypervisor,

    /// What of Firecracker's protection to do without, separated by commas; for tests of Hearth itself
    #[arg(
        long,
        global = true,
        value_name = "WHAT",
        env = "HEARTH_INSECURE",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub insecure: Vec<Insecure>,

    /// User ids of jailed VMs, one for each CID and the last for bakes; nothing else on this host may have one
    #[arg(
        long,
        global = true,
        value_name = "FIRST-LAST",
        env = "HEARTH_JAIL_UIDS",
        hide_env_values = true,
        default_value = "200000-201023"
    )]
    pub jail_uids: UidRange,

    /// More log records: -v info, -vv debug, -vvv trace
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Errors only: no warnings, no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// How log records are written to stderr [default: human on a terminal, else json]
    #[arg(long, global = true, value_name = "FORMAT", env = "HEARTH_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<LogFormat>,

    /// Which log records are written, such as `info,hearth_pool=debug`; goes before -v and -q
    #[arg(long, global = true, value_name = "FILTER", env = "HEARTH_LOG", hide_env_values = true)]
    pub log: Option<String>,
}

/// See [`Config::hypervisor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hypervisor {
    /// Firecracker where it works, else QEMU.
    Auto,
    /// Firecracker or nothing.
    Firecracker,
    /// QEMU.
    Qemu,
}

/// See [`Config::insecure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Insecure {
    /// Without its jailer: it runs as this user and sees all of the host.
    NoJailer,
    /// Without its filter of system calls.
    NoSeccomp,
}

/// User ids from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidRange {
    /// At least 1000: below are the system's own (Debian policy, 9.2.2).
    pub first: u32,
    last: u32,
}

impl UidRange {
    /// How many there are; at least two.
    pub fn count(self) -> u32 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }
}

impl FromStr for UidRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range; allowed is FIRST-LAST, such as 200000-201023");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let range = Self { first: number(first)?, last: number(last)? };
        // The last id of 32 bits means nobody (chown(2)).
        if range.first < 1000 || range.last <= range.first || range.last == u32::MAX {
            return Err(format!("{text:?}: allowed are at least two ids from 1000 to 4294967294"));
        }
        Ok(range)
    }
}

/// See [`Config::log_format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The services that a worker of many hosts needs; `run` and `bake` need neither.
#[derive(Clone, Debug, Args)]
pub struct Services {
    /// The broker, as amqp://[user[:password]@]host[:port][/vhost], or amqps://
    #[arg(long, value_name = "URL", env = "HEARTH_BROKER", hide_env_values = true)]
    pub broker: Option<String>,

    #[command(flatten)]
    pub broker_tls: BrokerTls,

    /// Redis, as redis://[[user][:password]@]host[:port][/database], or rediss://
    #[arg(long, value_name = "URL", env = "HEARTH_REDIS", hide_env_values = true)]
    pub redis: Option<String>,

    /// The CA that Redis's certificate is from (PEM), for rediss:// [default: whom this host trusts]
    #[arg(long, value_name = "FILE", env = "HEARTH_REDIS_CA", hide_env_values = true)]
    redis_ca: Option<PathBuf>,

    /// This side's certificate (PEM), where Redis asks for one
    #[arg(long, value_name = "FILE", env = "HEARTH_REDIS_CERT", hide_env_values = true)]
    redis_cert: Option<PathBuf>,

    /// The key of --redis-cert (PEM)
    #[arg(long, value_name = "FILE", env = "HEARTH_REDIS_KEY", hide_env_values = true)]
    redis_key: Option<PathBuf>,
}

impl Services {
    /// What is needed to speak to Redis by TLS.
    pub fn redis_certificates(&self) -> Result<Certificates, Failure> {
        read(&self.redis_ca, &self.redis_cert, &self.redis_key, "--redis")
    }
}

/// For brokers by TLS.
#[derive(Clone, Debug, Args)]
pub struct BrokerTls {
    /// The CA that the broker's certificate is from (PEM), for amqps:// [default: whom this host trusts]
    #[arg(long, value_name = "FILE", env = "HEARTH_BROKER_CA", hide_env_values = true)]
    broker_ca: Option<PathBuf>,

    /// This side's certificate (PEM), where the broker asks for one
    #[arg(long, value_name = "FILE", env = "HEARTH_BROKER_CERT", hide_env_values = true)]
    broker_cert: Option<PathBuf>,

    /// The key of --broker-cert (PEM)
    #[arg(long, value_name = "FILE", env = "HEARTH_BROKER_KEY", hide_env_values = true)]
    broker_key: Option<PathBuf>,
}

impl BrokerTls {
    /// What is needed to speak to the broker by TLS.
    pub fn certificates(&self) -> Result<Certificates, Failure> {
        read(&self.broker_ca, &self.broker_cert, &self.broker_key, "--broker")
    }
}

type File = Option<PathBuf>;

fn read(ca: &File, certificate: &File, key: &File, flags: &str) -> Result<Certificates, Failure> {
    Certificates::read(ca.as_deref(), certificate.as_deref(), key.as_deref())
        .map_err(|error| Failure::new(Exit::Usage, format!("{flags}-ca, -cert, -key: {error}")))
}

impl Config {
    /// With every path absolute, since VMs run in directories of their own. Fails where there is no current directory.
    pub fn resolved(mut self) -> io::Result<Self> {
        for path in [&mut self.data_dir, &mut self.run_dir]
            .into_iter()
            .chain(&mut self.runtimes)
            .chain(&mut self.agent)
        {
            *path = std::path::absolute(&path)?;
        }
        Ok(self)
    }

    /// The format of log records.
    pub fn effective_log_format(&self) -> LogFormat {
        let default = || if io::stderr().is_terminal() { LogFormat::Human } else { LogFormat::Json };
        self.log_format.unwrap_or_else(default)
    }

    /// The filter of log records, as tracing-subscriber's `EnvFilter` reads it.
    pub fn log_filter(&self) -> &str {
        match (&self.log, self.quiet, self.verbose) {
            (Some(filter), ..) => filter,
            // What lapin calls an error is ours to explain, or a connection that was closed on purpose.
            (None, true, _) => "error,lapin=off",
            (None, false, 0) => "warn,lapin=off",
            (None, false, 1) => "info,lapin=off",
            (None, false, 2) => "debug",
            (None, false, _) => "trace",
        }
    }

    /// The guest agent to bake: as told, else beside this program, where `make` and the packages put it.
    pub fn agent_path(&self) -> io::Result<PathBuf> {
        match &self.agent {
            Some(path) => Ok(path.clone()),
            None => Ok(std::env::current_exe()?.with_file_name("hearth-agent")),
        }
    }
}

/// A variable of the environment that stands for a setting of `hearth worker`.
#[expect(clippy::disallowed_methods, reason = "this is the one place where the environment is read")]
pub fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where a program is: in `PATH`, in the system's own directories, or where `cargo install` puts it.
pub fn find_program(name: &str) -> Option<PathBuf> {
    search_path().into_iter().map(|directory| directory.join(name)).find(|path| is_program(path))
}

#[expect(clippy::disallowed_methods, reason = "this is the one place where the environment is read")]
fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let absolute = |directory: &PathBuf| directory.is_absolute();
    std::env::split_paths(&path)
        .chain(std::env::split_paths(SYSTEM_PATH))
        .chain(cargo_home.map(|home| home.join("bin")))
        .filter(absolute)
        .collect()
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_user_ids_has_two_at_least_and_none_of_the_systems() {
        let range: UidRange = "200000-201023".parse().unwrap();
        assert_eq!((range.first, range.count()), (200_000, 1024));
        for wrong in ["", "7", "a-b", "2000-2000", "2001-2000", "0-5000", "1000-4294967295", "1000-2000-3000"]
        {
            assert!(wrong.parse::<UidRange>().is_err(), "{wrong}");
        }
    }
}
