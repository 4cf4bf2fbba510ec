//! What the command is told by its flags and by the environment. Nothing else reads the environment.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use clap::{ArgAction, Args, ValueEnum};

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
    /// The broker, as amqp://[user[:password]@]host[:port][/vhost]
    #[arg(long, value_name = "URL", env = "HEARTH_BROKER", hide_env_values = true)]
    pub broker: Option<String>,

    /// Redis, as redis://[[user][:password]@]host[:port][/database]
    #[arg(long, value_name = "URL", env = "HEARTH_REDIS", hide_env_values = true)]
    pub redis: Option<String>,
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
