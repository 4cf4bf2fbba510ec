//! vsock carried over Unix sockets, as Firecracker and `vhost-device-vsock` do it: the host connects to a socket and writes
//! `CONNECT <port>\n`; a guest that dials port P of the host arrives at `<socket>_P`.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// `OK ` and a port, with room.
const ANSWER_MAX_BYTES: usize = 32;

/// Where a guest arrives that dials `port` of the host.
pub fn port_socket(socket: &Path, port: u16) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(format!("_{port}"));
    path.into()
}

/// Asks for a port of the guest on a connection to its VM's socket. Not cancel safe: the connection is then of no use.
pub async fn handshake(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), port: u32) -> io::Result<()> {
    // In one write: the other end reads the verb once, without waiting, and drops a connection that brings half of it.
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
    fn a_port_has_a_socket_beside_the_vms() {
        assert_eq!(port_socket(Path::new("/run/v/vsock"), 9000), Path::new("/run/v/vsock_9000"));
    }
}
