//! A client of QEMU's machine protocol (docs/interop/qmp-spec.rst of QEMU): JSON objects, one a line.

pub mod commands;

use std::{collections::VecDeque, io, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// Longest line taken from QEMU, in bytes. The longest answer that is asked for has a few KiB.
const LINE_MAX_BYTES: u64 = 1024 * 1024;
/// Events kept for [`Qmp::event`]; beyond that the oldest go.
const EVENTS_MAX: usize = 64;

/// A command and its answer.
pub trait Command: Serialize + Sync {
    /// Its name in QEMU's schema.
    const NAME: &'static str;
    /// What QEMU returns.
    type Return: DeserializeOwned;
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket failed.
    #[error("QMP socket")]
    Io(#[from] io::Error),
    /// QEMU closed it.
    #[error("QEMU closed its QMP socket")]
    Closed,
    /// QEMU said what it never says.
    #[error("QMP {context}: {line:.200}")]
    Protocol {
        /// What was expected.
        context: &'static str,
        /// What came.
        line: String,
    },
    /// QEMU refused the command.
    #[error("{command}: {desc} ({class})")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's class of error.
        class: String,
        /// QEMU's words.
        desc: String,
    },
    /// No answer in time.
    #[error("{command} took longer than {limit:?}")]
    Timeout {
        /// The command, or the event waited for.
        command: &'static str,
        /// The bound.
        limit: Duration,
    },
}

/// Something that happened in QEMU.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// Its name, such as `MIGRATION`.
    #[serde(rename = "event")]
    pub name: String,
    /// Its data, or null.
    #[serde(default)]
    pub data: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Event(Event),
    Error { id: Option<u64>, error: RefusedBody },
    Return { id: Option<u64>, r#return: serde_json::Value },
}

#[derive(Deserialize)]
struct RefusedBody {
    class: String,
    desc: String,
}

#[derive(Serialize)]
struct Call<'a, C> {
    execute: &'static str,
    arguments: &'a C,
    id: u64,
}

/// A connection in command mode.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// A line of which a cancelled read has taken the first part.
    partial: Vec<u8>,
    events: VecDeque<Event>,
    last_id: u64,
    limit: Duration,
}

impl Qmp {
    /// Takes QEMU's greeting and leaves negotiation mode. Every later command has `limit` to be answered.
    pub async fn open(socket: UnixStream, limit: Duration) -> Result<Self, QmpError> {
        let (reader, writer) = socket.into_split();
        let mut qmp = Self {
            reader: BufReader::new(reader),
            writer,
            partial: Vec::new(),
            events: VecDeque::new(),
            last_id: 0,
            limit,
        };
        let greeting = timeout(limit, qmp.line()).await;
        let greeting = greeting.map_err(|_| QmpError::Timeout { command: "greeting", limit })??;
        if !greeting.starts_with(b"{\"QMP\":") {
            return Err(odd("greeting", &greeting));
        }
        qmp.execute(&commands::Capabilities {}).await?;
        Ok(qmp)
    }

    /// Runs a command. Cancel safe in that the answer to a cancelled command is skipped by the next one; the command
    /// itself may or may not have run.
    pub async fn execute<C: Command>(&mut self, command: &C) -> Result<C::Return, QmpError> {
        let limit = self.limit;
        let answered = timeout(limit, self.exchange(command)).await;
        answered.map_err(|_| QmpError::Timeout { command: C::NAME, limit })?
    }

    async fn exchange<C: Command>(&mut self, command: &C) -> Result<C::Return, QmpError> {
        self.last_id += 1;
        let id = self.last_id;
        let mut line = serde_json::to_vec(&Call { execute: C::NAME, arguments: command, id })
            .map_err(io::Error::from)?;
        // Ends what a cancelled write may have left unfinished; QEMU skips white space.
        line.push(b'\n');
        self.writer.write_all(&line).await?;
        loop {
            let line = self.line().await?;
            match serde_json::from_slice(&line).map_err(|_| odd("answer", &line))? {
                Line::Event(event) => self.keep(event),
                Line::Error { id: answered, error } if answered == Some(id) => {
                    return Err(QmpError::Refused { command: C::NAME, class: error.class, desc: error.desc });
                }
                Line::Return { id: answered, r#return } if answered == Some(id) => {
                    return serde_json::from_value(r#return).map_err(|_| odd(C::NAME, &line));
                }
                // Of a command that was cancelled.
                Line::Error { .. } | Line::Return { .. } => {}
            }
        }
    }

    /// The next event that `wanted` maps to something; others are dropped. Events that came during commands are kept.
    pub async fn event<T>(
        &mut self,
        what: &'static str,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, QmpError> {
        while let Some(event) = self.events.pop_front() {
            if let Some(found) = wanted(&event) {
                return Ok(found);
            }
        }
        let limit = self.limit;
        let waiting = async {
            loop {
                let line = self.line().await?;
                if let Ok(event) = serde_json::from_slice(&line)
                    && let Some(found) = wanted(&event)
                {
                    return Ok(found);
                }
            }
        };
        timeout(limit, waiting).await.map_err(|_| QmpError::Timeout { command: what, limit })?
    }

    fn keep(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// One line without its end. Cancel safe: what was read is kept.
    async fn line(&mut self) -> Result<Vec<u8>, QmpError> {
        let room = LINE_MAX_BYTES.saturating_sub(self.partial.len() as u64);
        let count = (&mut self.reader).take(room).read_until(b'\n', &mut self.partial).await?;
        let mut line = std::mem::take(&mut self.partial);
        match line.pop() {
            Some(b'\n') => Ok(line),
            None => Err(QmpError::Closed),
            Some(_) if count == 0 || (line.len() as u64) < LINE_MAX_BYTES - 1 => Err(QmpError::Closed),
            Some(_) => Err(odd("endless line", &line)),
        }
    }
}

fn odd(context: &'static str, line: &[u8]) -> QmpError {
    QmpError::Protocol { context, line: String::from_utf8_lossy(line).into_owned() }
}
