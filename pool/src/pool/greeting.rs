//! From a restored VM to one that may be claimed: reach the agent, wake it, believe nothing that it does not confirm.

use std::{io, time::Duration};

use bytes::Bytes;
use hearth_schemas::{
    guest::messages::{Exited, Identity as WakeIdentity, Network as WakeNetwork, Wake, Woken},
    limits::{WAKE_ENTROPY_MIN_BYTES, WAKE_NONCE_BYTES},
};
use rand::{TryRng, rngs::SysRng};
use tokio::time::{Instant, timeout};

use super::config::StepLimits;
use crate::{
    hypervisor::{Hypervisor, RestoreStep},
    lease::Identity,
    net::{GATEWAY, GUEST, PREFIX_BITS},
    session::{Command, Session, SessionError},
};

/// Entropy that a wake carries: twice what the kernel's generator holds.
const ENTROPY_BYTES: usize = 64;
const _: () = assert!(ENTROPY_BYTES >= WAKE_ENTROPY_MIN_BYTES);
/// How far a wake may step a clock forward: no snapshot is older.
const CLOCK_FORWARD_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// How far a wake may step a clock back: a host's own clock may have been put right since the bake.
const CLOCK_BACK_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why a VM is not Ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    #[error("reaching the agent")]
    Dial(#[source] io::Error),
    #[error("the agent could not be reached within {0:?}")]
    DialTimeout(Duration),
    #[error("{step}")]
    Session { step: &'static str, source: SessionError },
    #[error("no entropy from the OS")]
    Entropy(#[source] rand::rngs::SysError),
    #[error("the agent says that it was woken before: the snapshot was taken too late")]
    AlreadyAwake,
    #[error("the agent in the snapshot knows of no networks: bake the runtime again")]
    NoNetwork,
    #[error("the wake is not confirmed")]
    Unconfirmed(#[from] Unconfirmed),
    #[error("the warm-up ended with {0}")]
    WarmUp(String),
    #[error("the warm-up took longer than {0:?}")]
    WarmUpTimeout(Duration),
}

/// What an agent did not confirm of its wake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unconfirmed {
    #[error("{0} bytes of entropy credited, {WAKE_ENTROPY_MIN_BYTES} needed")]
    Entropy(u32),
    #[error("the kernel's generator was not reseeded")]
    Reseed,
    #[error("the host name is not the one that was set")]
    Hostname,
    #[error("the identity is not the one that was given")]
    Identity,
    #[error("the clock was stepped by {0} s")]
    Clock(i64),
    #[error("the network card is not set up as it was told")]
    Network,
}

/// A VM whose agent has confirmed its wake.
pub(crate) struct Greeted {
    pub(crate) session: Session,
    pub(crate) nonce: [u8; WAKE_NONCE_BYTES],
    pub(crate) steps: Vec<RestoreStep>,
}

/// Greets a VM. Has a bound on every step. Cancel safe: the session is closed, and the VM is good for nothing.
pub(crate) async fn greet<H: Hypervisor>(
    hypervisor: &H,
    vm: &H::Vm,
    identity: &Identity,
    warm_up: Option<&Command>,
    limits: &StepLimits,
) -> Result<Greeted, GreetError> {
    let mut steps = Steps::new();
    let io = timeout(limits.dial, hypervisor.dial(vm)).await;
    let io = io.map_err(|_| GreetError::DialTimeout(limits.dial))?.map_err(GreetError::Dial)?;
    steps.done("dial");
    let session = Session::connect(io, limits.hello).await.map_err(at("hello"))?;
    if session.hello().awake {
        return Err(GreetError::AlreadyAwake);
    }
    steps.done("hello");
    let nonce = entropy()?;
    let has_network = hypervisor.network(vm).is_some();
    if has_network && !session.hello().network {
        return Err(GreetError::NoNetwork);
    }
    let network = has_network.then(network);
    let wake = Wake { network, ..wake(identity, entropy::<ENTROPY_BYTES>()?, nonce) };
    let woken = session.wake(wake.clone(), limits.wake).await.map_err(at("wake"))?;
    confirm(&wake, &woken)?;
    steps.done("wake");
    if let Some(command) = warm_up {
        let run = timeout(limits.warm_up, run(&session, command.clone())).await;
        let exited = run.map_err(|_| GreetError::WarmUpTimeout(limits.warm_up))?.map_err(at("warm-up"))?;
        if exited.exit_code != Some(0) {
            return Err(GreetError::WarmUp(ending(&exited)));
        }
        steps.done("warm_up");
    }
    Ok(Greeted { session, nonce, steps: steps.done })
}

fn at(step: &'static str) -> impl Fn(SessionError) -> GreetError {
    move |source| GreetError::Session { step, source }
}

/// What every VM with a card is told of its network: from inside, all of them look the same.
fn network() -> WakeNetwork {
    let gateway = u32::from(GATEWAY);
    let (address, prefix_bits) = (u32::from(GUEST), u32::from(PREFIX_BITS));
    WakeNetwork { address, prefix_bits, gateway, resolver: gateway }
}

/// What a VM is told so that it becomes its own machine.
fn wake(identity: &Identity, entropy: [u8; ENTROPY_BYTES], nonce: [u8; WAKE_NONCE_BYTES]) -> Wake {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    Wake {
        now_unix_ns: now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)),
        entropy: entropy.to_vec(),
        hostname: format!("hearth-{}-{}", identity.cid, identity.token),
        identity: Some(WakeIdentity { cid: identity.cid, port: identity.port.into(), token: identity.token }),
        nonce: nonce.to_vec(),
        network: None,
    }
}

