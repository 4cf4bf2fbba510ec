//! Floors inside a guest: raw bytes on the vsock that carries the session.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use hearth_pool::session::{Command, Session};
use hearth_schemas::guest::messages::{ExecLimits, Exited, User};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::sleep,
};

/// Where `guest_echo` listens in the guest.
const PORT: u32 = 5001;
/// What a raw copy reads at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Takes the server from stdin, where nothing else can be written before the wake; leaves the command's cgroup, which
/// the wake empties; and starts it.
const START: &str = "cat > /run/guest-echo && chmod 755 /run/guest-echo && echo 0 > /sys/fs/cgroup/cgroup.procs || exit 1\n\
    setsid /run/guest-echo < /dev/null > /dev/null 2>&1 &";

/// The server for the guest, that was built beside this program.
///
/// # Errors
/// It was not.
pub fn server() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let server = exe.with_file_name("guest-echo-static");
    ensure!(server.is_file(), "{} is missing: `make bench` builds it", server.display());
    Ok(server)
}

/// Starts the server in a guest that has not been woken.
///
/// # Errors
/// The guest did not take it.
pub async fn start(session: &Session, server: &Path) -> Result<()> {
    let bytes = Bytes::from(std::fs::read(server)?);
    let command = command(&["/bin/sh", "-c", START], User::Root);
    let exited = run(session, command, bytes).await?;
    ensure!(exited.exit_code == Some(0), "starting guest-echo: {exited:?}");
    Ok(())
}

/// A command with nothing in its environment and no limits of its own.
pub fn command(argv: &[&str], user: User) -> Command {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    Command {
        argv,
        env: [].into(),
        cwd: String::new(),
        limits: ExecLimits::default(),
        user,
        ip: false,
        fresh: false,
    }
}

/// Runs it to its end. Output is thrown away.
///
/// # Errors
/// The session failed.
pub async fn run(session: &Session, command: Command, stdin: Bytes) -> Result<Exited> {
    let running = session.exec(command, !stdin.is_empty()).await?;
    Ok(running.finish(stdin, |_, _| {}, std::future::pending()).await?)
}

/// A raw connection to the server.
pub struct Raw(UnixStream);

impl Raw {
    /// Connects by the socket of the guest's daemon, once the server listens.
    ///
    /// # Errors
    /// The daemon failed.
    pub async fn connect(socket: &Path) -> Result<Self> {
        const TRIES: u32 = 100;
        for _ in 0..TRIES {
            if let Ok(stream) = dial(socket, PORT).await {
                return Ok(Self(stream));
            }
            sleep(Duration::from_millis(20)).await;
        }
        bail!("guest-echo does not listen")
    }

    /// A byte there and back.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn echo(&mut self) -> Result<()> {
        self.0.write_u8(b'E').await?;
        self.0.read_u8().await?;
        Ok(())
    }

    /// `/bin/true` by fork, exec and wait: no user, no cgroup, no limit, no output.
    ///
    /// # Errors
    /// The connection or the command failed.
    pub async fn spawn(&mut self) -> Result<()> {
        self.0.write_u8(b'X').await?;
        ensure!(self.0.read_u8().await? == 0, "/bin/true failed");
        Ok(())
    }

    /// As [`Raw::spawn`], so many times, one after another.
    ///
    /// # Errors
    /// The connection or a command failed.
    pub async fn spawns(&mut self, count: u32) -> Result<()> {
        self.0.write_all(&request(b'S', count.into())).await?;
        self.0.read_u8().await.context("a command failed")?;
        Ok(())
    }

    /// All of `data` into the guest.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn up(&mut self, data: &[u8]) -> Result<()> {
        self.0.write_all(&request(b'U', data.len() as u64)).await?;
        self.0.write_all(data).await?;
        self.0.read_u8().await?;
        Ok(())
    }

    /// So many bytes out of the guest.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn down(&mut self, bytes: u64) -> Result<()> {
        self.0.write_all(&request(b'D', bytes)).await?;
        let (mut left, mut chunk) = (bytes, vec![0; CHUNK_BYTES]);
        while left > 0 {
            let read = self.0.read(&mut chunk).await?;
            ensure!(read > 0, "the guest closed the connection");
            left = left.saturating_sub(read as u64);
        }
        Ok(())
    }
}

fn request(kind: u8, bytes: u64) -> [u8; 9] {
    let mut request = [kind; 9];
    if let Some(length) = request.get_mut(1..) {
        length.copy_from_slice(&bytes.to_le_bytes());
    }
    request
}

/// Connects to a port of the guest whose daemon has this socket.
///
/// # Errors
/// The guest does not listen there.
pub async fn dial(socket: &Path, port: u32) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        answer.push(stream.read_u8().await.context("CONNECT was not answered")?);
    }
    ensure!(answer.starts_with(b"OK "), "CONNECT was answered by {:?}", String::from_utf8_lossy(&answer));
    Ok(stream)
}
