//! What every session shares.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use hearth_schemas::guest::messages::{HelloReply, User};
use rustix::process::{Gid, Uid};
use tokio::sync::Notify;

use crate::{
    cells::Cells,
    copies::{self, Copies},
    exec::Abilities,
    group::Groups,
    jail::Jail,
    live::Live,
    quota::Quota,
    reaper::Reaper,
    tree::Tree,
    wake::{self, Held},
};

/// The user and group that jobs run as in a guest; the image's /etc/passwd calls it `job`.
pub(crate) const JOB_ID: u32 = 10_000;

/// What the agent may do to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is PID 1 of a VM and does as it likes.
    Guest {
        /// The disk for what jobs write.
        scratch: Option<PathBuf>,
    },
    /// It is a guest itself: nothing outside of its tree and its cgroups is touched.
    Host,
    /// The same, and it plays a VM.
    #[cfg(feature = "fakes")]
    Process,
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent {
    place: Place,
    reaper: Reaper,
    groups: Groups,
    quota: Quota,
    copies: Copies,
    cells: Cells,
    jail: Option<Jail>,
    live: Live,
    tree: Mutex<Arc<Tree>>,
    wake: tokio::sync::Mutex<Held>,
    awake: AtomicBool,
    stop: Notify,
}

impl Agent {
    /// An agent that has not been woken.
    pub(crate) fn new(place: Place, reaper: Reaper, groups: Groups, tree: Tree) -> Self {
        Self {
            place,
            reaper,
            groups,
            quota: Quota::default(),
            copies: Copies::default(),
            cells: Cells::default(),
            jail: None,
            live: Live::default(),
            tree: Mutex::new(Arc::new(tree)),
            wake: tokio::sync::Mutex::new(Held::default()),
            awake: AtomicBool::new(false),
            stop: Notify::new(),
        }
    }

    /// The same, with jails for what runs as the job's user.
    pub(crate) fn with_jail(self, jail: Jail) -> Self {
        Self { jail: Some(jail), ..self }
    }

    /// What a command of this user lives in. `None`: the agent's own world.
    pub(crate) fn jail_of(&self, user: User) -> Option<&Jail> {
        self.jail.as_ref().filter(|_| user == User::Job)
    }

    /// Where copies of output go.
    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// What it says of itself in a hello.
    pub(crate) fn hello(&self) -> HelloReply {
        let scratch = matches!(&self.place, Place::Guest { scratch: Some(_) });
        HelloReply {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            controllers: self.groups.controllers().names(),
            awake: self.awake(),
            put_directories: true,
            disk_quota: if self.awake() { self.quota.enabled() } else { scratch && wake::kernel_has_quota() },
            file_limits: true,
            ip: self.jail.is_some(),
            fresh_copy: if self.awake() {
                self.copies.enabled()
            } else {
                scratch && copies::kernel_has_overlay()
            },
            live: matches!(self.place, Place::Guest { .. }),
            inline: true,
            network: self.jail.is_some(),
            ..HelloReply::default()
        }
    }

    /// What it can hold a command to right now.
    pub(crate) fn abilities(&self) -> Abilities {
        Abilities { controllers: self.groups.controllers(), disk_quota: self.quota.enabled() }
    }

    /// Whom a command becomes. `None`: it stays what the agent is.
    pub(crate) fn ids_of(&self, user: User) -> Option<(Uid, Gid)> {
        let drops = user == User::Job && matches!(self.place, Place::Guest { .. });
        drops.then(|| (Uid::from_raw(JOB_ID), Gid::from_raw(JOB_ID)))
    }

    /// Whether a wake was done.
    pub(crate) fn awake(&self) -> bool {
        self.awake.load(Ordering::Relaxed)
    }

    /// Everything that a wake does has been done.
    pub(crate) fn set_awake(&self) {
        self.awake.store(true, Ordering::Relaxed);
    }

    /// The working tree of this moment.
    pub(crate) fn tree(&self) -> Arc<Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From here on, this is the working tree.
    pub(crate) fn set_tree(&self, tree: Tree) {
        *self.tree.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(tree);
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    pub(crate) fn quota(&self) -> &Quota {
        &self.quota
    }

    pub(crate) fn cells(&self) -> &Cells {
        &self.cells
    }

    pub(crate) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// What the wakes so far have left. Locked while one is being done.
    pub(crate) fn held(&self) -> &tokio::sync::Mutex<Held> {
        &self.wake
    }

    /// Notified when the agent has been told to stop.
    pub(crate) fn stop(&self) -> &Notify {
        &self.stop
    }
}
