//! Running a command in the guest over one stream, while the one before it may still run.

use bytes::Bytes;
use hearth_schemas::{
    guest::{
        messages::{Exec, Exited, Kill, Output, reply, request},
        mux::Direction,
    },
    limits::INLINE_STDIN_MAX_BYTES,
};
use hearth_wire::Sender;

use super::{Channel, Command, Session, SessionError, reply_on};

impl Session {
    /// Runs a command that is `fresh` from its beginning to its end: the same as [`Session::exec`] and
    /// [`super::Running::finish`] in fewer messages. Several may be asked for at once; the agent prepares those that wait
    /// and runs them one after another, in the order in which they were first polled. One that is killed before its turn
    /// ends with `killed` and neither exit code nor signal. `live` is as with [`Session::exec_live`]. With an agent that does not know this they are run apart.
    /// Not cancel safe: dropping kills the command.
    ///
    /// # Errors
    /// Among others [`SessionError::Unable`], before anything is asked.
    pub async fn run_inline(
        &self,
        command: Command,
        stdin: Bytes,
        live: u32,
        mut output: impl FnMut(Channel, Bytes),
        kill: impl Future<Output = ()>,
    ) -> Result<Exited, SessionError> {
        if !self.hello().inline {
            let running = self.exec_live(command, !stdin.is_empty(), live).await?;
            return running.finish(stdin, output, kill).await;
        }
        if let Some(what) = command.unknown_to(self.hello()) {
            return Err(SessionError::Unable(what));
        }
        self.traffic.sent(stdin.len());
        let apart = match stdin.len() > INLINE_STDIN_MAX_BYTES {
            true => Some(self.connection.open(Direction::Send).await?.sender),
            false => None,
        };
        let inline = if apart.is_none() { stdin.clone() } else { Bytes::new() };
        let exec = Exec { live, ..asked(command, apart.as_ref().map_or(0, Sender::id), inline) };
        let control = self.request(request::Body::Exec(exec)).await?;
        let (sender, mut receiver) = (control.sender, control.receiver);
        let feed = async {
            if let Some(apart) = apart {
                // A command may exit without reading its stdin: the agent then resets the stream.
                let _ = apart.data(stdin).await;
                let _ = apart.end().await;
            }
        };
        let mut came = |channel, data: Bytes| {
            self.traffic.received(data.len());
            output(channel, data);
        };
        let exited = async {
            let mut kill = std::pin::pin!(kill);
            let mut sent = false;
            loop {
                tokio::select! {
                    body = reply_on(&mut receiver) => match body? {
                        reply::Body::Output(Output { stderr, data }) => came(channel(stderr), data),
                        reply::Body::Exited(exited) => break Ok::<_, SessionError>(exited),
                        _ => return Err(SessionError::Protocol("exec was not answered by output or exited")),
                    },
                    () = &mut kill, if !sent => {
                        sent = true;
                        sender.message(&Kill {}).await?;
                    }
                }
            }
        };
        let mut exited = {
            let (mut exited, mut feed) = (std::pin::pin!(exited), std::pin::pin!(feed));
            let mut fed = false;
            loop {
                tokio::select! {
                    exited = &mut exited => break exited?,
                    () = &mut feed, if !fed => fed = true,
                }
            }
        };
        for (stderr, rest) in [(false, &mut exited.stdout_rest), (true, &mut exited.stderr_rest)] {
            let rest = std::mem::take(rest);
            if !rest.is_empty() {
                came(channel(stderr), rest);
            }
        }
        Ok(exited)
    }
}

fn asked(command: Command, stdin: u32, stdin_bytes: Bytes) -> Exec {
    Exec {
        argv: command.argv,
        env: command.env,
        cwd: command.cwd,
        stdin,
        limits: Some(command.limits),
        user: command.user.into(),
        ip: command.ip,
        fresh: command.fresh,
        inline: true,
        stdin_bytes,
        ..Exec::default()
    }
}

fn channel(stderr: bool) -> Channel {
    if stderr { Channel::Stderr } else { Channel::Stdout }
}
