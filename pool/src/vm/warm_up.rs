//! Commands that a runtime runs before its snapshot, so that every VM has done them already.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use hearth_schemas::guest::messages::{ExecLimits, User};
use tokio::time::sleep;

use crate::{
    runtime::WarmUp,
    session::{Channel, Command, Session, SessionError},
};

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How much longer the host waits for an agent that should have ended it.
const GRACE: Duration = Duration::from_secs(60);
/// How much of a failed command's output its error shows, in bytes.
const OUTPUT_TAIL_BYTES: usize = 4096;

/// A command of a warm-up did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum WarmUpError {
    /// It ran, and failed.
    #[error("warm-up {argv:?} {how}: {output}")]
    Failed {
        /// The command.
        argv: Vec<String>,
        /// What became of it.
        how: String,
        /// The end of what it said.
        output: String,
    },
    /// The agent failed.
    #[error("the agent failed")]
    Session(#[from] SessionError),
}

/// Runs one command as root in a guest that was booted for a bake.
pub async fn run(session: &Session, warm_up: &WarmUp) -> Result<(), WarmUpError> {
    let command = Command {
        argv: warm_up.argv.clone(),
        env: environment(),
        cwd: String::new(),
        limits: ExecLimits { wall_ms: u64::try_from(LIMIT.as_millis()).ok(), ..ExecLimits::default() },
        user: User::Root,
        ip: false,
        fresh: false,
    };
    let running = session.exec(command, false).await?;
    let mut output = Vec::new();
    let keep = |_: Channel, bytes: Bytes| {
        output.extend_from_slice(&bytes);
        let excess = output.len().saturating_sub(OUTPUT_TAIL_BYTES);
        output.drain(..excess);
    };
    // The agent's own limit comes first; this one is for an agent that does not answer.
    let exited = running.finish(Bytes::new(), keep, sleep(LIMIT + GRACE)).await?;
    let how = match (exited.exit_code, exited.signal) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "did not run".to_owned(),
    };
    let output = String::from_utf8_lossy(&output).trim().to_owned();
    Err(WarmUpError::Failed { argv: warm_up.argv.clone(), how, output })
}

fn environment() -> BTreeMap<String, String> {
    let pairs = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/tmp"),
        ("LANG", "C.UTF-8"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}
