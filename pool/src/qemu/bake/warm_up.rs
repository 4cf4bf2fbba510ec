//! Commands that are run before the snapshot, so that what jobs need first is in memory.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use hearth_schemas::guest::messages::{ExecLimits, User};
use tokio::time::sleep;

use super::BakeError;
use crate::{
    qemu::boot::Booted,
    runtime::WarmUp,
    session::{Channel, Command},
};

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(300);
/// After that, how long until the agent is no longer trusted to have enforced it.
const GRACE: Duration = Duration::from_secs(60);
/// How much of a failed command's output its error shows, in bytes.
const OUTPUT_TAIL_BYTES: usize = 4096;

/// Runs one command as root. It must succeed.
pub(super) async fn run_warm_up(booted: &Booted<'_>, warm_up: &WarmUp) -> Result<(), BakeError> {
    let command = Command {
        argv: warm_up.argv.clone(),
        env: environment(),
        cwd: String::new(),
        limits: ExecLimits { wall_ms: u64::try_from(LIMIT.as_millis()).ok(), ..ExecLimits::default() },
        user: User::Root,
    };
    let failed = |source| BakeError::Session { console: booted.console(), source };
    let running = booted.session.exec(command, false).await.map_err(failed)?;
    let mut output = Vec::new();
    let keep = |_: Channel, bytes: Bytes| {
        output.extend_from_slice(&bytes);
        let excess = output.len().saturating_sub(OUTPUT_TAIL_BYTES);
        output.drain(..excess);
    };
    // The agent's own limit comes first; this one is for an agent that does not answer.
    let kill = sleep(LIMIT + GRACE);
    let exited = running.finish(Bytes::new(), keep, kill).await.map_err(failed)?;
    let how = match (exited.exit_code, exited.signal) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "did not run".to_owned(),
    };
    let output = String::from_utf8_lossy(&output).trim().to_owned();
    Err(BakeError::WarmUp { argv: warm_up.argv.clone(), how, output })
}

fn environment() -> BTreeMap<String, String> {
    let pairs = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/tmp"),
        ("LANG", "C.UTF-8"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}
