//! The bytes between host and guest agent.
//!
//! Without `/dev/vhost-vsock` a daemon of the VM's own (`vhost-device-vsock`) carries vsock over Unix sockets: the host
//! connects to one and writes `CONNECT <port>\n`; a guest that dials port P of the host arrives at `<socket>_P`.
//! With it, the kernel does, and the CID is global on the host.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use hearth_schemas::{guest::AGENT_PORT, manifest::Transport};
use tokio::{
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::{
    hypervisor::Accept,
    vm::{
        hybrid_vsock::{handshake, port_socket},
        reach::GuestStream,
    },
};

/// How long a connection may take to be made. The agent listens before the snapshot, so this is scheduling only.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Longest path of a Unix socket (unix(7): 108 with the zero).
pub const SOCKET_PATH_MAX_BYTES: usize = 107;

/// How one VM's agent is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vsock {
    /// The socket of the VM's daemon.
    Daemon(PathBuf),
    /// The VM's CID.
    Kernel(u32),
}

/// What this host has.
pub fn transport_of_host() -> Transport {
    if Path::new("/dev/vhost-vsock").exists() { Transport::VhostVsock } else { Transport::VhostUserVsock }
}

impl Vsock {
    /// Connects to the agent. Its driver must be up: a `CONNECT` before that leaves the daemon spinning for good.
    /// Cancel safe.
    pub async fn dial(&self) -> io::Result<GuestStream> {
        timeout(DIAL_LIMIT, self.connect(AGENT_PORT)).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer to CONNECT in {DIAL_LIMIT:?}")))
        })
    }

    async fn connect(&self, port: u32) -> io::Result<GuestStream> {
        match self {
            Self::Kernel(cid) => Ok(Box::new(VsockStream::connect(VsockAddr::new(*cid, port)).await?)),
            Self::Daemon(socket) => {
                let mut stream = UnixStream::connect(socket).await?;
                handshake(&mut stream, port).await?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Listens where this guest, and no other, may dial the host.
    pub fn listen(&self, port: u16) -> io::Result<Listener> {
        match self {
            Self::Kernel(cid) => {
                let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_HOST, port.into()))?;
                Ok(Listener::Kernel { listener, cid: *cid })
            }
            Self::Daemon(socket) => Ok(Listener::Daemon(UnixListener::bind(port_socket(socket, port))?)),
        }
    }
}

/// Where a guest's own connections arrive.
#[derive(Debug)]
pub enum Listener {
    /// A socket that only the VM's daemon connects to.
    Daemon(UnixListener),
    /// A port of the host, open to every guest.
    Kernel {
        /// The port.
        listener: VsockListener,
        /// The guest that may use it.
        cid: u32,
    },
}

impl Accept for Listener {
    type Io = GuestStream;

    async fn accept(&mut self) -> io::Result<GuestStream> {
        match self {
            Self::Daemon(listener) => Ok(Box::new(listener.accept().await?.0)),
            Self::Kernel { listener, cid } => loop {
                let (stream, peer) = listener.accept().await?;
                if peer.cid() == *cid {
                    return Ok(Box::new(stream));
                }
                tracing::warn!(peer = peer.cid(), expected = *cid, "another guest dialled this port");
            },
        }
    }
}
