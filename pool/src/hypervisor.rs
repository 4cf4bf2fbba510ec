//! The seam behind which a VM is made and ended.

use std::{fmt, io, sync::Arc, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    lease::Identity,
    net::{Network, NetworkError},
};

/// A place in the pool that holds at most one VM at a time. Unique within one worker process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// The runtime whose snapshot it restores, with [`crate::net::VARIANT`] where that has a network card.
    pub runtime: String,
    /// Its number within the worker.
    pub number: u32,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.runtime, self.number)
    }
}

/// One timed part of a restore or greeting, for metrics and `bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreStep {
    /// Its name: one of [`RESTORE_STEPS`].
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// Every value of [`Hypervisor::transport`].
pub const TRANSPORTS: [&str; 5] = ["vhost_user_vsock", "vhost_vsock", "hybrid_vsock", "serial", "pipe"];
/// Every name of a [`RestoreStep`]: of QEMU and Firecracker, of a greeting, of the fake.
pub const RESTORE_STEPS: [&str; 14] = [
    "network", "open", "clone", "start", "load", "plug", "driver", "resume", "settle", "dial", "hello",
    "wake", "warm_up", "fake",
];

/// A restored VM and how long each part took.
#[derive(Debug)]
pub struct Restored<Vm> {
    /// The VM. Its agent may still be a moment away: [`Hypervisor::dial`] waits for it.
    pub vm: Vm,
    /// The snapshot it came from (`inputs_sha256` of its manifest): a slot may serve another one after a bake.
    pub snapshot: String,
    /// The parts in order.
    pub steps: Vec<RestoreStep>,
}

/// Why a VM could not be restored. Whatever had been made is removed by `destroy(slot, None)`.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Another live VM on this host holds the CID's lock. The lease store gave out what it should not have.
    #[error("CID {cid} is locked by another VM on this host")]
    IdentityBusy {
        /// The CID.
        cid: u32,
    },
    /// The snapshot is absent or does not fit this host. Trying again does not help; the message says what does.
    #[error("{0}")]
    Snapshot(String),
    /// The host refused something: a file, a process, memory.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// There is no network for it.
    #[error("no network for the VM")]
    Network(#[from] NetworkError),
    /// The hypervisor's process said no, or died. The message carries the end of its log.
    #[error("{0}")]
    Vmm(String),
    /// A part took longer than it ever should.
    #[error("{step} took longer than {limit:?}")]
    Timeout {
        /// The part.
        step: &'static str,
        /// Its bound.
        limit: Duration,
    },
}

/// A VM, or what is left of one, could not be removed. The slot takes no other VM until it is.
#[derive(Debug, thiserror::Error)]
#[error("{slot}: {what}")]
pub struct DestroyError {
    /// The slot.
    pub slot: Slot,
    /// What is still there.
    pub what: String,
}

/// A byte pipe to a guest agent.
pub trait GuestIo: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> GuestIo for T {}

/// Where a guest's own connections arrive.
pub trait Accept: Send + 'static {
    /// One of them.
    type Io: GuestIo;
    /// The next connection. Cancel safe.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// Makes and ends VMs from one kind of snapshot. Every method may be called for many slots at once.
pub trait Hypervisor: Send + Sync + 'static {
    /// A running VM.
    type Vm: Send + Sync + 'static;
    /// A VMM that was started and has no guest yet. A hypervisor that does not start ahead has none.
    type Dormant: Send + Sync + 'static;
    /// A connection to its agent.
    type Io: GuestIo;
    /// Where it may dial the host.
    type Accept: Accept;

    /// Restores the slot's snapshot as `identity`. Cancel safe: `destroy(slot, None)` cleans up.
    fn restore(
        &self,
        slot: &Slot,
        identity: &Identity,
    ) -> impl Future<Output = Result<Restored<Self::Vm>, RestoreError>> + Send;

    /// Whether [`Self::start`] can be used.
    fn starts_ahead(&self) -> bool {
        false
    }

    /// Does what a restore can do beforehand: starts the VMM, without a guest and its memory. Cancel safe, as a restore is.
    fn start(
        &self,
        slot: &Slot,
        identity: &Identity,
    ) -> impl Future<Output = Result<Self::Dormant, RestoreError>> + Send;

    /// The rest of the restore, of the snapshot that was current when it was started. Cancel safe, as a restore is.
    fn load(
        &self,
        dormant: Self::Dormant,
    ) -> impl Future<Output = Result<Restored<Self::Vm>, RestoreError>> + Send;

    /// Resolves when the VMM is gone. Cancel safe.
    fn dormant_exited(&self, dormant: &Self::Dormant) -> impl Future<Output = ()> + Send;

    /// The name of what it will restore, as [`Self::current`] has it.
    fn dormant_from<'a>(&self, _dormant: &'a Self::Dormant) -> Option<&'a str> {
        None
    }

    /// The name of what a restore of this runtime would come from now; `None` where that never changes. Asked every
    /// second: it must be quick.
    fn current(&self, _runtime: &str) -> Option<String> {
        None
    }

    /// The name of what this VM came from, as [`Self::current`] has it.
    fn came_from<'a>(&self, _vm: &'a Self::Vm) -> Option<&'a str> {
        None
    }

    /// One connection to the agent, once it can answer. Cancel safe.
    fn dial(&self, vm: &Self::Vm) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// What the agent is reached over, for metrics: one of [`TRANSPORTS`].
    fn transport(&self, _vm: &Self::Vm) -> &'static str {
        "pipe"
    }

    /// The VM's network, if it has a card.
    fn network<'a>(&self, _vm: &'a Self::Vm) -> Option<&'a Arc<Network>> {
        None
    }

    /// Listens where the guest may dial the host: on the leased port, for this VM only.
    fn listen(&self, vm: &Self::Vm, port: u16) -> io::Result<Self::Accept>;

    /// Resolves when the VM's process is gone. Cancel safe.
    fn exited(&self, vm: &Self::Vm) -> impl Future<Output = ()> + Send;

    /// Whether a VM for which [`Hypervisor::exited`] has resolved lives on, and only what carried its sessions has ended. Then its
    /// job has not killed it.
    fn is_cut_off(&self, _vm: &Self::Vm) -> bool {
        false
    }

    /// Whether what makes VMs is gone, and every VM with it: none ended by what it did.
    fn is_gone(&self) -> bool {
        false
    }

    /// Whether a lock of this host keeps every other VM from this one's identity until it is destroyed, whatever a lease
    /// store believes. Then a claimed VM may outlive its lease.
    fn is_locked(&self, _vm: &Self::Vm) -> bool {
        false
    }

    /// Ends the VM and removes everything of it. Idempotent; works with `None` after a cancelled restore.
    /// When it returns `Ok`, no process, file or socket of the VM is left and its CID's lock is free.
    /// May be dropped when it takes too long: it is then called again with `None`, as after an error.
    fn destroy(
        &self,
        slot: &Slot,
        vm: Option<Self::Vm>,
    ) -> impl Future<Output = Result<(), DestroyError>> + Send;
}
