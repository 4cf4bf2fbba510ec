//! A result that is larger than a message should be: the whole of it goes to the operator's store, where there is one,
//! and a short form with its name, size and digest is what is committed and published.

use std::time::Duration;

use bytes::Bytes;
use hearth_schemas::{
    limits::RESULT_MAX_BYTES,
    result::{JobResult, Reduced},
};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use crate::{admit::hex, attempt::chain, finish::encode, ledger::JobKey, objects::Objects, threads::heavy};

/// How long a store may take for a result. The job has run, and is not to wait for its end much longer.
const KEEP_WITHIN: Duration = Duration::from_secs(5);

/// How large the messages with results may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultTerms {
    /// What the broker carries, in bytes.
    pub message_max_bytes: usize,
}

/// What becomes of a result as JSON of this size. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It goes as it is.
    Whole,
    /// It goes to the store, and the short form should not be larger than this.
    ByReference { short_max_bytes: usize },
    /// What does not fit is cut.
    Cut,
}

fn fate(size: usize, terms: ResultTerms, by_reference_above: Option<usize>) -> Fate {
    match by_reference_above.map(|above| above.min(terms.message_max_bytes)) {
        Some(above) if size > above && size as u64 <= RESULT_MAX_BYTES => {
            Fate::ByReference { short_max_bytes: above }
        }
        _ if size > terms.message_max_bytes => Fate::Cut,
        _ => Fate::Whole,
    }
}

/// Makes a result fit its message; `attempt` names the attempt, so that two never share an object. A store that is away
/// loses nothing that fits the message. Takes 5 s at most. Cancel safe: an object that nobody names may stay.
pub(crate) async fn reduce(
    result: JobResult,
    job: &JobKey,
    attempt: &str,
    terms: ResultTerms,
    objects: &Objects,
) -> JobResult {
    let body = encode(&result);
    let kept = objects.outputs().map(|outputs| outputs.result_max_bytes);
    match fate(body.len(), terms, kept) {
        Fate::Whole => return result,
        Fate::Cut => {}
        Fate::ByReference { short_max_bytes } => match keep(&body, job, attempt, objects).await {
            Ok(reduced) => return result.reduced(short_max_bytes, reduced),
            Err(error) => {
                tracing::warn!(error, bytes = body.len(), "a large result could not be kept in the store");
            }
        },
    }
    if body.len() <= terms.message_max_bytes {
        return result;
    }
    result.reduced(terms.message_max_bytes, Reduced::Cut { size_bytes: body.len() as u64 })
}

async fn keep(body: &Bytes, job: &JobKey, attempt: &str, objects: &Objects) -> Result<Reduced, String> {
    let kept = timeout(KEEP_WITHIN, objects.keep_result(job, attempt, body.clone())).await;
    match kept {
        Ok(Ok(Some(reference))) => Ok(Reduced::ByReference {
            object: reference.to_string(),
            sha256: hex(&heavy(body.len(), || Sha256::digest(body))),
            size_bytes: body.len() as u64,
        }),
        Ok(Ok(None)) => Err("no store is configured".to_owned()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("not within {KEEP_WITHIN:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_small_goes_as_it_is_and_what_fits_nowhere_is_cut() {
        let terms = ResultTerms { message_max_bytes: 1000 };
        let by_reference = |above| Fate::ByReference { short_max_bytes: above };
        for (size, above, expected) in [
            (10, None, Fate::Whole),
            (1000, None, Fate::Whole),
            (1001, None, Fate::Cut),
            (10, Some(10), Fate::Whole),
            (11, Some(10), by_reference(10)),
            (5000, Some(10), by_reference(10)),
            (1001, Some(2000), by_reference(1000)),
            (1 + RESULT_MAX_BYTES as usize, Some(10), Fate::Cut),
        ] {
            assert_eq!(fate(size, terms, above), expected, "{size} {above:?}");
        }
    }
}
