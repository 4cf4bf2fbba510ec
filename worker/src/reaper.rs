//! Ends jobs that nobody runs: overdue ones, cancelled ones, and results that were decided and not published.
//!
//! One worker at a time does this, under a lease of the ledger; another one follows when it is over. Where two do for a
//! moment, the ledger lets one of them seize a job.

use std::time::Duration;

use hearth_schemas::result::Status;

use crate::{
    attempt::chain,
    finish,
    handle::Service,
    ledger::{Commit, JobKey, Ledger, LedgerError, Seized, Seizure},
    meters,
    route::Route,
    seams::{Publication, ResultSink},
    stop::StopReason,
};

/// How often the ledger is asked what is overdue.
const EVERY: Duration = Duration::from_secs(1);
/// For how long a worker leads that is not heard of any more. With [`EVERY`] and the time in which a heartbeat lapses,
/// which goes on meanwhile, jobs are ended within 5 s.
const LEADS_FOR: Duration = Duration::from_millis(2500);

const _: () = assert!(LEADS_FOR.as_millis() >= 2 * EVERY.as_millis());
const _: () = assert!(LEADS_FOR.as_millis() + EVERY.as_millis() + 500 <= 4000);
/// How much is ended at once.
const BATCH: usize = 64;
/// How long whoever committed a result may take to publish it before others do.
const PUBLISH_GRACE: Duration = Duration::from_secs(4);

/// Ends what is overdue, for ever. Cancel safe: what was seized and not ended is seized again when its heartbeat lapses.
pub async fn reap<L: Ledger, S: ResultSink>(service: &Service<L, S>) {
    loop {
        let pause = match service.ledger.lead(service.worker(), LEADS_FOR).await {
            Ok(Some(another_leads_for)) => another_leads_for,
            Ok(None) => {
                if let Err(error) = reap_once(service).await {
                    tracing::debug!(%error, "nothing is reaped");
                }
                EVERY
            }
            Err(error) => {
                tracing::debug!(%error, "nothing is reaped");
                EVERY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// One round of [`reap`].
///
/// # Errors
/// The ledger does not answer.
pub async fn reap_once<L: Ledger, S: ResultSink>(service: &Service<L, S>) -> Result<(), LedgerError> {
    for key in service.ledger.overdue(BATCH).await? {
        end(service, &key).await?;
    }
    for unpublished in service.ledger.unpublished(PUBLISH_GRACE, BATCH).await? {
        let route = Route::decode(&unpublished.route);
        publish(service, &unpublished.key, route.publication(&unpublished.key, unpublished.result)).await?;
    }
    Ok(())
}

/// Cancels a job wherever it is: one that runs here is stopped at once, one that waits is ended; one that runs
/// elsewhere is that worker's, which hears the same.
///
/// # Errors
/// The ledger does not answer; a job that runs here is stopped all the same.
pub async fn cancel<L: Ledger, S: ResultSink>(
    service: &Service<L, S>,
    key: &JobKey,
) -> Result<(), LedgerError> {
    let runs_here = service.running.stop(key, StopReason::Cancelled);
    service.ledger.cancel(key).await?;
    if runs_here {
        return Ok(());
    }
    end(service, key).await
}

/// Ends a job that nobody runs, if it is to be ended.
async fn end<L: Ledger, S: ResultSink>(service: &Service<L, S>, key: &JobKey) -> Result<(), LedgerError> {
    let Seized::Seized(seizure) = service.ledger.seize(key, service.worker()).await? else { return Ok(()) };
    let Seizure { token, route, cancelled, history, .. } = *seizure;
    let (route, reason) =
        (Route::decode(&route), if cancelled { StopReason::Cancelled } else { StopReason::Deadline });
    let mut result = route.result(key, reason.status(), Some(reason.cause()));
    result.worker = Some(service.worker().to_owned());
    debug_assert!(matches!(result.status, Status::Cancelled | Status::Expired));
    let body = finish::encode(&result);
    match service.ledger.commit(&token, body.clone()).await? {
        Commit::Committed => {
            meters::ended(&result);
            service.tell_ended(&route, key, history.len(), &result);
            publish(service, key, route.publication(key, body)).await
        }
        Commit::Lost => Ok(()),
    }
}

/// Publishes a committed result and marks it. When the broker does not take it, it is found unpublished later.
async fn publish<L: Ledger, S: ResultSink>(
    service: &Service<L, S>,
    key: &JobKey,
    publication: Publication,
) -> Result<(), LedgerError> {
    match service.sink.publish(&publication).await {
        Ok(()) => service.ledger.published(key, publication.properties.told()).await,
        Err(error) => {
            tracing::warn!(job = %key, error = chain(&error), "will be published again");
            Ok(())
        }
    }
}
