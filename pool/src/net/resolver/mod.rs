//! The resolver of one VM. It answers allowed names only, and what it answers can be reached for as long as it holds.

mod decide;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket},
    sync::Arc,
    time::Duration,
};

use rand::{TryRng, rngs::SysRng};
use tokio::{net::UdpSocket, sync::Semaphore, task::JoinSet, time::timeout};

use self::decide::{Asked, Found, answer, asked, failure, found, question};
use super::{Namespace, Policy, network::RuleSetter};

/// Largest message that is taken, in bytes (RFC 6891 recommends to offer 1232).
const MESSAGE_MAX_BYTES: usize = 1232;
/// How long each server may take.
const SERVER_LIMIT: Duration = Duration::from_secs(2);
/// Questions of a VM at once. Others are not heard, and its libc asks again.
const QUESTIONS_MAX: usize = 16;

pub(super) struct Resolver {
    guest: Arc<UdpSocket>,
    shared: Arc<Shared>,
}

struct Shared {
    policy: Policy,
    upstream: Vec<SocketAddr>,
    outside: Namespace,
    rules: RuleSetter,
}

impl Resolver {
    /// Answers on `guest`, asks `upstream` from the namespace `outside`.
    pub fn new(
        guest: StdUdpSocket,
        policy: Policy,
        upstream: Vec<SocketAddr>,
        outside: Namespace,
        rules: RuleSetter,
    ) -> io::Result<Self> {
        guest.set_nonblocking(true)?;
        let guest = Arc::new(UdpSocket::from_std(guest)?);
        Ok(Self { guest, shared: Arc::new(Shared { policy, upstream, outside, rules }) })
    }

    /// Answers until it is dropped.
    pub async fn run(self) {
        let room = Arc::new(Semaphore::new(QUESTIONS_MAX));
        let mut under_way = JoinSet::new();
        let mut message = [0; MESSAGE_MAX_BYTES];
        loop {
            while under_way.try_join_next().is_some() {}
            // An error is one of a message sent before; a socket without a peer never ends.
            let Ok((length, from)) = self.guest.recv_from(&mut message).await else { continue };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
            let query = message.get(..length).unwrap_or_default().to_vec();
            let (guest, shared) = (Arc::clone(&self.guest), Arc::clone(&self.shared));
            under_way.spawn(async move {
                if let Some(answer) = shared.answer(&query).await {
                    let _ = guest.send_to(&answer, from).await;
                }
                drop(permit);
            });
        }
    }
}

impl Shared {
    async fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let question = match asked(query, &self.policy) {
            Asked::Ignore => return None,
            Asked::Known(answer) => return Some(answer),
            Asked::Resolve(question) => question,
        };
        let Some(found) = self.ask_all(&question).await else { return failure(&question) };
        let ports = self.policy.ports_of(&question.host)?;
        let rules = super::rules::resolved(&found.addresses, ports);
        // Before the guest knows the address: it may not find it closed.
        if !found.addresses.is_empty()
            && let Err(error) = self.rules.apply(rules).await
        {
            tracing::warn!(%error, "an address that was resolved cannot be allowed");
            return failure(&question);
        }
        answer(&question, &found)
    }

    async fn ask_all(&self, question: &decide::Question) -> Option<Found> {
        for server in &self.upstream {
            match timeout(SERVER_LIMIT, self.ask(*server, question)).await {
                Ok(Ok(found)) => return Some(found),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server failed"),
                Err(_) => tracing::debug!(%server, "a name server does not answer"),
            }
        }
        None
    }

    async fn ask(&self, server: SocketAddr, asked: &decide::Question) -> io::Result<Found> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let outside = self.outside.clone();
        let socket = tokio::task::spawn_blocking(move || outside.run(|| StdUdpSocket::bind(any))).await??;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        // From then on the kernel takes messages of this server only.
        socket.connect(server).await?;
        let mut id = [0; 2];
        SysRng.try_fill_bytes(&mut id).map_err(io::Error::other)?;
        let id = u16::from_be_bytes(id);
        socket.send(&question(asked, id)?).await?;
        let mut message = [0; MESSAGE_MAX_BYTES];
        loop {
            let length = socket.recv(&mut message).await?;
            if let Some(found) = found(message.get(..length).unwrap_or_default(), id, asked) {
                return Ok(found);
            }
        }
    }
}
