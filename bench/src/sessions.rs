//! What a job does with its VM: run commands, and move files (`transfers`). The floor goes over the same vsock of the same guest.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;
use hearth_pool::session::Session;
use hearth_schemas::guest::messages::{Identity, User, Wake};
use tokio::time::Instant;

use crate::{
    Plan,
    by_hand::{ByHand, Vm},
    floor::{self, Raw, command},
    series::Report,
    transfers,
};

const EXEC: &str = "exec of true";
/// The same samples over another floor: what of it is the guest's own price for a process.
const SPAWN: &str = "exec of true, over a spawn";
const PING: &str = "ping";
/// The series of this module.
pub const NAMES: [&str; 3] = [PING, EXEC, SPAWN];

/// Bound of every request.
const LIMIT: Duration = Duration::from_secs(60);
/// Pairs that come before the first that counts.
const DISCARDED: usize = 1;

/// Measures what the plan wants in one VM.
///
/// # Errors
/// The VM, or its agent, failed.
pub async fn run(plan: &Plan, by_hand: &ByHand, server: &Path, report: &mut Report) -> Result<()> {
    let (vm, session, mut raw) = guest(by_hand, server).await?;
    for sample in 0..plan.samples + DISCARDED {
        let mut pairs = Report::default();
        if plan.wants(&[PING]) {
            ping(&session, &mut raw, &mut pairs).await?;
        }
        if plan.wants(&[EXEC, SPAWN]) {
            exec(&session, &mut raw, &mut pairs).await?;
        }
        transfers::once(plan, &session, &mut raw, &mut pairs).await?;
        if sample >= DISCARDED {
            report.take(pairs);
        }
    }
    drop(session);
    vm.end().await
}

/// A guest that is awake, its session, and a connection to the floor that runs in it.
///
/// # Errors
/// The VM, or its agent, failed.
pub async fn guest(by_hand: &ByHand, server: &Path) -> Result<(Vm, Session, Raw)> {
    let mut vm = by_hand.restore().await?;
    let session = vm.session().await?;
    floor::start(&session, server).await?;
    session.wake(wake(vm.cid()), LIMIT).await?;
    let raw = Raw::connect(&vm.socket()).await?;
    Ok((vm, session, raw))
}

/// What makes a clone a machine of its own, with the least that an agent takes.
pub fn wake(cid: u32) -> Wake {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Wake {
        now_unix_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        entropy: rand::random::<[u8; 64]>().to_vec(),
        hostname: "bench".to_owned(),
        identity: Some(Identity { cid, port: 9000, token: 1 }),
        nonce: Vec::new(),
        network: None,
    }
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<Duration> {
    let began = Instant::now();
    work.await?;
    Ok(began.elapsed())
}

async fn ping(session: &Session, raw: &mut Raw, report: &mut Report) -> Result<()> {
    report.ours(PING, timed(async { Ok(session.ping(LIMIT).await?) }).await?);
    report.floor(PING, timed(raw.echo()).await?);
    Ok(())
}

async fn exec(session: &Session, raw: &mut Raw, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let exited = floor::run(session, command(&["/bin/true"], User::Job), Bytes::new()).await?;
    let took = began.elapsed();
    report.pair(EXEC, took, timed(raw.echo()).await?);
    report.pair(SPAWN, took, timed(raw.spawn()).await?);
    ensure!(exited.exit_code == Some(0), "/bin/true: {exited:?}");
    Ok(())
}
