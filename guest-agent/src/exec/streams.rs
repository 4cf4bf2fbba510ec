//! Where a command's bytes come from and go to: its pipes, and the streams of the host.

use std::os::fd::OwnedFd;

use bytes::{Buf as _, Bytes};
use hearth_wire::{Connection, Sender, Stream, StreamReceiver};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

use super::{ExecError, output::To, plan::Plan};
use crate::copies::Copy;

/// What a request names or brings.
pub(super) struct Streams {
    pub(super) input: Option<Input>,
    /// stdout and stderr; `None` when output goes where the request came from.
    output: Option<[Sender; 2]>,
    given: Vec<(String, StreamReceiver)>,
}

/// What a command reads.
pub(super) enum Input {
    Stream(StreamReceiver),
    Bytes(Bytes),
}

impl Streams {
    pub(super) async fn take(connection: &Connection, plan: &Plan) -> Result<Self, ExecError> {
        let take = async |field, id| connection.take(id).await.ok_or(ExecError::NoStream { field, id });
        let mut given = Vec::new();
        for (name, id) in &plan.given {
            given.push((name.clone(), take("given", *id).await?.receiver));
        }
        let input = match plan.stdin {
            0 if plan.stdin_bytes.is_empty() => None,
            0 => Some(Input::Bytes(plan.stdin_bytes.clone())),
            id => Some(Input::Stream(take("stdin", id).await?.receiver)),
        };
        let output = match plan.inline {
            true => None,
            false => {
                Some([take("stdout", plan.stdout).await?.sender, take("stderr", plan.stderr).await?.sender])
            }
        };
        Ok(Self { input, output, given })
    }

    /// Puts the files of the command where only its copy shows them.
    pub(super) async fn fill(&mut self, copy: &mut Copy) -> Result<(), ExecError> {
        for (name, content) in self.given.drain(..) {
            copy.give(&name, content).await?;
        }
        Ok(())
    }

    /// Where stdout and stderr go, and what is yet to be read. `control` is where the request came from.
    pub(super) fn targets(self, control: &Sender) -> ([To<'_>; 2], Option<Input>) {
        let to = match self.output {
            Some(output) => output.map(|sender| To::Stream(Some(sender))),
            None => [false, true].map(|stderr| To::inline(control, stderr)),
        };
        (to, self.input)
    }
}

/// The agent's ends of a command's pipes.
pub(super) struct Ends {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// The agent's ends, and the command's. Input that is all here is in the pipe already, and taken.
pub(super) fn pipes(input: &mut Option<Input>) -> Result<(Ends, [OwnedFd; 3]), Errno> {
    let (child_stdin, stdin) = if input.is_some() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        (read, pour(input, write)?)
    } else {
        (rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, None)
    };
    let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Ends { stdin, stdout, stderr }, [child_stdin, child_stdout, child_stderr]))
}

/// Fills an empty pipe as far as it goes. Keeps it if there is more to come.
fn pour(input: &mut Option<Input>, pipe: OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let Some(Input::Bytes(bytes)) = input else { return Ok(Some(pipe)) };
    rustix::io::ioctl_fionbio(&pipe, true)?;
    match rustix::io::write(&pipe, bytes) {
        Ok(written) => bytes.advance(written),
        Err(Errno::AGAIN) => {}
        Err(errno) => return Err(errno),
    }
    if !bytes.is_empty() {
        return Ok(Some(pipe));
    }
    *input = None;
    Ok(None)
}

/// Both directions of the stream of a request.
pub(super) fn both(control: &mut Stream) -> (&Sender, &mut StreamReceiver) {
    (&control.sender, &mut control.receiver)
}
