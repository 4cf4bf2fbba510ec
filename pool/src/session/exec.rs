//! Running a command in the guest.

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_schemas::guest::{
    messages::{Exec, ExecLimits, Exited, Given, HelloReply, Kill, User, reply, request},
    mux::Direction,
};
use hearth_wire::{Sender, Stream, StreamReceiver};

use super::{Session, SessionError, Traffic, reply_on};

/// Which stream of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// A command to run.
#[derive(Clone, Debug)]
pub struct Command {
    /// Command and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Relative to the working tree; empty means the tree itself.
    pub cwd: String,
    /// What it may use.
    pub limits: ExecLimits,
    /// Who runs it.
    pub user: User,
    /// Whether it may use IP.
    pub ip: bool,
    /// Whether it gets a copy of the working tree of its own, which is gone with it.
    pub fresh: bool,
}

impl Command {
    /// What of it an agent would ignore that is older than that.
    pub(super) fn unknown_to(&self, hello: &HelloReply) -> Option<&'static str> {
        let ExecLimits { open_files, file_size_bytes, .. } = &self.limits;
        [
            (open_files.is_some() && !hello.file_limits, "the limit of open files"),
            (file_size_bytes.is_some() && !hello.file_limits, "the limit of a file's size"),
            (self.ip && !hello.ip, "commands that use IP"),
            (self.fresh && !hello.fresh_copy, "fresh copies of the working tree"),
        ]
        .into_iter()
        .find_map(|(unknown, what)| unknown.then_some(what))
    }
}

/// A command that the agent was asked to run. Dropping it kills the command's whole tree.
#[derive(Debug)]
pub struct Running {
    control: Stream,
    stdin: Option<Sender>,
    given: Vec<(Sender, Vec<Bytes>)>,
    stdout: StreamReceiver,
    stderr: StreamReceiver,
    traffic: Traffic,
}

impl Session {
    /// Asks for a command to be run; `with_stdin` says whether it gets bytes or an empty stdin.
    /// Cancel safe: what was started is killed.
    ///
    /// # Errors
    /// Among others [`SessionError::Unable`], before anything is asked.
    pub async fn exec(&self, command: Command, with_stdin: bool) -> Result<Running, SessionError> {
        self.exec_with(command, with_stdin, Vec::new(), 0).await
    }

    /// As [`Session::exec`], with files that only this command sees, by name, in
    /// [`hearth_schemas::guest::GIVEN_DIR`]. Only for a command that is `fresh`.
    pub async fn exec_given(
        &self,
        command: Command,
        with_stdin: bool,
        files: Vec<(String, Vec<Bytes>)>,
    ) -> Result<Running, SessionError> {
        self.exec_with(command, with_stdin, files, 0).await
    }

    /// As [`Session::exec`], with copies of the output on the live connection, where the command is called `live`, from
    /// 1; 0: no copies.
    pub async fn exec_live(
        &self,
        command: Command,
        with_stdin: bool,
        live: u32,
    ) -> Result<Running, SessionError> {
        self.exec_with(command, with_stdin, Vec::new(), live).await
    }

    async fn exec_with(
        &self,
        command: Command,
        with_stdin: bool,
        files: Vec<(String, Vec<Bytes>)>,
        live: u32,
    ) -> Result<Running, SessionError> {
        if let Some(what) = command.unknown_to(self.hello()) {
            return Err(SessionError::Unable(what));
        }
        let stdin = match with_stdin {
            true => Some(self.connection.open(Direction::Send).await?.sender),
            false => None,
        };
        let (mut named, mut given) = (Vec::new(), Vec::new());
        for (name, content) in files {
            let sender = self.connection.open(Direction::Send).await?.sender;
            named.push(Given { name, stream: sender.id() });
            given.push((sender, content));
        }
        let stdout = self.connection.open(Direction::Receive).await?;
        let stderr = self.connection.open(Direction::Receive).await?;
        let exec = Exec {
            argv: command.argv,
            env: command.env,
            cwd: command.cwd,
            stdin: stdin.as_ref().map_or(0, Sender::id),
            stdout: stdout.id(),
            stderr: stderr.id(),
            limits: Some(command.limits),
            user: command.user.into(),
            ip: command.ip,
            fresh: command.fresh,
            given: named,
            live,
            ..Exec::default()
        };
        let control = self.request(request::Body::Exec(exec)).await?;
        let (stdout, stderr) = (stdout.receiver, stderr.receiver);
        Ok(Running { control, stdin, given, stdout, stderr, traffic: self.traffic.clone() })
    }
}

