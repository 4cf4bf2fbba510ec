//! The serial channel: one session after the other, however each ended.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    agent::Agent,
    console::say,
    pipe::{Line, LineState, Tty},
    session,
};

/// Between two sessions; the port keeps what arrives meanwhile.
const SERIAL_PAUSE: Duration = Duration::from_millis(10);

/// Serves the serial channel, one session after the other.
pub(super) async fn serve(agent: Arc<Agent>, path: PathBuf) {
    let tty = match Tty::open(&path) {
        Ok(tty) => tty,
        Err(error) => return say(&format_args!("no serial channel: {error}")),
    };
    let mut before = Vec::new();
    loop {
        let port = match tty.pipe() {
            Ok(port) => port,
            Err(error) => return say(&format_args!("serial channel lost: {error}")),
        };
        let state = LineState::default();
        let line = Line::new(port, std::mem::take(&mut before), state.clone());
        session::serve(&agent, line, None).await;
        state.cut();
        before = state.left_over();
        // A line that is broken for good fails at once, again and again.
        tokio::time::sleep(SERIAL_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
        path::Path,
    };

    use bytes::BytesMut;
    use hearth_schemas::guest::{
        PRELUDE,
        frame::{Frame, Kind, encode},
        messages::{Hello, Ping, Request, request},
        mux::Direction,
    };
    use hearth_wire::{Connection, Stream, connect};
    use prost::Message as _;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, Join, join},
        net::unix::pipe,
        time::timeout,
    };

    use super::*;
    use crate::{agent::Place, group::Groups, reaper::Reaper, tree::Tree};

    const LONG: Duration = Duration::from_secs(60);

    /// The host's end of a line, and the agent's end by its name.
    struct Wire(std::os::fd::OwnedFd, PathBuf);

    impl Wire {
        fn new() -> Self {
            let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
            grantpt(&end).unwrap();
            unlockpt(&end).unwrap();
            rustix::io::ioctl_fionbio(&end, true).unwrap();
            let name = ptsname(&end, Vec::new()).unwrap();
            Self(end, OsStr::from_bytes(name.as_bytes()).into())
        }

        fn pipe(&self) -> Join<pipe::Receiver, pipe::Sender> {
            let copy = || self.0.as_fd().try_clone_to_owned().unwrap();
            let (read, write) = (copy(), copy());
            join(
                pipe::Receiver::from_owned_fd_unchecked(read).unwrap(),
                pipe::Sender::from_owned_fd_unchecked(write).unwrap(),
            )
        }

        async fn session(&self) -> (Connection, Stream) {
            let (connection, zero, _) = timeout(LONG, connect(self.pipe())).await.expect("a hello").unwrap();
            (connection, zero)
        }
    }

    async fn ping(connection: &Connection) {
        let mut stream = connection.open(Direction::Both).await.unwrap();
        stream.sender.message(&Request { body: Some(request::Body::Ping(Ping {})) }).await.unwrap();
        timeout(LONG, stream.receiver.next()).await.expect("a pong").unwrap();
    }

    #[tokio::test]
    async fn a_line_carries_one_session_after_the_other_however_each_ended() {
        let tree = Tree::open(Path::new("/"), None).unwrap();
        let groups = Groups::on_host("hearth-serial-test").unwrap();
        let agent = Arc::new(Agent::new(Place::Host, Reaper::start().unwrap(), groups, tree));
        let wire = Wire::new();
        tokio::spawn(serve(agent, wire.1.clone()));
        for _ in 0..3 {
            let (connection, _zero) = wire.session().await;
            ping(&connection).await;
        }
        // A host that is killed says nothing; the next one begins in the middle of its session.
        let mut raw = wire.pipe();
        let mut hello = BytesMut::from(&PRELUDE[..]);
        let payload = Hello { version_min: 1, version_max: 1 }.encode_to_vec().into();
        encode(&Frame { stream: 0, kind: Kind::Control, payload }, &mut hello);
        raw.write_all(&hello).await.unwrap();
        let mut answer = [0; PRELUDE.len()];
        timeout(LONG, raw.read_exact(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(answer, PRELUDE);
        let mut header = [0; 12];
        raw.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; usize::from(header[8])];
        raw.read_exact(&mut body).await.unwrap();
        drop(raw);
        let (connection, _zero) = wire.session().await;
        ping(&connection).await;
    }
}
