//! What this machine needs, and the snapshots that tests share.

#![allow(clippy::disallowed_methods, reason = "the harness is told by the environment where things are")]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};

/// A machine on which real VMs run.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Images and snapshots, kept between runs.
    pub data: PathBuf,
    /// The `hearth` command that was built with this test.
    pub hearth: PathBuf,
    /// The guest agent.
    pub agent: PathBuf,
    /// A directory of runtimes beside the built-in ones.
    pub runtimes: Option<PathBuf>,
}

/// The `hearth` command that was built beside this test, or the one that `HEARTH_BIN` names.
pub fn hearth() -> Result<PathBuf> {
    let beside = || {
        let exe = env::current_exe().ok()?;
        let profile = exe.ancestors().find(|dir| dir.join("hearth").is_file())?;
        Some(profile.join("hearth"))
    };
    let hearth = env::var_os("HEARTH_BIN").map(PathBuf::from).or_else(beside);
    hearth.context(
        "no `hearth` beside this test: build it with `cargo build -p hearth-worker`, or set HEARTH_BIN",
    )
}

impl Machine {
    /// What is here, or aloud why real VMs cannot be tested. Where `HEARTH_REQUIRE_REAL` is set, as `make test` does,
    /// a lack is a failure instead.
    ///
    /// # Errors
    /// Something is missing where it must not.
    pub fn find() -> Result<Option<Self>> {
        let lack = match Self::look() {
            Ok(machine) => return Ok(Some(machine)),
            Err(lack) => lack,
        };
        if env::var_os("HEARTH_REQUIRE_REAL").is_some() {
            return Err(lack);
        }
        eprintln!("SKIPPED: no real VM: {lack:#}; `make test` installs what is missing");
        Ok(None)
    }

    fn look() -> Result<Self> {
        for name in ["qemu-system-x86_64", "vhost-device-vsock", "mmdebstrap", "mke2fs"] {
            program(name)?;
        }
        let hearth = hearth()?;
        let agent = env::var_os("HEARTH_AGENT").map(PathBuf::from);
        let agent = agent.context("HEARTH_AGENT does not name the guest agent (`make agent` builds it)")?;
        let data = env::var_os("HEARTH_DATA").map_or_else(|| "/var/lib/hearth".into(), PathBuf::from);
        Ok(Self { data, hearth, agent, runtimes: None })
    }

    /// A `hearth` command with this machine's directories.
    pub fn command(&self, run_dir: &Path) -> Command {
        let mut command = Command::new(&self.hearth);
        command.env("HEARTH_DATA", &self.data).env("HEARTH_RUN", run_dir).env("HEARTH_AGENT", &self.agent);
        if let Some(runtimes) = &self.runtimes {
            command.env("HEARTH_RUNTIMES", runtimes);
        }
        command
    }

    /// Makes sure that a runtime has a snapshot that fits. Quick when it has.
    ///
    /// # Errors
    /// The bake failed; the message has its output.
    pub fn baked(&self, runtime: &str) -> Result<()> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let run_dir = tempfile::tempdir()?;
        let mut command = self.command(run_dir.path());
        let output = command.args(["bake", runtime]).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("hearth bake {runtime}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

/// Where a program is on the PATH.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed"))
}
