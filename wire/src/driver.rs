//! The task that owns the pipe and the mux.

use std::{collections::HashMap, io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use hearth_schemas::{
    guest::{
        PRELUDE, frame,
        mux::{Direction, Mux, Received, Side, Step},
    },
    limits::{FRAME_COST_UNITS, FRAME_MAX_BYTES, STREAMS_MAX, WINDOW_UNITS},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc, oneshot, watch},
};

use crate::{
    connection::ConnectionError,
    stream::{SEND_BUFFER_UNITS, Stream, Unbound},
};

/// Streams that the peer may have opened and nobody taken yet.
pub(crate) const OPENED_MAX: usize = STREAMS_MAX;
/// Frames that one window of credit can hold, and the end.
const INBOUND_MAX: usize = (WINDOW_UNITS / FRAME_COST_UNITS) as usize + 2;
/// Bytes before the prelude that are forgiven: a serial line may have carried a console.
const NOISE_MAX_BYTES: usize = 256 * 1024;
/// The out-buffer is refilled below this, so that control waits for little data.
const OUT_LOW_BYTES: usize = FRAME_MAX_BYTES;

/// How many commands may be obeyed before bytes are moved again.
const COMMANDS_AT_ONCE: usize = 32;

/// What handles ask of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Open {
        direction: Direction,
        /// A control message that goes out with the opening, within the credit that every stream begins with.
        first: Option<Bytes>,
        answer: oneshot::Sender<Option<Unbound>>,
    },
    Take {
        id: u32,
        answer: oneshot::Sender<Option<Unbound>>,
    },
    Control {
        id: u32,
        bytes: Bytes,
    },
    Data {
        id: u32,
        bytes: Bytes,
    },
    End {
        id: u32,
    },
    Consumed {
        id: u32,
        units: u32,
    },
    /// Nobody reads this stream any more.
    Abandon {
        id: u32,
    },
}

struct Local {
    inbound: mpsc::Sender<Received>,
    room: Arc<Semaphore>,
}

pub(crate) struct Driver {
    mux: Mux,
    streams: HashMap<u32, Local>,
    /// One-way streams that the host opened, until a request names them.
    parked: HashMap<u32, Unbound>,
    /// Weak, so that the pipe closes when every handle is gone.
    commands: mpsc::WeakSender<Command>,
    announce: mpsc::Sender<Stream>,
    ended: watch::Receiver<Option<ConnectionError>>,
    greeted: bool,
    noise: usize,
}

impl Driver {
    pub(crate) fn new(
        side: Side,
        commands: mpsc::WeakSender<Command>,
        announce: mpsc::Sender<Stream>,
        ended: watch::Receiver<Option<ConnectionError>>,
    ) -> (Self, Unbound) {
        let mut driver = Self {
            mux: Mux::new(side),
            streams: HashMap::new(),
            parked: HashMap::new(),
            commands,
            announce,
            ended,
            greeted: false,
            noise: 0,
        };
        let zero = driver.local(0);
        (driver, zero)
    }

