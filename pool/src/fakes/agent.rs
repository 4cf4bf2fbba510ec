//! A small agent that speaks the real protocol and keeps its files in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_schemas::guest::messages::{
    Fault, FaultKind, HelloReply, Pong, Quiesced, Reply, Request, ShuttingDown, Wake, Woken, reply, request,
};
use hearth_wire::{Connection, Stream, StreamError};
use tokio::io::DuplexStream;

use super::{
    exec::{self, Script},
    tree::{self, Tree},
};
use crate::lease::Identity;

/// How a fake agent behaves.
#[derive(Clone, Debug, Default)]
pub struct AgentFaults {
    /// How it answers a wake.
    pub wake: WakeAnswer,
    /// Whether it never says hello.
    pub mute: bool,
    /// Whether it says that it was woken before.
    pub woken_before: bool,
}

/// How a fake agent answers a wake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WakeAnswer {
    /// It did everything.
    #[default]
    Confirm,
    /// It credited less entropy than it takes.
    LittleEntropy,
    /// It did not reseed.
    NoReseed,
    /// Its host name is another.
    Hostname,
    /// It believes to be another VM.
    Identity,
    /// It stepped its clock by a century.
    Clock,
    /// It refused.
    Fault,
    /// It says nothing.
    Silent,
}

impl WakeAnswer {
    /// Every answer but the right one.
    pub const WRONG: [Self; 7] = [
        Self::LittleEntropy,
        Self::NoReseed,
        Self::Hostname,
        Self::Identity,
        Self::Clock,
        Self::Fault,
        Self::Silent,
    ];
}

/// What an agent has done.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Whether it has confirmed a wake as it should.
    awake: bool,
    pub(super) tree: Tree,
}

/// Why an agent's task ended.
pub(super) enum Ending {
    /// The host went, or the VM did.
    Quiet,
    /// The script wants the VM dead.
    Crash,
    /// The host did what it must not.
    Wrong(String),
}

/// What the tasks of one agent share.
#[derive(Clone)]
pub(super) struct Agent {
    pub(super) connection: Connection,
    faults: AgentFaults,
    pub(super) script: Script,
    served: Arc<Mutex<Served>>,
    identity: Identity,
}

/// Serves one connection.
pub(super) async fn serve(
    io: DuplexStream,
    faults: AgentFaults,
    script: Script,
    served: Arc<Mutex<Served>>,
    identity: Identity,
) -> Ending {
    if faults.mute {
        std::future::pending::<()>().await;
    }
    let awake = faults.woken_before || lock(&served).awake;
    let hello = HelloReply {
        agent: "fake".into(),
        controllers: ["cpu", "memory", "pids"].map(String::from).into(),
        awake,
        disk_quota: true,
        file_limits: true,
        ip: true,
        put_directories: true,
        fresh_copy: true,
        live: false,
        ..HelloReply::default()
    };
    let Ok((connection, _zero)) = hearth_wire::accept(io, hello).await else { return Ending::Quiet };
    let agent = Agent { connection, faults, script, served, identity };
    let mut requests = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(done) = requests.join_next() => match done {
                Ok(Ok(Some(ending))) => return ending,
                // A stream that broke ends itself; a panic of the script is the test's own.
                Ok(Ok(None) | Err(_)) => {}
                Err(panic) => return Ending::Wrong(format!("the fake agent: {panic}")),
            },
            stream = agent.connection.next_request() => match stream {
                Some(stream) => drop(requests.spawn(agent.clone().request(stream))),
                None => return Ending::Quiet,
            },
        }
    }
}

fn lock(served: &Mutex<Served>) -> MutexGuard<'_, Served> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    pub(super) fn served(&self) -> MutexGuard<'_, Served> {
        lock(&self.served)
    }

    async fn request(self, mut stream: Stream) -> Result<Option<Ending>, StreamError> {
        let request: Request = stream.receiver.message().await?;
        let works = matches!(
            request.body,
            Some(request::Body::Put(_) | request::Body::Get(_) | request::Body::Exec(_))
        );
        if works && !self.served().awake {
            let what = format!("work for {:?} before its wake was confirmed: {request:?}", self.identity);
            return Ok(Some(Ending::Wrong(what)));
        }
        let answer = match request.body {
            Some(request::Body::Ping(_)) => reply::Body::Pong(Pong { monotonic_ns: 1 }),
            Some(request::Body::Quiesce(_)) => reply::Body::Quiesced(Quiesced {}),
            Some(request::Body::Shutdown(_)) => {
                say(&stream, reply::Body::ShuttingDown(ShuttingDown {})).await?;
                return Ok(Some(Ending::Crash));
            }
            Some(request::Body::Wake(wake)) => match self.wake(&wake) {
                Some(answer) => answer,
                None => std::future::pending().await,
            },
            Some(request::Body::Put(_)) => tree::put(&self, &mut stream).await?,
            Some(request::Body::Get(get)) => tree::get(&self, &stream, &get).await?,
            Some(request::Body::Exec(exec)) => return exec::run(&self, stream, exec).await,
            Some(request::Body::Live(_)) | None => fault(FaultKind::Unsupported, "unknown request"),
        };
        say(&stream, answer).await?;
        let Stream { sender, mut receiver } = stream;
        sender.end().await?;
        // To forget the stream now would throw away what is still queued on it.
        while let Ok(Some(_)) = receiver.next().await {}
        Ok(None)
    }

    fn wake(&self, wake: &Wake) -> Option<reply::Body> {
        let mut woken = Woken {
            entropy_bytes: wake.entropy.len() as u32,
            reseeded: true,
            clock_step_ns: 1_000_000,
            hostname: wake.hostname.clone(),
            identity: wake.identity.clone(),
            scratch_bytes: 64 << 20,
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            network: None,
        };
        match self.faults.wake {
            WakeAnswer::Confirm => self.served().awake = true,
            WakeAnswer::LittleEntropy => woken.entropy_bytes = 8,
            WakeAnswer::NoReseed => woken.reseeded = false,
            WakeAnswer::Hostname => woken.hostname = "debian".into(),
            WakeAnswer::Identity => woken.identity = None,
            WakeAnswer::Clock => woken.clock_step_ns = i64::MAX,
            WakeAnswer::Fault => return Some(fault(FaultKind::Internal, "no entropy device")),
            WakeAnswer::Silent => return None,
        }
        Some(reply::Body::Woken(woken))
    }
}

pub(super) fn fault(kind: FaultKind, message: &str) -> reply::Body {
    reply::Body::Fault(Fault { kind: kind.into(), message: message.into() })
}

pub(super) async fn say(stream: &Stream, body: reply::Body) -> Result<(), StreamError> {
    stream.sender.message(&Reply { body: Some(body) }).await
}