impl Running {
    /// Feeds `stdin`, hands every piece of output to `output` as it arrives, and returns when the whole tree is
    /// gone and all output has been seen. Sends a kill as soon as `kill` resolves. Not cancel safe: dropping
    /// kills the command.
    pub async fn finish(
        self,
        stdin: Bytes,
        mut output: impl FnMut(Channel, Bytes),
        kill: impl Future<Output = ()>,
    ) -> Result<Exited, SessionError> {
        let Self { control, stdin: input, given, mut stdout, mut stderr, traffic } = self;
        let Stream { sender, mut receiver } = control;
        let feed = async {
            for (file, content) in given {
                for piece in content {
                    // An agent that does not take them says why.
                    let _ = file.data(piece).await;
                }
                let _ = file.end().await;
            }
            if let Some(input) = input {
                // A command may exit without reading its stdin: the agent then resets the stream.
                traffic.sent(stdin.len());
                let _ = input.data(stdin).await;
                let _ = input.end().await;
            }
        };
        let outputs = async {
            let (mut more_out, mut more_err) = (true, true);
            let mut output = |channel, data: Bytes| {
                traffic.received(data.len());
                output(channel, data);
            };
            while more_out || more_err {
                tokio::select! {
                    data = stdout.data(), if more_out => match data? {
                        Some(data) => output(Channel::Stdout, data),
                        None => more_out = false,
                    },
                    data = stderr.data(), if more_err => match data? {
                        Some(data) => output(Channel::Stderr, data),
                        None => more_err = false,
                    },
                }
            }
            Ok::<_, SessionError>(())
        };
        let exited = async {
            let mut kill = std::pin::pin!(kill);
            let mut sent = false;
            loop {
                tokio::select! {
                    body = reply_on(&mut receiver) => match body? {
                        reply::Body::Started(_) => {}
                        reply::Body::Exited(exited) => return Ok::<_, SessionError>(exited),
                        _ => return Err(SessionError::Protocol("exec was not answered by started or exited")),
                    },
                    () = &mut kill, if !sent => {
                        sent = true;
                        sender.message(&Kill {}).await?;
                    }
                }
            }
        };
        let mut feed = std::pin::pin!(feed);
        let both = async { tokio::try_join!(exited, outputs) };
        let mut both = std::pin::pin!(both);
        let mut fed = false;
        loop {
            tokio::select! {
                done = &mut both => return done.map(|(exited, ())| exited),
                () = &mut feed, if !fed => fed = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_old_agent_would_ignore_is_not_asked_of_it() {
        let old = HelloReply::default();
        let new = HelloReply { file_limits: true, ip: true, fresh_copy: true, ..HelloReply::default() };
        let command = |limits, ip| Command {
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            cwd: String::new(),
            limits,
            user: User::Job,
            ip,
            fresh: false,
        };
        let open_files = ExecLimits { open_files: Some(64), ..ExecLimits::default() };
        let file_size = ExecLimits { file_size_bytes: Some(1 << 20), ..ExecLimits::default() };
        for (command, what) in [
            (command(open_files, false), "the limit of open files"),
            (command(file_size, false), "the limit of a file's size"),
            (command(ExecLimits::default(), true), "commands that use IP"),
            (
                Command { fresh: true, ..command(ExecLimits::default(), false) },
                "fresh copies of the working tree",
            ),
        ] {
            assert_eq!((command.unknown_to(&old), command.unknown_to(&new)), (Some(what), None));
        }
        assert_eq!(command(ExecLimits::default(), false).unknown_to(&old), None);
    }
}
