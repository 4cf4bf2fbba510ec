//! The wake: makes a clone of a snapshot its own machine, and says what was really done. What is the same in all of them is
//! done before the snapshot.

mod check;
mod entropy;
mod names;
mod scratch;

use std::path::Path;

pub(crate) use check::WakeError;
use check::{Turn, check, turn};
use hearth_schemas::guest::messages::{Identity, Network, User, Wake, Woken};
pub(crate) use names::BOOT_ID;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::{
    agent::{Agent, Place},
    jail::card,
};

const NS_PER_S: i128 = 1_000_000_000;

/// What the settling and the wakes so far have left.
#[derive(Debug, Default)]
pub(crate) struct Held {
    identity: Option<Identity>,
    /// The names in /run are mounted over those of the image.
    named: bool,
    /// The scratch disk is mounted; this is its size.
    scratch_bytes: Option<u64>,
    /// What the card is set to.
    network: Option<Network>,
}

/// Whether the kernel could hold a user to a quota, if a disk offered it.
pub(crate) fn kernel_has_quota() -> bool {
    std::path::Path::new("/proc/sys/fs/quota").exists()
}

/// Does what no clone needs of its own: the places of its names, the scratch disk, and the working tree on it, empty.
pub(crate) async fn settle(agent: &Agent) -> Result<(), WakeError> {
    let Place::Guest { scratch } = agent.place() else { return Ok(()) };
    settled(agent, &mut *agent.held().lock().await, scratch.as_deref())
}

/// The same, unless it was done before.
fn settled(agent: &Agent, held: &mut Held, scratch: Option<&Path>) -> Result<(), WakeError> {
    if !held.named {
        names::make().map_err(WakeError::file("the names in /run"))?;
        names::bind().map_err(WakeError::step("mounting the names"))?;
        held.named = true;
    }
    if held.scratch_bytes.is_none() {
        held.scratch_bytes = Some(match scratch {
            Some(device) => scratch::mount(agent, device)?,
            None => scratch::without(agent)?,
        });
    }
    Ok(())
}

/// Wakes the machine, or confirms a wake that is repeated. A failed one can be tried again.
pub(crate) async fn run(agent: &Agent, wake: Wake) -> Result<Woken, WakeError> {
    let identity = check(&wake)?;
    let mut held = agent.held().lock().await;
    let turn = turn(held.identity.as_ref(), &identity)?;
    let mut woken = match agent.place() {
        Place::Guest { scratch } => guest(agent, &mut held, &wake, turn, scratch.as_deref()).await?,
        Place::Host => Woken { hostname: own_hostname(), ..Woken::default() },
        #[cfg(feature = "fakes")]
        Place::Process => crate::process::woken(&wake),
    };
    held.identity = Some(identity.clone());
    agent.live().allow(identity.port, wake.nonce.clone());
    agent.set_awake();
    woken.machine_id = names::machine_id();
    woken.identity = Some(identity);
    Ok(woken)
}

async fn guest(
    agent: &Agent,
    held: &mut Held,
    wake: &Wake,
    turn: Turn,
    scratch: Option<&Path>,
) -> Result<Woken, WakeError> {
    if held.identity.is_none() {
        // Whatever was still running when the snapshot was taken.
        agent.groups().kill_all().await?;
    }
    let entropy_bytes = entropy::credit(&wake.entropy).map_err(WakeError::step("entropy"))?;
    let clock_step_ns = set_clock(wake.now_unix_ns).map_err(WakeError::step("now_unix_ns"))?;
    rustix::system::sethostname(wake.hostname.as_bytes()).map_err(WakeError::step("hostname"))?;
    settled(agent, held, scratch)?;
    if turn == Turn::New {
        names::write(&wake.hostname).map_err(WakeError::file("the names in /run"))?;
    }
    if let Some(network) = &wake.network {
        join(agent, held, network)?;
    }
    let scratch_bytes = held.scratch_bytes.unwrap_or(0);
    let (hostname, network) = (own_hostname(), held.network.clone());
    let woken =
        Woken { entropy_bytes, reseeded: true, clock_step_ns, scratch_bytes, hostname, ..Woken::default() };
    Ok(Woken { network, ..woken })
}

/// Sets the card up for jobs. Nothing of a network is in the snapshot: the card was down, so that nobody is known on it.
fn join(agent: &Agent, held: &mut Held, network: &Network) -> Result<(), WakeError> {
    match &held.network {
        Some(set) if set == network => return Ok(()),
        Some(_) => return Err(WakeError::OtherNetwork),
        None => {}
    }
    let jail = agent.jail_of(User::Job).ok_or(WakeError::NoCard)?;
    let card =
        card::find().map_err(WakeError::file("looking for a network card"))?.ok_or(WakeError::NoCard)?;
    jail.take_card(card, network).map_err(WakeError::file("setting up the network card"))?;
    names::write_resolver(network.resolver.into()).map_err(WakeError::file("naming the resolver"))?;
    held.network = Some(network.clone());
    Ok(())
}

fn own_hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Sets the wall clock. Returns by how much that moved it, in nanoseconds.
fn set_clock(now_unix_ns: u64) -> Result<i64, rustix::io::Errno> {
    let before = clock_gettime(ClockId::Realtime);
    let now = i128::from(now_unix_ns);
    let whole = |ns: i128| i64::try_from(ns).unwrap_or(i64::MAX);
    let time = Timespec { tv_sec: whole(now / NS_PER_S), tv_nsec: whole(now % NS_PER_S) };
    clock_settime(ClockId::Realtime, time)?;
    let before = i128::from(before.tv_sec) * NS_PER_S + i128::from(before.tv_nsec);
    Ok(whole(now - before))
}
