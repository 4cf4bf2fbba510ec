//! Who may talk to the agent, and on what: the host by vsock and by the serial channel of a VM, or whoever may
//! open a Unix socket on a host.

mod serial;

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hearth_schemas::guest::{AGENT_PORT, HOST_CID};
use rustix::io::Errno;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::{
    agent::{Agent, Place},
    args::Arguments,
    console::{Chain, say},
    group::{GroupError, Groups},
    reaper::Reaper,
    session,
    tree::Tree,
};

/// Sessions at once. Each can make the agent hold a window for each of its streams.
const SESSIONS_MAX: usize = 16;
/// How long a peer may take to say hello on a connection of its own.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// After a failure to accept or to open, before trying again.
const PAUSE: Duration = Duration::from_millis(500);

/// Why an agent on a host does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The runtime, or a signal handler.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// The working tree.
    #[error("cannot open the working tree {path}")]
    Tree {
        /// As given.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// The socket.
    #[error("cannot listen on {path}")]
    Listen {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No cgroup for commands.
    #[error("cannot make cgroups: {0}")]
    Groups(String),
}

impl From<GroupError> for ServeError {
    fn from(error: GroupError) -> Self {
        Self::Groups(Chain(&error).to_string())
    }
}

/// Serves a Unix socket until it is told to stop by a request, SIGTERM or SIGINT.
pub fn on_host(arguments: Arguments) -> Result<(), ServeError> {
    let start = |error| ServeError::Start(error);
    let runtime = runtime().map_err(start)?;
    runtime.block_on(async {
        let adopt = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        adopt.map_err(|errno| start(errno.into()))?;
        let reaper = Reaper::start().map_err(start)?;
        let tree = Tree::open(&arguments.tree, None);
        let tree = tree.map_err(|source| ServeError::Tree { path: arguments.tree.clone(), source })?;
        let agent = Arc::new(Agent::new(Place::Host, reaper, Groups::on_host("hearth-agent")?, tree));
        let listener = UnixListener::bind(&arguments.unix)
            .map_err(|source| ServeError::Listen { path: arguments.unix.clone(), source })?;
        let mut terminate = signal(SignalKind::terminate()).map_err(start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(start)?;
        tokio::select! {
            () = accept_all(&agent, || async { Ok(Some(listener.accept().await?.0)) }) => {}
            () = agent.stop().notified() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = agent.groups().kill_all().await;
        let _ = std::fs::remove_file(&arguments.unix);
        Ok(())
    })
}

/// The agent's runtime: one thread, and a few for file transfers.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().max_blocking_threads(SESSIONS_MAX).enable_all().build()
}

/// Serves the host for as long as the machine lives.
pub(crate) async fn in_guest(agent: Arc<Agent>, channel: Option<&Path>) {
    if let Some(path) = channel {
        tokio::spawn(serial::serve(agent.clone(), path.to_owned()));
    }
    loop {
        match VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT)) {
            Ok(listener) => {
                let next = || async {
                    let (stream, peer) = listener.accept().await?;
                    Ok((peer.cid() == HOST_CID).then_some(stream))
                };
                accept_all(&agent, next).await;
            }
            Err(error) => {
                say(&format_args!("no vsock: {error}"));
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Serves every connection that `next` gives, and drops those that it gives as `None`. Never returns.
pub(crate) async fn accept_all<T, F>(agent: &Arc<Agent>, next: impl Fn() -> F)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<Option<T>>>,
{
    let room = Arc::new(Semaphore::new(SESSIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match next().await {
            Ok(Some(io)) => {
                let agent = agent.clone();
                tokio::spawn(async move {
                    session::serve(&agent, io, Some(HELLO_MAX)).await;
                    drop(permit);
                });
            }
            Ok(None) => {}
            Err(error) => {
                say(&format_args!("accept: {error}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
