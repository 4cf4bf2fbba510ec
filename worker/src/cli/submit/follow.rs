//! `hearth submit --follow`: one job's events as they come, then its result.

use std::time::Duration;

use hearth_schemas::{
    event::{Event, State, What},
    result::JobResult,
};
use hearth_worker::amqp::client::{ClientError, Followed, Replies, Reply};
use tokio::time::timeout;

use crate::cli::follow::Printer;

/// How long after a result its last events may take.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// What an event is after those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sifted {
    /// Seen before, or of an attempt that is void.
    Old,
    /// The next one, and how many were lost on the way before it.
    New { missed: u64 },
}

/// Tells events from their repeats.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sieve {
    attempt: u32,
    seq: u64,
}

impl Sieve {
    fn sift(&mut self, event: &Event) -> Sifted {
        let Event { attempt, seq, .. } = *event;
        // Nothing follows it. Whoever ends a job whose worker is silent may not know how far that one came.
        let last = matches!(event.what, What::State(State::Finished { .. }));
        if last && (attempt, seq) <= (self.attempt, self.seq) {
            return Sifted::New { missed: 0 };
        }
        if (attempt, seq) <= (self.attempt, self.seq) {
            return Sifted::Old;
        }
        let before = if attempt == self.attempt { self.seq } else { 0 };
        *self = Self { attempt, seq };
        Sifted::New { missed: seq.saturating_sub(before).saturating_sub(1) }
    }
}

/// Prints events until the result is there and all before it are printed. Blocks while nobody reads what it prints.
///
/// # Errors
/// The connection broke.
pub async fn until_result(
    printer: &mut Printer,
    sieve: &mut Sieve,
    events: &mut Followed,
    replies: &mut Replies,
) -> Result<Reply, ClientError> {
    let mut over = false;
    let reply = loop {
        tokio::select! {
            biased;
            event = events.next() => over |= print(printer, sieve, &event?),
            reply = replies.next() => break reply?,
        }
    };
    // Events come by another connection. A job that was refused has none, nor one whose result was there before, which
    // cannot be told.
    let refused = serde_json::from_slice(&reply.body).is_ok_and(|result: JobResult| result.refusal.is_some());
    let last = async {
        while !over && !refused {
            match events.next().await {
                Ok(event) => over = print(printer, sieve, &event),
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LAST_EVENTS, last).await;
    Ok(reply)
}

/// Prints one, unless it is old; whether it is the last.
fn print(printer: &mut Printer, sieve: &mut Sieve, event: &Event) -> bool {
    let Sifted::New { missed } = sieve.sift(event) else { return false };
    if missed > 0 {
        printer.note(&format!("{missed} events were lost on the way here"));
    }
    // Where nobody reads any more, the result is still waited for.
    let _ = printer.print(event);
    matches!(event.what, What::State(State::Finished { .. }))
}

#[cfg(test)]
mod tests {
    use hearth_schemas::{event::EVENT_VERSION, result::Status};

    use super::*;

    #[test]
    fn repeats_are_passed_over_gaps_are_counted_and_a_retry_begins_anew() {
        let mut sieve = Sieve::default();
        let mut sift = |attempt, seq| {
            let what = What::State(State::Uploading);
            let (id, tenant) = (String::new(), String::new());
            sieve.sift(&Event { version: EVENT_VERSION, id, tenant, attempt, seq, unix_ms: 0, what })
        };
        let new = |missed| Sifted::New { missed };
        assert_eq!([sift(0, 1), sift(0, 1), sift(1, 1), sift(1, 2)], [new(0), Sifted::Old, new(0), new(0)]);
        assert_eq!(
            [sift(1, 6), sift(1, 4), sift(2, 3), sift(1, 7)],
            [new(3), Sifted::Old, new(2), Sifted::Old]
        );
        let what = What::State(State::Finished { status: Status::Expired, verdict: None });
        let (id, tenant) = (String::new(), String::new());
        let last = Event { version: EVENT_VERSION, id, tenant, attempt: 2, seq: 1, unix_ms: 0, what };
        assert_eq!(sieve.sift(&last), new(0), "the end is never old");
    }
}
