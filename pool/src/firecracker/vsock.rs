//! The bytes between host and guest agent, over the socket of the VM's vsock device.

use std::{io, time::Duration};

use hearth_schemas::guest::AGENT_PORT;
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep, timeout},
};

use super::place::{Place, VSOCK_SOCKET};
use crate::{hypervisor::Accept, vm::hybrid_vsock::handshake};

/// How long one try may take. Firecracker notices only when something else happens that a guest has not answered (its own
/// bound is 2 s), so the bound is ours.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// Pause after a try: at the end of a boot the agent is a moment away, and after a restore the guest's vsock is being reset.
const PAUSE: Duration = Duration::from_millis(5);

/// Connects to the agent, trying again until `limit` is over. Cancel safe.
pub(super) async fn dial(place: &Place, limit: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + limit;
    loop {
        let error = match timeout(TRY_LIMIT, connect(place)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "the guest does not answer CONNECT"),
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

/// Waits until the guest has cut what its snapshot was connected to, for a Firecracker that does not.
///
/// The guest learns of that by the interrupt that also brings the first `CONNECT`, and works on both in this order:
/// connection, cut. So a connection over which its agent, a process, has said hello was made after the cut. Cancel safe.
pub(super) async fn settle(place: &Place, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let stream = dial(place, deadline.saturating_duration_since(Instant::now())).await?;
        match timeout(TRY_LIMIT, hearth_wire::connect(stream)).await {
            Ok(Ok(_)) => return Ok(()),
            _ if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
            _ => {}
        }
    }
}

async fn connect(place: &Place) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(place.socket(VSOCK_SOCKET)).await?;
    handshake(&mut stream, AGENT_PORT).await?;
    Ok(stream)
}

/// Listens where this guest, and no other, may dial the host.
pub(super) fn listen(place: &Place, port: u16) -> io::Result<Listener> {
    let name = format!("{VSOCK_SOCKET}_{port}");
    let listener = UnixListener::bind(place.socket(&name))?;
    place.give(&name)?;
    Ok(Listener(listener))
}

/// Where a guest's own connections arrive.
#[derive(Debug)]
pub struct Listener(UnixListener);

impl Accept for Listener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        Ok(self.0.accept().await?.0)
    }
}
