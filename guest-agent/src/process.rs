//! The real agent as a plain process that plays a VM: behind the handshake of a vsock over a Unix socket, with a working
//! tree and a cgroup that somebody made for it. What a host cannot give it, it does without: no jail, no user of the job's
//! own, no quota, and limits only by the controllers that there are. For tests of everything around a VM.

use std::{ffi::OsString, io, path::PathBuf, sync::Arc, time::Duration};

use hearth_schemas::guest::{
    AGENT_PORT,
    messages::{Exec, Wake, Woken},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use crate::{
    agent::{Agent, Place},
    group::Groups,
    reaper::Reaper,
    serve::{ServeError, accept_all, runtime},
    tree::Tree,
};

/// How long a peer may take to say where it wants to.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// `CONNECT ` and a port, with room.
const LINE_MAX_BYTES: usize = 32;

/// Where everything of a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The socket to listen on; must not exist yet.
    pub socket: PathBuf,
    /// The working tree; must exist.
    pub tree: PathBuf,
    /// A cgroup (version 2) for commands; must exist. Whoever made it ends and removes what is in it.
    pub cgroup: PathBuf,
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is unknown or has no value; usage: --socket PATH --tree DIRECTORY --cgroup DIRECTORY")]
pub struct ArgumentError(OsString);

impl Arguments {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// The first argument that makes no sense.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, ArgumentError> {
        let mut parsed = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let place = match name.to_str() {
                Some("--socket") => &mut parsed.socket,
                Some("--tree") => &mut parsed.tree,
                Some("--cgroup") => &mut parsed.cgroup,
                _ => return Err(ArgumentError(name)),
            };
            *place = arguments.next().map(PathBuf::from).ok_or(ArgumentError(name))?;
        }
        Ok(parsed)
    }
}

/// Serves until it is killed, or told to stop by a request.
///
/// # Errors
/// Something that the arguments name is not there.
pub fn serve(arguments: &Arguments) -> Result<(), ServeError> {
    let start = |error: io::Error| ServeError::Start(error);
    runtime().map_err(start)?.block_on(async {
        let adopt = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        adopt.map_err(|errno| start(errno.into()))?;
        let reaper = Reaper::start().map_err(start)?;
        let tree = Tree::open(&arguments.tree, None);
        let tree = tree.map_err(|source| ServeError::Tree { path: arguments.tree.clone(), source })?;
        let groups = Groups::in_given(&arguments.cgroup)?;
        let agent = Arc::new(Agent::new(Place::Process, reaper, groups, tree));
        let listener = UnixListener::bind(&arguments.socket)
            .map_err(|source| ServeError::Listen { path: arguments.socket.clone(), source })?;
        tokio::select! {
            () = accept_all(&agent, || async { Ok(connected(listener.accept().await?.0).await) }) => {}
            () = agent.stop().notified() => {}
        }
        let _ = agent.groups().kill_all().await;
        Ok(())
    })
}

/// A connection to the agent's port; `None` for one that wants elsewhere.
async fn connected(mut stream: UnixStream) -> Option<UnixStream> {
    let greeted = async {
        let mut line = Vec::with_capacity(LINE_MAX_BYTES);
        // Byte by byte, since the host's own bytes follow.
        while line.last() != Some(&b'\n') && line.len() < LINE_MAX_BYTES {
            line.push(stream.read_u8().await.ok()?);
        }
        if line != format!("CONNECT {AGENT_PORT}\n").as_bytes() {
            return None;
        }
        stream.write_all(format!("OK {AGENT_PORT}\n").as_bytes()).await.ok()
    };
    timeout(CONNECT_MAX, greeted).await.ok().flatten().map(|()| stream)
}

/// What the agent of a VM would say of a wake. Nothing of the host is changed.
pub(crate) fn woken(wake: &Wake) -> Woken {
    Woken {
        entropy_bytes: u32::try_from(wake.entropy.len()).unwrap_or(u32::MAX),
        reseeded: true,
        hostname: wake.hostname.clone(),
        ..Woken::default()
    }
}

/// A process that plays a VM does not refuse the limits that its host cannot hold a command to.
pub(crate) fn without_what_is_absent(agent: &Agent, mut exec: Exec) -> Exec {
    if let (Place::Process, Some(limits)) = (agent.place(), &mut exec.limits) {
        let able = agent.abilities();
        limits.memory_bytes = limits.memory_bytes.filter(|_| able.controllers.memory);
        limits.processes = limits.processes.filter(|_| able.controllers.pids);
        limits.disk_bytes = limits.disk_bytes.filter(|_| able.disk_quota);
        limits.files = limits.files.filter(|_| able.disk_quota);
    }
    exec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Arguments, ArgumentError> {
        Arguments::parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn each_place_has_its_name() {
        let places = Arguments { socket: "/s".into(), tree: "/t".into(), cgroup: "/c".into() };
        assert_eq!(parse("--tree /t --socket /s --cgroup /c"), Ok(places));
        assert_eq!(parse("--unix /s"), Err(ArgumentError("--unix".into())));
        assert_eq!(parse("--tree"), Err(ArgumentError("--tree".into())));
    }

    #[tokio::test]
    async fn only_the_agents_port_is_there() {
        for (line, there) in
            [("CONNECT 1000\n", true), ("CONNECT 1001\n", false), ("GET / HTTP/1.1\n", false)]
        {
            let (mut host, agent) = UnixStream::pair().unwrap();
            host.write_all(line.as_bytes()).await.unwrap();
            assert_eq!(connected(agent).await.is_some(), there, "{line}");
        }
    }
}
