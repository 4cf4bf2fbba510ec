//! The life of PID 1: from the initramfs to serving. It ends only with the machine.

mod cmdline;
mod modules;
mod mounts;
mod root;

use std::{io, path::PathBuf, process::ExitCode, sync::Arc};

use cmdline::CommandLine;
pub(crate) use mounts::{TMP, TMP_DIR, WORK, WORK_DIR, drop_early_tree, mount_early_tree};
use rustix::{
    io::Errno,
    process::{Gid, Resource, Rlimit, Uid, setrlimit},
};

use crate::{
    agent::{Agent, JOB_ID, Place},
    console::{Chain, say},
    group::{GroupError, Groups},
    jail::{Jail, JailError},
    power,
    reaper::Reaper,
    serve,
    tree::Tree,
};

/// Files that the agent itself may have open: a few for each request of each session.
const OPEN_FILES_MAX: u64 = 16_384;

/// Why the machine cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("{what} failed")]
    Step { what: String, source: Errno },
    #[error("cannot read {path}")]
    Read { path: &'static str, source: io::Error },
    #[error("{0} is not on the kernel's command line")]
    Missing(&'static str),
    #[error("the root device {device} did not appear within {seconds} s")]
    NoRoot { device: String, seconds: u64 },
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Jail(#[from] JailError),
}

impl BootError {
    fn step(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |source| Self::Step { what, source }
    }
}

/// Whom jobs run as.
pub(crate) fn job_ids() -> (Uid, Gid) {
    (Uid::from_raw(JOB_ID), Gid::from_raw(JOB_ID))
}

/// Boots and serves. When that fails, it says so on the console and ends the machine; it never returns alive.
pub fn life() -> ExitCode {
    if let Err(error) = live() {
        say(&Chain(&error));
    }
    power::off();
    ExitCode::FAILURE
}

fn live() -> Result<(), BootError> {
    let runtime = serve::runtime().map_err(BootError::Runtime)?;
    runtime.block_on(async {
        mounts::first()?;
        let text = std::fs::read_to_string("/proc/cmdline");
        let text = text.map_err(|source| BootError::Read { path: "/proc/cmdline", source })?;
        let line = cmdline::parse(&text);
        modules::load_all();
        root::enter(&line).await?;
        mounts::rest()?;
        let agent = Arc::new(prepare(&line)?);
        say(&"ready");
        serve::in_guest(agent, line.channel.as_deref()).await;
        Ok(())
    })
}

fn prepare(line: &CommandLine) -> Result<Agent, BootError> {
    settle_in();
    let groups = Groups::of_machine()?;
    let reaper = Reaper::start().map_err(BootError::Runtime)?;
    let tree =
        Tree::open(WORK.as_ref(), Some(job_ids())).map_err(BootError::step("opening the working tree"))?;
    let scratch = line.scratch.as_ref().map(PathBuf::from);
    Ok(Agent::new(Place::Guest { scratch }, reaper, groups, tree).with_jail(Jail::prepare()?))
}

/// What makes the agent outlive anything that a job does. None of it is worth not booting for.
fn settle_in() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let open_files = Rlimit { current: Some(OPEN_FILES_MAX), maximum: Some(OPEN_FILES_MAX) };
    let _ = setrlimit(Resource::Nofile, open_files);
    for (name, value) in [
        // A job has no business in the kernel's log, and none with namespaces in which it is root.
        ("kernel/dmesg_restrict", "1"),
        ("user/max_user_namespaces", "0"),
        ("fs/protected_symlinks", "1"),
        ("fs/protected_hardlinks", "1"),
    ] {
        let _ = std::fs::write(format!("/proc/sys/{name}"), value);
    }
}
