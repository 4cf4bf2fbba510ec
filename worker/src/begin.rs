//! Begins a job, once its tenant may have another one run.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    admit::Job,
    handle::Service,
    ledger::{Begun, Ledger, LedgerError, Registration},
    seams::{Properties, Receipt},
};

/// How long a delivery waits here for its tenant; then it goes back to the end of its queue, where others may wait.
const ASIDE_MAX: Duration = Duration::from_secs(30);

/// Begins a job. [`Begun::TenantBusy`]: its message should go back to where it waits. Not cancel safe.
pub(crate) async fn begin<L: Ledger, S, R: Receipt>(
    service: &Service<L, S>,
    job: &Job,
    registration: &Registration,
    properties: &mut Properties,
    receipt: &mut R,
) -> Result<Begun, LedgerError> {
    let begun = ask(service, job, registration).await;
    if !matches!(begun, Ok(Begun::TenantBusy(_))) || !receipt.set_aside() {
        return begun;
    }
    // It may be ended while it waits, and its producer told.
    properties.parked = true;
    let begun = wait(service, job, registration, &*receipt).await;
    receipt.resume();
    begun
}

async fn ask<L: Ledger, S>(
    service: &Service<L, S>,
    job: &Job,
    registration: &Registration,
) -> Result<Begun, LedgerError> {
    service.ledger.begin_with(&job.key, &job.digest, service.worker(), registration).await
}

async fn wait<L: Ledger, S, R: Receipt>(
    service: &Service<L, S>,
    job: &Job,
    registration: &Registration,
    receipt: &R,
) -> Result<Begun, LedgerError> {
    let room = service.rooms.enter(&job.key.tenant);
    let enough = Instant::now() + ASIDE_MAX;
    let mut over = std::pin::pin!(async {
        tokio::select! {
            () = tokio::time::sleep_until(enough) => {}
            () = receipt.withdrawn() => {}
        }
    });
    let (_turn, mut last) = tokio::select! {
        turn = room.turn() => (Some(turn), false),
        () = &mut over => (None, true),
    };
    loop {
        // Not given up while it is asked: an answer that nobody hears would be a worker that fell silent.
        let busy = match ask(service, job, registration).await? {
            Begun::TenantBusy(busy) => busy,
            begun => return Ok(begun),
        };
        if last {
            return Ok(Begun::TenantBusy(busy));
        }
        tokio::select! {
            () = tokio::time::sleep(busy.again_in()) => {}
            () = room.ended() => {}
            () = &mut over => last = true,
        }
    }
}
