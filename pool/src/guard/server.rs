//! The guard's own side: one thread, one loop.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{getpid, setsid},
};

use super::{
    process::{ProcessId, boot_id},
    protocol::{Call, Done, LINE_MAX_BYTES, Message, OpenVm, Refusal, Request},
    spawn::ignore_signals,
    vm::{GuardedVm, Host},
};

/// Why a guard stopped other than by its worker's end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The process could not be set up.
    #[error("{what}")]
    Setup {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The worker sent what no worker sends. Its VMs have been ended.
    #[error("worker's message: {0}")]
    Protocol(String),
    /// Waiting failed. The VMs have been ended.
    #[error("poll")]
    Poll(#[source] io::Error),
}

/// Guards the worker at the other end of stdin (a Unix socket) until that closes; then ends every VM.
///
/// Blocks. The process must have no other work, since children die with the calling thread. It
/// leaves the caller's session and no longer ends by SIGINT, SIGTERM or SIGHUP, so that a Ctrl-C or a
/// service manager's first signal reaches only the worker.
pub fn serve() -> Result<(), ServeError> {
    let setup = |what| move |source| ServeError::Setup { what, source };
    ignore_signals().map_err(setup("ignore signals"))?;
    // Refused to a leader of a process group, which has its own already.
    if let Err(errno) = setsid()
        && errno != Errno::PERM
    {
        return Err(setup("setsid")(errno.into()));
    }
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(setup("stdin"))?;
    let pid = u32::try_from(getpid().as_raw_nonzero().get()).unwrap_or_default();
    let guard = ProcessId::of(pid).map_err(setup("own start time"))?;
    let boot_id = boot_id().map_err(setup("boot id"))?;
    let mut server = Server {
        socket: UnixStream::from(stdin),
        input: Vec::new(),
        identity: (guard, boot_id),
        host: None,
        vms: BTreeMap::new(),
    };
    let outcome = server.run();
    server.end_everything();
    outcome
}

struct Server {
    socket: UnixStream,
    input: Vec<u8>,
    identity: (ProcessId, String),
    host: Option<Host>,
    vms: BTreeMap<String, GuardedVm>,
}

impl Server {
    fn run(&mut self) -> Result<(), ServeError> {
        loop {
            let socket_ready = self.wait(true).map_err(ServeError::Poll)?;
            self.take_logs();
            self.reap();
            if socket_ready && !self.read_calls()? {
                return Ok(());
            }
        }
    }

    /// Waits until the socket (if `socket`) or a process has something to say; whether the socket has.
    fn wait(&self, socket: bool) -> io::Result<bool> {
        let processes = self.vms.values().flat_map(|vm| &vm.processes);
        let logs = self.vms.values().flat_map(|vm| &vm.logs);
        let mut fds: Vec<PollFd<'_>> = processes
            .map(|process| PollFd::new(&process.pidfd, PollFlags::IN))
            .chain(logs.map(|log| PollFd::from_borrowed_fd(log.pipe(), PollFlags::IN)))
            .collect();
        if socket {
            fds.push(PollFd::new(&self.socket, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) => Ok(socket && fds.last().is_some_and(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads what is there and serves each whole line. `false` when the worker is gone.
    fn read_calls(&mut self) -> Result<bool, ServeError> {
        let mut chunk = [0; 16 * 1024];
        let count = match self.socket.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            // A worker that died with answers unread resets the socket.
            Err(_) => return Ok(false),
        };
        self.input.extend(chunk.iter().take(count));
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let call: Call =
                serde_json::from_slice(&line).map_err(|error| ServeError::Protocol(error.to_string()))?;
            if let Some(outcome) = self.serve_call(call.id, call.request) {
                self.tell(&Message::Answer { id: call.id, outcome });
            }
        }
        if self.input.len() > LINE_MAX_BYTES {
            return Err(ServeError::Protocol(format!("a line of more than {LINE_MAX_BYTES} bytes")));
        }
        Ok(true)
    }

    /// The answer, or `None` when it comes later.
    fn serve_call(&mut self, id: u64, request: Request) -> Option<Result<Done, Refusal>> {
        match request {
            Request::Begin { run_dir, worker } => {
                let (guard, boot_id) = self.identity.clone();
                self.host = Some(Host { run_dir, worker, guard, boot_id });
                Some(Ok(Done::Ok))
            }
            Request::Open(open) => Some(self.open(open)),
            Request::Spawn { vm, argv, log, group } => Some(match self.vms.get_mut(&vm) {
                Some(known) => known.spawn(&argv, &log, group.as_deref()).map(Done::Pid),
                None => Err(Refusal::Order(format!("no VM {vm}"))),
            }),
            Request::End { vm } => match self.vms.get_mut(&vm) {
                None => Some(Ok(Done::Ok)),
                Some(known) => {
                    known.ending.get_or_insert_default().push(id);
                    known.kill();
                    self.finish_ended();
                    None
                }
            },
        }
    }

    fn open(&mut self, open: OpenVm) -> Result<Done, Refusal> {
        let host = self.host.as_ref().ok_or_else(|| Refusal::Order("open before begin".to_owned()))?;
        if self.vms.contains_key(&open.vm) {
            return Err(Refusal::Order(format!("VM {} is open", open.vm)));
        }
        let vm = GuardedVm::open(host, &open)?;
        let directory = vm.directory.clone();
        self.vms.insert(open.vm, vm);
        Ok(Done::Opened(directory))
    }

    fn take_logs(&mut self) {
        self.vms.values_mut().for_each(GuardedVm::take_logs);
    }

    fn reap(&mut self) {
        let mut notices = Vec::new();
        for (name, vm) in &mut self.vms {
            let ended = vm.reap();
            if vm.ending.is_none() {
                notices.extend(ended.into_iter().map(|how| Message::Exited { vm: name.clone(), how }));
            }
        }
        for notice in &notices {
            self.tell(notice);
        }
        self.finish_ended();
    }

    /// Removes VMs that are to end and have no process left. One that cannot be removed stays, and may be asked
    /// to end again; its lock stays held.
    fn finish_ended(&mut self) {
        let done = self.vms.iter_mut().filter(|(_, vm)| vm.ending.is_some() && vm.processes.is_empty());
        let mut answers = Vec::new();
        let mut gone = Vec::new();
        for (name, vm) in done {
            let waiters = vm.ending.replace(Vec::new()).unwrap_or_default();
            if waiters.is_empty() {
                continue;
            }
            let outcome = vm.remove().map(|()| Done::Ok).map_err(|error| Refusal::Host(error.to_string()));
            if outcome.is_ok() {
                gone.push(name.clone());
            }
            answers.extend(waiters.into_iter().map(|id| Message::Answer { id, outcome: outcome.clone() }));
        }
        for name in gone {
            // Dropping it releases the lock: before the answer, after everything else.
            self.vms.remove(&name);
        }
        for answer in &answers {
            self.tell(answer);
        }
    }

    /// Errors are dropped: a worker that cannot be told is gone, and the next read says so.
    fn tell(&mut self, message: &Message) {
        if let Ok(mut line) = serde_json::to_vec(message) {
            line.push(b'\n');
            let _ = self.socket.write_all(&line);
        }
    }

    /// Kills all, reaps all, removes all; the locks go with the VMs, last.
    fn end_everything(&mut self) {
        for vm in self.vms.values_mut() {
            vm.ending.get_or_insert_default();
            vm.kill();
        }
        while self.vms.values().any(|vm| !vm.processes.is_empty()) && self.wait(false).is_ok() {
            self.take_logs();
            for vm in self.vms.values_mut() {
                vm.reap();
            }
        }
        for (name, vm) in &self.vms {
            if let Err(error) = vm.remove() {
                tracing::error!(vm = %name, %error, "left behind for reclaim");
            }
        }
        self.vms.clear();
    }
}
