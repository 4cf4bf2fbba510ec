//! The worker's side of its guard.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
};

use super::protocol::{Call, Done, Message, OpenVm, Refusal, Request};

/// Calls that may wait to be sent.
const QUEUE: usize = 64;

/// How a guard process is started: the worker's own binary with its hidden subcommand.
#[derive(Clone, Debug)]
pub struct GuardCommand {
    /// The binary.
    pub program: PathBuf,
    /// Its arguments, such as `guard`.
    pub arguments: Vec<OsString>,
}

/// Why the guard did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// It could not be started.
    #[error("start guard {}", program.display())]
    Start {
        /// The binary.
        program: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// It is dead, and the VMs that it had with it. The worker cannot make VMs any more.
    #[error("the guard is dead")]
    Dead,
    /// Another live VM on this host holds the CID's lock.
    #[error("CID is locked by another VM on this host")]
    IdentityBusy,
    /// The request does not fit the VM's state.
    #[error("guard refused: {0}")]
    Order(String),
    /// The host refused it something.
    #[error("guard: {0}")]
    Host(String),
}

impl From<Refusal> for GuardError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::IdentityBusy => Self::IdentityBusy,
            Refusal::Order(what) => Self::Order(what),
            Refusal::Host(what) => Self::Host(what),
        }
    }
}

/// An open VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its directory.
    pub directory: PathBuf,
}

type Outcome = Result<Done, Refusal>;
type Exits = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct Pending {
    /// Who waits for which answer, and the VM that has ended when it comes.
    answers: BTreeMap<u64, (oneshot::Sender<Outcome>, Option<String>)>,
    /// Nothing will be answered any more.
    dead: bool,
}

/// A running guard. Clones share it; it ends, with every VM, when the last is dropped.
///
/// Every method is cancel safe: a request that was sent is carried out in order, whether or not its answer is
/// awaited, so [`Guard::end`] after a cancelled [`Guard::open`] finds what there is to end.
#[derive(Clone, Debug)]
pub struct Guard {
    calls: mpsc::Sender<(Request, oneshot::Sender<Outcome>)>,
    exits: watch::Receiver<Exits>,
    pid: u32,
}

impl Guard {
    /// Starts a guard process for the VMs of `run_dir`. `worker` is recorded as their owner.
    pub async fn start(command: &GuardCommand, run_dir: &Path, worker: &str) -> Result<Self, GuardError> {
        let (child, socket) = start(command)
            .map_err(|source| GuardError::Start { program: command.program.clone(), source })?;
        let pid = child.id().unwrap_or_default();
        let (read, write) = socket.into_split();
        let pending = Arc::new(Mutex::new(Pending::default()));
        let (calls, queue) = mpsc::channel(QUEUE);
        let (exit_sender, exits) = watch::channel(Exits::new());
        tokio::spawn(send_calls(queue, write, Arc::clone(&pending)));
        tokio::spawn(receive(read, pending, exit_sender, child));
        let guard = Self { calls, exits, pid };
        let begin = Request::Begin { run_dir: run_dir.to_owned(), worker: worker.to_owned() };
        guard.call(begin).await?;
        Ok(guard)
    }

    /// The guard's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Takes the CID's lock and makes the VM's directories.
    pub async fn open(&self, open: OpenVm) -> Result<Opened, GuardError> {
        match self.call(Request::Open(open)).await? {
            Done::Opened(directory) => Ok(Opened { directory }),
            other => Err(GuardError::Order(format!("odd answer {other:?}"))),
        }
    }

    /// Starts a process in the VM's directory, which is also its working directory; output goes to `log` there.
    /// Returns its pid.
    pub async fn spawn(&self, vm: &str, argv: Vec<String>, log: &str) -> Result<u32, GuardError> {
        self.spawn_in(vm, argv, log, None).await
    }

