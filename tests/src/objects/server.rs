//! One server process.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Result;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait::until;

/// How long a server may take to listen.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// A server that is killed when this is dropped.
pub(super) struct Server {
    port: u16,
    command: Command,
    child: Option<Child>,
}

impl Server {
    /// Starts it on a free port.
    pub(super) async fn start(command: impl FnOnce(u16) -> Command) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = command(port);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self { port, command, child: None };
        server.again().await?;
        Ok(server)
    }

    pub(super) async fn again(&mut self) -> Result<()> {
        self.stop();
        self.child = Some(self.command.spawn()?);
        let port = self.port;
        until(STARTS_WITHIN, "the object store listens", async || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
        Ok(())
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Asked, not killed: some write what they hold only then.
            let pid = child.id().try_into().map(Pid::from_raw);
            let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
