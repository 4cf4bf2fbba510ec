//! Many jobs, some of them under way.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use hearth_worker::amqp::client::{ClientError, JobClient, JobSender, Replies, Reply};
use tokio::sync::mpsc;

use super::{Arguments, RECONNECT_PAUSE, RECONNECTS_MAX, failure, trace, whole::Whole};
use crate::{
    cli::{
        batch::{self, Done, Line, Results, Tally},
        exit::{Exit, Failure, chain},
        interrupt::Interrupted,
    },
    config::Config,
};

/// Jobs that wait for the broker's confirm at once.
const UNCONFIRMED_MAX: usize = 64;
/// How often results are handed to the system.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// A batch on its way.
struct Batch<'a> {
    arguments: &'a Arguments,
    /// What was sent or is to be sent and has no result that is written, by line.
    pending: BTreeMap<u64, Pending>,
    /// Their lines by id.
    numbers: HashMap<String, u64>,
    done: Done,
    results: Results,
    whole: Whole,
    tally: Tally,
    lines: mpsc::Receiver<Result<Line, Failure>>,
    read_all: bool,
}

struct Pending {
    line: Line,
    /// For when results are written in order.
    result: Option<Bytes>,
}

/// Why a connection is over.
enum Over {
    Done,
    Broken(ClientError),
}

/// Sends the batch, writes its results.
pub async fn run(config: &Config, arguments: &Arguments, path: &Path) -> Result<Exit, Failure> {
    let mut interrupted = Interrupted::listen()?;
    let lines = batch::read(path)?;
    let whole = Whole::open(arguments.objects.as_deref())?;
    let (results, done) = Results::open(arguments.out.as_deref(), arguments.resume)?;
    let tally = Tally::new(config, batch::count(path), done.not_accepted());
    let (pending, numbers) = (BTreeMap::new(), HashMap::new());
    let mut all = Batch { arguments, pending, numbers, done, results, whole, tally, lines, read_all: false };
    let went = tokio::select! {
        went = all.go() => went,
        failure = interrupted.wait() => Err(failure),
    };
    all.results.flush()?;
    let accepted = all.tally.finish();
    went?;
    Ok(if accepted { Exit::Accepted } else { Exit::NotAccepted })
}

impl Batch<'_> {
    async fn go(&mut self) -> Result<(), Failure> {
        let (endpoint, names) = (self.arguments.broker.endpoint()?, self.arguments.broker.names()?);
        let mut failures = 0;
        loop {
            let error = match JobClient::connect(&endpoint, &names).await {
                Ok(client) => {
                    let (sender, mut replies) = client.split();
                    let sender = sender.with_trace(trace());
                    let before = self.done.len();
                    match self.converse(&sender, &mut replies).await? {
                        Over::Done => return Ok(()),
                        Over::Broken(error) => {
                            failures = if self.done.len() > before { 0 } else { failures };
                            error
                        }
                    }
                }
                Err(error) => error,
            };
            failures += 1;
            // Where nobody has ever been nobody will come while we wait; a broker that is away comes back.
            if matches!(error, ClientError::NoIntake(_)) || failures > RECONNECTS_MAX || self.never_sent() {
                return Err(failure(&error));
            }
            tracing::warn!(error = chain(&error), "the broker is away; what has no result is sent again");
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    fn never_sent(&self) -> bool {
        self.pending.is_empty() && self.done.len() == 0
    }

    /// One connection: first what was sent before without a result, then what is still to be read.
    async fn converse(&mut self, sender: &JobSender, replies: &mut Replies) -> Result<Over, Failure> {
        let unanswered = self.pending.iter().filter(|(_, pending)| pending.result.is_none());
        let mut again: Vec<_> = unanswered.map(|(number, _)| *number).rev().collect();
        let mut sending = FuturesUnordered::new();
        let mut flush = tokio::time::interval(FLUSH_EVERY);
        loop {
            while sending.len() < UNCONFIRMED_MAX
                && let Some(number) = again.pop()
            {
                if let Some(Pending { line: Line { id, body, .. }, .. }) = self.pending.get(&number) {
                    sending.push(send(sender, id.clone(), body.clone()));
                }
            }
            if self.read_all && self.pending.is_empty() {
                return Ok(Over::Done);
            }
            let room = self.pending.len() < self.arguments.window as usize;
            tokio::select! {
                sent = sending.next(), if !sending.is_empty() => {
                    if let Some(Err(error)) = sent {
                        return Ok(Over::Broken(error));
                    }
                }
                reply = replies.next() => match reply {
                    Ok(reply) => {
                        reply.seen().await;
                        self.answered(reply).await?;
                    }
                    Err(error) => return Ok(Over::Broken(error)),
                },
                line = self.lines.recv(), if room && !self.read_all && sending.len() < UNCONFIRMED_MAX => {
                    match line {
                        None => self.read_all = true,
                        Some(line) => again.extend(self.take(line?)),
                    }
                }
                _ = flush.tick() => self.results.flush()?,
            }
        }
    }

    /// Notes a job that was read; its line, when it is to be sent.
    fn take(&mut self, line: Line) -> Option<u64> {
        let number = line.number;
        if self.done.contains(&line.id) || self.numbers.contains_key(&line.id) {
            self.tally.skip();
            return None;
        }
        self.numbers.insert(line.id.clone(), number);
        self.pending.insert(number, Pending { line, result: None });
        Some(number)
    }

    async fn answered(&mut self, reply: Reply) -> Result<(), Failure> {
        let Some(number) = self.numbers.remove(&reply.id) else {
            self.tally.repeat();
            return Ok(());
        };
        self.done.insert(&reply.id);
        self.tally.result(&reply.body);
        let body = self.whole.of(reply.body).await;
        if !self.arguments.ordered {
            self.pending.remove(&number);
            return self.results.write(&body);
        }
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.line.answered();
            pending.result = Some(body);
        }
        while let Some(first) = self.pending.first_entry()
            && let Some(result) = first.get().result.clone()
        {
            first.remove();
            self.results.write(&result)?;
        }
        Ok(())
    }
}

async fn send(sender: &JobSender, id: String, body: Bytes) -> Result<(), ClientError> {
    sender.send(&id, &body).await
}
