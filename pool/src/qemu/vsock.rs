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
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::hypervisor::Accept;

/// How long a connection may take to be made. The agent listens before the snapshot, so this is scheduling only.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// `OK ` and a port, with room.
const ANSWER_MAX_BYTES: usize = 32;
/// Longest path of a Unix socket (unix(7): 108 with the zero).
pub const SOCKET_PATH_MAX_BYTES: usize = 107;

/// A byte pipe over either kind.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection to or from a guest.
pub type GuestStream = Box<dyn Duplex>;

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

/// Where a guest arrives that dials `port` of the host.
pub fn port_socket(socket: &Path, port: u16) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(format!("_{port}"));
    path.into()
}

async fn handshake(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), port: u32) -> io::Result<()> {
    // In one write: the daemon reads a verb once and takes what is there.
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    // Byte by byte, since the guest's own bytes may follow.
    let mut answer = Vec::with_capacity(ANSWER_MAX_BYTES);
    while answer.last() != Some(&b'\n') && answer.len() < ANSWER_MAX_BYTES {
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let refused = "the guest does not listen on the agent's port";
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, refused));
            }
            Err(error) => return Err(error),
        }
    }
    if answer.starts_with(b"OK ") && answer.ends_with(b"\n") {
        return Ok(());
    }
    let what = format!("CONNECT was answered by {:?}", String::from_utf8_lossy(&answer));
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream as Stream;

    async fn answered(answer: &[u8]) -> (io::Result<()>, Stream) {
        let (mut ours, mut theirs) = Stream::pair().unwrap();
        theirs.write_all(answer).await.unwrap();
        let mut asked = [0; 13];
        let (outcome, read) = tokio::join!(
            async {
                let outcome = handshake(&mut ours, 1000).await;
                (outcome, ours)
            },
            async {
                theirs.read_exact(&mut asked).await.unwrap();
                assert_eq!(&asked, b"CONNECT 1000\n");
                drop(theirs);
            }
        );
        let () = read;
        outcome
    }

    #[tokio::test]
    async fn the_handshake_takes_its_line_and_not_a_byte_more() {
        let (outcome, mut stream) = answered(b"OK 1073741824\nhello").await;
        outcome.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "hello");
    }

    #[tokio::test]
    async fn odd_answers_are_refused_without_reading_for_ever() {
        assert_eq!(answered(b"").await.0.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(answered(b"NO\n").await.0.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let endless = [b'O'; 100];
        assert_eq!(answered(&endless).await.0.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_port_has_a_socket_beside_the_daemons() {
        assert_eq!(port_socket(Path::new("/run/v/vsock"), 9000), Path::new("/run/v/vsock_9000"));
    }
}