/// Whether the answer says that everything was done.
fn confirm(wake: &Wake, woken: &Woken) -> Result<(), Unconfirmed> {
    if (woken.entropy_bytes as usize) < WAKE_ENTROPY_MIN_BYTES {
        return Err(Unconfirmed::Entropy(woken.entropy_bytes));
    }
    if !woken.reseeded {
        return Err(Unconfirmed::Reseed);
    }
    if woken.hostname != wake.hostname {
        return Err(Unconfirmed::Hostname);
    }
    if woken.identity.is_none() || woken.identity != wake.identity {
        return Err(Unconfirmed::Identity);
    }
    if woken.network != wake.network {
        return Err(Unconfirmed::Network);
    }
    let bound = if woken.clock_step_ns < 0 { CLOCK_BACK_MAX } else { CLOCK_FORWARD_MAX };
    if Duration::from_nanos(woken.clock_step_ns.unsigned_abs()) > bound {
        return Err(Unconfirmed::Clock(woken.clock_step_ns / 1_000_000_000));
    }
    Ok(())
}

fn entropy<const N: usize>() -> Result<[u8; N], GreetError> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(GreetError::Entropy)?;
    Ok(bytes)
}

async fn run(session: &Session, command: Command) -> Result<Exited, SessionError> {
    let running = session.exec(command, false).await?;
    running.finish(Bytes::new(), |_, _| {}, std::future::pending()).await
}

fn ending(exited: &Exited) -> String {
    match (exited.exit_code, exited.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "neither exit code nor signal".into(),
    }
}

/// Times the parts of a greeting.
struct Steps {
    began: Instant,
    done: Vec<RestoreStep>,
}

impl Steps {
    fn new() -> Self {
        Self { began: Instant::now(), done: Vec::new() }
    }

    fn done(&mut self, name: &'static str) {
        let now = Instant::now();
        self.done.push(RestoreStep { name, took: now - self.began });
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { cid: 3, port: 9000, token: 1_790_000_000_000_000 };

    fn confirmed() -> (Wake, Woken) {
        let wake = wake(&IDENTITY, [1; ENTROPY_BYTES], [2; WAKE_NONCE_BYTES]);
        let woken = Woken {
            entropy_bytes: ENTROPY_BYTES as u32,
            reseeded: true,
            clock_step_ns: 5_000_000_000,
            hostname: wake.hostname.clone(),
            identity: wake.identity.clone(),
            ..Woken::default()
        };
        (wake, woken)
    }

    #[test]
    fn the_host_name_is_one_that_an_agent_takes() {
        let (wake, _) = confirmed();
        assert_eq!(wake.hostname, "hearth-3-1790000000000000");
        let longest = Identity { cid: u32::MAX, port: u16::MAX, token: u64::MAX };
        assert!(super::wake(&longest, [0; ENTROPY_BYTES], [0; WAKE_NONCE_BYTES]).hostname.len() <= 63);
        assert!(wake.now_unix_ns > 1_700_000_000_000_000_000);
    }

    #[test]
    fn a_wake_is_confirmed_only_when_all_of_it_was_done() {
        let (wake, woken) = confirmed();
        assert_eq!(confirm(&wake, &woken), Ok(()));
        let day_ns = 24 * 3600 * 1_000_000_000;
        assert_eq!(confirm(&wake, &Woken { clock_step_ns: 365 * day_ns, ..woken.clone() }), Ok(()));
        let wrong = |change: &dyn Fn(&mut Woken)| {
            let mut woken = woken.clone();
            change(&mut woken);
            confirm(&wake, &woken).unwrap_err()
        };
        assert_eq!(wrong(&|w| w.entropy_bytes = 31), Unconfirmed::Entropy(31));
        assert_eq!(wrong(&|w| w.reseeded = false), Unconfirmed::Reseed);
        assert_eq!(wrong(&|w| w.hostname = "localhost".into()), Unconfirmed::Hostname);
        assert_eq!(wrong(&|w| w.identity = None), Unconfirmed::Identity);
        assert_eq!(wrong(&|w| w.identity.as_mut().unwrap().token -= 1), Unconfirmed::Identity);
        assert_eq!(wrong(&|w| w.network = Some(network())), Unconfirmed::Network);
        assert_eq!(wrong(&|w| w.clock_step_ns = -2 * day_ns), Unconfirmed::Clock(-2 * 24 * 3600));
        assert!(matches!(wrong(&|w| w.clock_step_ns = i64::MAX), Unconfirmed::Clock(_)));
        assert!(matches!(wrong(&|w| w.clock_step_ns = i64::MIN), Unconfirmed::Clock(_)));
    }
}
