//! One job's exclusive use of one warm VM.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    fmt::Write as _,
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    hypervisor::{Accept, RestoreStep, Slot},
    lease::Identity,
    live::{
        LiveError, LiveReader,
        door::{self, LIVE_LIMIT, Nonce},
    },
    net::{Network, NetworkError, Policy},
    session::Session,
};

/// Who is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Somebody sits and waits.
    Interactive,
    /// Neither.
    Normal,
    /// Nobody waits.
    Batch,
}

/// How a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A VM was Ready for it.
    Hit,
    /// It waited for one.
    Wait,
    /// None was there by its deadline.
    Timeout,
}

/// Why there is no claim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The pool does not have this runtime.
    #[error("unknown runtime {runtime:?}; this pool has {}", known.join(", "))]
    UnknownRuntime {
        /// What was asked for.
        runtime: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No VM of this runtime can be restored, and waiting does not help.
    #[error("runtime {runtime}: {reason}")]
    Broken {
        /// The runtime.
        runtime: String,
        /// What to do.
        reason: String,
    },
    /// No VM was Ready by the deadline.
    #[error("no VM of runtime {runtime} within {waited:?}{}", last_failure.as_ref().map(|f| format!("; last failure: {f}")).unwrap_or_default())]
    Timeout {
        /// The runtime.
        runtime: String,
        /// How long the claim waited.
        waited: Duration,
        /// The last failed restore since a VM was Ready.
        last_failure: Option<String>,
    },
    /// The pool is closing.
    #[error("the pool is closing")]
    Closed,
}

/// Why a claimed VM went before its claim was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// It ended, or its agent did.
    #[error("the VM ended")]
    Exited,
    /// What carried its sessions ended, and it did not.
    #[error("the way to the VM ended")]
    CutOff,
    /// What makes VMs is gone, and all VMs with it.
    #[error("the host's VMs are gone")]
    AllGone,
    /// Its lease is about to expire or is lost, and no lock of the host stands in for it.
    #[error("the VM's lease is at risk")]
    LeaseAtRisk,
    /// The pool closes and its grace is over.
    #[error("the pool is closing")]
    Closing,
}

/// What is known of a claimed VM.
#[derive(Clone, Debug)]
pub struct ClaimedVm {
    /// Its slot.
    pub slot: Slot,
    /// Its identity.
    pub identity: Identity,
    /// The snapshot it came from.
    pub snapshot: String,
    /// What its agent is reached over: one of [`crate::hypervisor::TRANSPORTS`].
    pub transport: &'static str,
    /// Every part of its restore and greeting, in order.
    pub steps: Vec<RestoreStep>,
    /// How long it had been restored when it was claimed.
    pub age: Duration,
    /// What opens a live connection from the guest; sent with its wake.
    pub nonce: [u8; hearth_schemas::limits::WAKE_NONCE_BYTES],
}

/// One job's exclusive use of one VM, whose agent has confirmed its wake. When this is dropped the VM is destroyed;
/// nobody else ever gets it.
pub struct Claim {
    session: Session,
    vm: ClaimedVm,
    pub(super) waited: Duration,
    pub(super) outcome: Outcome,
    lost: watch::Receiver<Option<Loss>>,
    asks: mpsc::Sender<AskLive>,
    /// Gone when the VM is.
    network: Weak<Network>,
    /// The slot's task sees this go.
    _over: oneshot::Sender<Infallible>,
}

impl Claim {
    pub(super) fn new(session: Session, vm: ClaimedVm, network: Option<&Arc<Network>>) -> (Self, Behind) {
        let network = network.map(Arc::downgrade).unwrap_or_default();
        let (lose, lost) = watch::channel(None);
        let (_over, over) = oneshot::channel();
        let (asks, asked) = mpsc::channel(1);
        let (waited, outcome) = (Duration::ZERO, Outcome::Hit);
        let claim = Self { session, vm, waited, outcome, lost, asks, network, _over };
        (claim, Behind { over, lose, asked })
    }

    /// The connection to the agent.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What is known of the VM.
    pub fn vm(&self) -> &ClaimedVm {
        &self.vm
    }

    /// How long the claim waited.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Whether it waited. Never [`Outcome::Timeout`].
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Resolves when the VM is gone, or about to go, before the claim is over. Cancel safe.
    pub async fn lost(&self) -> Loss {
        let mut lost = self.lost.clone();
        let loss = lost.wait_for(Option::is_some).await.ok().and_then(|loss| *loss);
        loss.unwrap_or(Loss::Exited)
    }

    /// Makes the live connection: listens on the leased port and asks the agent to dial it. Once in a claim. Has a bound
    /// of some seconds. Cancel safe: nobody listens any more.
    ///
    /// # Errors
    /// There is none; the claim is as good as before.
    pub async fn live(&self) -> Result<LiveReader, LiveError> {
        if !self.session.hello().live {
            return Err(LiveError::Unsupported);
        }
        let (answer, door) = oneshot::channel();
        self.asks.send(answer).await.map_err(|_| LiveError::Over)?;
        let door = door.await.map_err(|_| LiveError::Over)?.map_err(LiveError::Listen)?;
        self.session.open_live(LIVE_LIMIT).await?;
        door.await.map_err(|_| LiveError::Nobody)
    }

    /// Lets the VM reach what the policy says: until then it reaches nothing. Not cancel safe: drop the claim.
    ///
    /// # Errors
    /// The VM has no network card, is gone, or the host refuses the rules.
    pub async fn allow(&self, policy: Policy) -> Result<(), NetworkError> {
        let network = self.network.upgrade().ok_or(NetworkError::Gone)?;
        network.allow(policy).await
    }

    /// Ends the claim. The VM is destroyed in the background, as when the claim is dropped.
    pub fn finish(self) {}
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("vm", &self.vm).field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

/// A wish for a live connection: where the answer goes.
pub(super) type AskLive = oneshot::Sender<io::Result<oneshot::Receiver<LiveReader>>>;

/// Answers such a wish: a door where the guest may come, when it can be listened there.
pub(super) fn answer<A: Accept>(ask: AskLive, listening: io::Result<A>, nonce: Nonce) {
    // Nobody may want it any more.
    let _ = ask.send(listening.map(|accept| door::open(accept, nonce)));
}

/// The slot's end of a claim.
pub(super) struct Behind {
    /// Resolves when the claim is over.
    pub(super) over: oneshot::Receiver<Infallible>,
    /// Wishes for a live connection.
    pub(super) asked: mpsc::Receiver<AskLive>,
    lose: watch::Sender<Option<Loss>>,
}

impl Behind {
    /// Tells whoever has the claim that its VM goes.
    pub(super) fn lose(self, loss: Loss) {
        self.lose.send_replace(Some(loss));
    }
}

/// An error and its causes on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(line, ": {cause}");
        next = cause.source();
    }
    line
}