    /// Moves bytes until the peer or the last handle is gone.
    pub(crate) async fn run<T>(mut self, io: T, mut commands: mpsc::Receiver<Command>) -> ConnectionError
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reader, mut writer) = tokio::io::split(io);
        let mut inward = BytesMut::with_capacity(2 * FRAME_MAX_BYTES);
        let mut outward = BytesMut::from(&PRELUDE[..]);
        let why = loop {
            self.fill(&mut outward);
            tokio::select! {
                read = reader.read_buf(&mut inward) => {
                    if let Err(why) = self.arrived(read, &mut inward) {
                        break why;
                    }
                }
                written = writer.write_buf(&mut outward), if !outward.is_empty() => {
                    if let Err(error) = written {
                        break ConnectionError::Io(Arc::new(error));
                    }
                    if outward.is_empty() && let Err(error) = writer.flush().await {
                        break ConnectionError::Io(Arc::new(error));
                    }
                }
                command = commands.recv() => match command {
                    // Together with what else was asked by now: each write costs as much as a small message.
                    Some(command) => {
                        self.obey(command);
                        for _ in 0..COMMANDS_AT_ONCE {
                            let Ok(command) = commands.try_recv() else { break };
                            if matches!(command, Command::Abandon { .. }) {
                                // It takes back what was queued on its stream: let that be on its way before.
                                self.fill(&mut outward);
                            }
                            self.obey(command);
                        }
                    }
                    None if outward.is_empty() => break ConnectionError::Closed,
                    None => break last_words(&mut writer, &mut outward).await,
                },
            }
        };
        self.streams.values().for_each(|local| local.room.close());
        why
    }

    /// Encodes what may be sent, up to the low mark.
    fn fill(&mut self, outward: &mut BytesMut) {
        while outward.len() < OUT_LOW_BYTES {
            let Some(next) = self.mux.transmit() else { break };
            if matches!(next.kind, frame::Kind::Control | frame::Kind::Data)
                && let Some(local) = self.streams.get(&next.stream)
            {
                local.room.add_permits(next.payload.len() + FRAME_COST_UNITS as usize);
            }
            if next.kind == frame::Kind::End {
                self.drop_if_closed(next.stream);
            }
            frame::encode(&next, outward);
        }
    }

    fn drop_if_closed(&mut self, id: u32) {
        if !self.mux.known(id) {
            self.streams.remove(&id);
        }
    }

    fn arrived(&mut self, read: io::Result<usize>, inward: &mut BytesMut) -> Result<(), ConnectionError> {
        match read {
            Ok(0) => return Err(ConnectionError::Closed),
            Ok(_) => {}
            Err(error) => return Err(ConnectionError::Io(Arc::new(error))),
        }
        if !self.greeted && !self.skip_to_prelude(inward)? {
            return Ok(());
        }
        while let Some(frame) = frame::decode(inward)? {
            match self.mux.receive(frame)? {
                Step::Nothing => {}
                Step::Opened(id, direction) => self.opened(id, direction),
                Step::Deliver(id, received) => self.deliver(id, received),
            }
        }
        Ok(())
    }

    fn skip_to_prelude(&mut self, inward: &mut BytesMut) -> Result<bool, ConnectionError> {
        let found = inward.windows(PRELUDE.len()).position(|window| window == PRELUDE);
        let skip = found.unwrap_or_else(|| inward.len().saturating_sub(PRELUDE.len() - 1));
        inward.advance(skip);
        self.noise += skip;
        if self.noise > NOISE_MAX_BYTES {
            return Err(ConnectionError::NoPrelude(NOISE_MAX_BYTES));
        }
        if found.is_some() {
            inward.advance(PRELUDE.len());
            self.greeted = true;
        }
        Ok(self.greeted)
    }

    fn opened(&mut self, id: u32, direction: Direction) {
        let stream = self.local(id);
        if direction != Direction::Both {
            self.parked.insert(id, stream);
            return;
        }
        let announced = self.commands.upgrade().map(|commands| self.announce.try_send(stream.bind(commands)));
        if !matches!(announced, Some(Ok(()))) {
            self.forget(id);
        }
    }

    fn deliver(&mut self, id: u32, received: Received) {
        let (end, reset) = (received == Received::End, received == Received::Reset);
        let Some(local) = self.streams.get(&id) else { return };
        // The queue holds more frames than any window: sending fails only when nobody reads.
        let unread = local.inbound.try_send(received).is_err();
        if reset {
            local.room.close();
        }
        if end || reset {
            self.drop_if_closed(id);
        } else if unread {
            self.forget(id);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open { direction, first, answer } => {
                if self.streams.len() >= STREAMS_MAX / 2 {
                    self.sweep();
                }
                let Some(id) = self.mux.open(direction) else {
                    let _ = answer.send(None);
                    return;
                };
                let stream = self.local(id);
                if let Some(first) = first {
                    if let Ok(taken) = stream.room.try_acquire_many(cost_units(&first)) {
                        taken.forget();
                    }
                    self.mux.send_control(id, first);
                }
                if answer.send(Some(stream)).is_err() {
                    self.forget(id);
                }
            }
            Command::Take { id, answer } => {
                if answer.send(self.parked.remove(&id)).is_err() {
                    self.forget(id);
                }
            }
            Command::Control { id, bytes } => drop(self.mux.send_control(id, bytes)),
            Command::Data { id, bytes } => drop(self.mux.send_data(id, bytes)),
            Command::End { id } => drop(self.mux.send_end(id)),
            Command::Consumed { id, units } => self.mux.consumed(id, units),
            Command::Abandon { id } => self.abandon(id),
        }
    }

    /// Nobody reads this stream any more: what the peer would still send is refused.
    fn abandon(&mut self, id: u32) {
        if self.mux.receiving(id) {
            self.forget(id);
        }
    }

    /// Finds streams whose handles were dropped while the command queue was full.
    fn sweep(&mut self) {
        let dropped = |local: &Local| (Arc::strong_count(&local.room) == 1, local.inbound.is_closed());
        let states: Vec<_> = self.streams.iter().map(|(id, local)| (*id, dropped(local))).collect();
        for (id, (no_sender, no_reader)) in states {
            if no_sender {
                self.mux.send_end(id);
            }
            if no_reader {
                self.abandon(id);
            }
        }
    }

    fn forget(&mut self, id: u32) {
        self.mux.reset(id);
        if let Some(local) = self.streams.remove(&id) {
            local.room.close();
        }
    }

    fn local(&mut self, id: u32) -> Unbound {
        let (inbound, queue) = mpsc::channel(INBOUND_MAX);
        let room = Arc::new(Semaphore::new(SEND_BUFFER_UNITS));
        self.streams.insert(id, Local { inbound, room: room.clone() });
        Unbound { id, inbound: queue, room, ended: self.ended.clone() }
    }
}

/// What a message takes of a stream's buffer.
fn cost_units(message: &Bytes) -> u32 {
    u32::try_from(message.len()).unwrap_or(u32::MAX).saturating_add(FRAME_COST_UNITS)
}

/// Every handle is gone: what was already encoded still goes out.
async fn last_words(writer: &mut (impl AsyncWrite + Unpin), outward: &mut BytesMut) -> ConnectionError {
    match writer.write_all_buf(outward).await {
        Ok(()) => ConnectionError::Closed,
        Err(error) => ConnectionError::Io(Arc::new(error)),
    }
}