    /// The same, born in a control group (version 2), if there is one, and then in a PID namespace of its own: whatever user it
    /// becomes, it ends with the guard. Returns the pid of the namespace's first process, whose only child it is and which ends
    /// with it.
    pub async fn spawn_in(
        &self,
        vm: &str,
        argv: Vec<String>,
        log: &str,
        group: Option<PathBuf>,
    ) -> Result<u32, GuardError> {
        match self.call(Request::Spawn { vm: vm.to_owned(), argv, log: log.to_owned(), group }).await? {
            Done::Pid(pid) => Ok(pid),
            other => Err(GuardError::Order(format!("odd answer {other:?}"))),
        }
    }

    /// Kills the VM's processes, removes its directories, releases its CID's lock; returns when all that is done.
    /// Idempotent; an unknown VM has been ended.
    pub async fn end(&self, vm: &str) -> Result<(), GuardError> {
        self.call(Request::End { vm: vm.to_owned() }).await.map(|_| ())
    }

    /// Resolves, with how it happened, when a process of the VM ended by itself, or when the guard is dead.
    pub async fn exited(&self, vm: &str) -> String {
        let mut exits = self.exits.clone();
        match exits.wait_for(|exits| exits.contains_key(vm)).await {
            Ok(exits) => exits.get(vm).cloned().unwrap_or_default(),
            Err(_) => GuardError::Dead.to_string(),
        }
    }

    /// Resolves when the guard is dead, or every [`Guard`] is dropped; keeps no guard alive. Cancel safe.
    pub fn dead(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut exits = self.exits.clone();
        async move { while exits.changed().await.is_ok() {} }
    }

    /// Whether the guard is dead, and every VM with it.
    pub fn is_dead(&self) -> bool {
        self.exits.has_changed().is_err()
    }

    async fn call(&self, request: Request) -> Result<Done, GuardError> {
        let (sender, answer) = oneshot::channel();
        self.calls.send((request, sender)).await.map_err(|_| GuardError::Dead)?;
        Ok(answer.await.map_err(|_| GuardError::Dead)??)
    }
}

fn start(command: &GuardCommand) -> io::Result<(Child, UnixStream)> {
    // Both ends are close-on-exec: no child of ours or of the guard's keeps one open.
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let child = Command::new(&command.program)
        .args(&command.arguments)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    Ok((child, UnixStream::from_std(ours)?))
}

/// Ends, and closes its half of the socket, when every [`Guard`] is dropped or the guard is dead.
async fn send_calls(
    mut queue: mpsc::Receiver<(Request, oneshot::Sender<Outcome>)>,
    mut socket: OwnedWriteHalf,
    pending: Arc<Mutex<Pending>>,
) {
    let mut id = 0;
    while let Some((request, sender)) = queue.recv().await {
        id += 1;
        let ends = match &request {
            Request::End { vm } => Some(vm.clone()),
            _ => None,
        };
        {
            let mut pending = locked(&pending);
            if pending.dead {
                return;
            }
            pending.answers.insert(id, (sender, ends));
        }
        let Ok(mut line) = serde_json::to_vec(&Call { id, request }) else { continue };
        line.push(b'\n');
        if socket.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Hands out answers and exits until the guard closes its end, then reaps it.
async fn receive(
    socket: OwnedReadHalf,
    pending: Arc<Mutex<Pending>>,
    exits: watch::Sender<Exits>,
    mut child: Child,
) {
    let mut lines = BufReader::new(socket).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Message::Answer { id, outcome }) => {
                let Some((sender, ends)) = locked(&pending).answers.remove(&id) else { continue };
                if let (Some(vm), Ok(_)) = (ends, &outcome) {
                    exits.send_modify(|exits| drop(exits.remove(&vm)));
                }
                // The caller may have been cancelled.
                let _ = sender.send(outcome);
            }
            Ok(Message::Exited { vm, how }) => {
                exits.send_modify(|exits| {
                    exits.entry(vm).or_insert(how);
                });
            }
            Err(error) => tracing::error!(%error, "guard said what no guard says"),
        }
    }
    {
        let mut pending = locked(&pending);
        pending.dead = true;
        pending.answers.clear();
    }
    drop(exits);
    match child.wait().await {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::error!(%status, "guard died"),
        Err(error) => tracing::error!(%error, "guard cannot be waited for"),
    }
}

fn locked(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}
