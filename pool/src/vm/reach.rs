//! How one VM's agent is reached: over its vsock, over its serial port, or over whichever of them answers at the greeting.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use hearth_schemas::manifest::{Manifest, Transport};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};

/// How often a vsock is tried before the serial port, where that is there.
const TRIES: u32 = 3;
/// How long one such try may take: the agent listened before the snapshot.
const TRY_LIMIT: Duration = Duration::from_secs(4);
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(100);

/// A byte pipe over either kind.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection to or from a guest.
pub type GuestStream = Box<dyn Duplex>;

/// What a VM's snapshot offers, and what its vsock has shown.
#[derive(Debug)]
pub struct Reach {
    vsock: Option<Transport>,
    serial: bool,
    vsock_failed: AtomicBool,
}

impl Reach {
    /// What a snapshot offers on a host whose vsock is `vsock`.
    pub fn of(manifest: &Manifest, vsock: Transport) -> Self {
        Self::new(manifest.transport, manifest.serial, vsock)
    }

    fn new(baked: Transport, serial: bool, vsock: Transport) -> Self {
        let only_serial = baked == Transport::Serial;
        Self {
            vsock: (!only_serial).then_some(vsock),
            serial: only_serial || serial,
            vsock_failed: AtomicBool::new(false),
        }
    }

    /// Whether the VM has a vsock device.
    pub fn has_vsock(&self) -> bool {
        self.vsock.is_some()
    }

    /// Whether a session may go over the VM's serial port.
    pub fn has_serial(&self) -> bool {
        self.serial
    }

    /// What the agent is reached over, as far as is known.
    pub fn transport(&self) -> Transport {
        let works = !self.vsock_failed.load(Ordering::Relaxed);
        self.vsock.filter(|_| works).unwrap_or(Transport::Serial)
    }

    /// Notes that the guest's vsock does not come up. Whether the serial port is there in its place.
    pub fn without_vsock(&self, why: &dyn std::fmt::Display) -> bool {
        if self.serial {
            tracing::warn!(%why, "the guest's vsock does not answer: over the serial port");
            self.vsock_failed.store(true, Ordering::Relaxed);
        }
        self.serial
    }

    /// A connection for the greeting. Only here is the serial port taken for the vsock: a vsock that fails later is the
    /// VM's end. Cancel safe if both are.
    pub async fn dial<V, S>(
        &self,
        vsock: impl Fn() -> V + Send + Sync,
        serial: impl Fn() -> S + Send + Sync,
    ) -> io::Result<GuestStream>
    where
        V: Future<Output = io::Result<GuestStream>> + Send,
        S: Future<Output = io::Result<GuestStream>> + Send,
    {
        if self.transport() == Transport::Serial {
            return serial().await;
        }
        if !self.serial {
            return vsock().await;
        }
        let mut why = io::Error::from(io::ErrorKind::TimedOut);
        for _ in 0..TRIES {
            match timeout(TRY_LIMIT, vsock()).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => why = error,
                Err(late) => why = late.into(),
            }
            sleep(PAUSE).await;
        }
        self.without_vsock(&why);
        serial().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn reach(baked: Transport, serial: bool) -> Reach {
        Reach::new(baked, serial, Transport::HybridVsock)
    }

    async fn dialled(reach: &Reach, vsock_fails: u32) -> (io::Result<GuestStream>, u32, u32) {
        let (by_vsock, by_serial) = (AtomicU32::new(0), AtomicU32::new(0));
        let stream = || Box::new(tokio::io::duplex(1).0) as GuestStream;
        let outcome = reach.dial(
            || async {
                match by_vsock.fetch_add(1, Ordering::Relaxed) {
                    n if n < vsock_fails => Err(io::ErrorKind::ConnectionRefused.into()),
                    _ => Ok(stream()),
                }
            },
            || async {
                by_serial.fetch_add(1, Ordering::Relaxed);
                Ok(stream())
            },
        );
        let outcome = outcome.await;
        (outcome, by_vsock.into_inner(), by_serial.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn the_serial_port_is_taken_after_three_tries_where_the_snapshot_says_so_and_nowhere_else() {
        let either = reach(Transport::HybridVsock, true);
        let (stream, by_vsock, by_serial) = dialled(&either, 2).await;
        assert!(stream.is_ok());
        assert_eq!((by_vsock, by_serial, either.transport()), (3, 0, Transport::HybridVsock));
        let (stream, by_vsock, by_serial) = dialled(&either, 3).await;
        assert!(stream.is_ok());
        assert_eq!((by_vsock, by_serial, either.transport()), (3, 1, Transport::Serial));
        // What was learnt of a VM stays.
        assert_eq!(dialled(&either, 0).await.1, 0);

        let only_vsock = reach(Transport::VhostUserVsock, false);
        let (stream, by_vsock, by_serial) = dialled(&only_vsock, 1).await;
        assert!(stream.is_err() && !only_vsock.without_vsock(&"gone"));
        assert_eq!((by_vsock, by_serial, only_vsock.transport()), (1, 0, Transport::HybridVsock));

        let only_serial = reach(Transport::Serial, false);
        assert_eq!(only_serial.transport(), Transport::Serial);
        assert_eq!((dialled(&only_serial, 9).await.1, only_serial.has_vsock()), (0, false));
    }
}
