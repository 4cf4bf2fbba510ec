//! Commands of a fake agent: what they print is a script's decision.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_schemas::guest::{
    messages::{Exec, Exited, FaultKind, Kill, LimitHit, Started, Usage, reply},
    mux::Received,
};
use hearth_wire::{Stream, StreamError};
use prost::Message as _;
use tokio::time::{Instant, sleep};

use super::agent::{Agent, Ending, fault, say};

/// What a command sees.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What was asked.
    pub exec: Exec,
    /// Its stdin, whole.
    pub stdin: Bytes,
    /// The working tree.
    pub files: BTreeMap<String, Bytes>,
}

/// What a command does.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    /// What it prints.
    pub stdout: Bytes,
    /// What it prints to stderr.
    pub stderr: Bytes,
    /// What it writes into the working tree.
    pub files: BTreeMap<String, Bytes>,
    /// How long it runs after it has printed.
    pub takes: Duration,
    /// Its exit code, unless a signal or a limit ends it.
    pub exit_code: i32,
    /// The signal that ends it.
    pub signal: Option<i32>,
    /// The limit that ends it.
    pub limit_hit: Option<LimitHit>,
    /// The kernel could not execute it, for this reason.
    pub exec_fault: Option<String>,
    /// Whether the whole VM ends with it.
    pub crash: bool,
}

impl Ran {
    /// It prints this and exits with 0.
    pub fn prints(stdout: impl Into<Bytes>) -> Self {
        Self { stdout: stdout.into(), ..Self::default() }
    }
}

/// Decides what a command does.
pub type Script = Arc<dyn Fn(&Asked) -> Ran + Send + Sync>;

const SIGKILL: i32 = 9;

/// Runs one command.
pub(super) async fn run(agent: &Agent, stream: Stream, exec: Exec) -> Result<Option<Ending>, StreamError> {
    let mut stream = stream;
    let connection = &agent.connection;
    let (stdout, stderr) = (connection.take(exec.stdout).await, connection.take(exec.stderr).await);
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
        say(&stream, fault(FaultKind::Unsupported, "no such stream")).await?;
        return Ok(None);
    };
    let stdin = read_stdin(agent, exec.stdin).await?;
    let files = agent.served().tree.contents();
    let ran = (agent.script)(&Asked { exec, stdin, files });
    if let Some(message) = &ran.exec_fault {
        say(&stream, fault(FaultKind::Exec, message)).await?;
        return Ok(None);
    }
    say(&stream, reply::Body::Started(Started { pid: 2 })).await?;
    let began = Instant::now();
    // Output and kill at once: what is printed may have to wait for its reader.
    let work = async {
        stdout.sender.data(ran.stdout.clone()).await?;
        stderr.sender.data(ran.stderr.clone()).await?;
        sleep(ran.takes).await;
        Ok::<_, StreamError>(())
    };
    let killed = tokio::select! {
        biased;
        done = work => { done?; false }
        () = kill(&mut stream) => true,
    };
    if ran.crash && !killed {
        return Ok(Some(Ending::Crash));
    }
    stdout.sender.end().await?;
    stderr.sender.end().await?;
    for (path, bytes) in &ran.files {
        agent.served().tree.write(path, 0o644, bytes.clone());
    }
    say(&stream, reply::Body::Exited(exited(&ran, killed, began.elapsed()))).await?;
    Ok(None)
}

async fn read_stdin(agent: &Agent, id: u32) -> Result<Bytes, StreamError> {
    let Some(mut stream) = (match id {
        0 => None,
        id => agent.connection.take(id).await,
    }) else {
        return Ok(Bytes::new());
    };
    let mut stdin = Vec::new();
    while let Some(data) = stream.receiver.data().await? {
        stdin.extend_from_slice(&data);
    }
    Ok(stdin.into())
}

/// Resolves when the host kills the command, or is gone.
async fn kill(stream: &mut Stream) {
    loop {
        match stream.receiver.next().await {
            Ok(Some(Received::Control(bytes))) if Kill::decode(bytes.clone()).is_ok() => return,
            Ok(Some(_)) => {}
            Ok(None) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

fn exited(ran: &Ran, killed: bool, wall: Duration) -> Exited {
    let limit_hit = ran.limit_hit.filter(|_| !killed).unwrap_or(LimitHit::None);
    let ended = killed || limit_hit != LimitHit::None;
    let signal = ran.signal.or(ended.then_some(SIGKILL));
    Exited {
        exit_code: signal.is_none().then_some(ran.exit_code),
        signal,
        limit_hit: limit_hit.into(),
        killed,
        usage: Some(Usage {
            wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
            user_us: 1000,
            system_us: 500,
            memory_peak_bytes: Some(8 << 20),
            processes_peak: Some(1),
            disk_bytes: Some(4096),
        }),
        stdout_bytes: ran.stdout.len() as u64,
        stderr_bytes: ran.stderr.len() as u64,
        ..Exited::default()
    }
}
