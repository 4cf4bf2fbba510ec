//! The state of one connection: who may send what, in which order. Pure; the `wire` crate moves the bytes.
//!
//! Every frame of a stream costs its payload plus [`FRAME_COST_UNITS`] of the credit that its receiver gave
//! ([`WINDOW_UNITS`] to begin with). A receiver therefore never holds more than a window for a stream, however
//! hostile its peer. Streams are served in turn; control goes before data, except within one stream, which keeps
//! its order.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, Bytes};

use super::frame::{Frame, Kind};
use crate::limits::{FRAME_COST_UNITS, STREAMS_MAX, WINDOW_UNITS};

/// Which end of the connection this is. Only the host opens streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Opens streams; knows every stream the peer may speak on.
    Host,
    /// Learns of a stream by its open frame.
    Agent,
}

/// Which ways bytes go on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both.
    Both,
    /// This side only sends.
    Send,
    /// This side only receives.
    Receive,
}

impl Direction {
    fn to_byte(self) -> u8 {
        match self {
            Self::Both => 0,
            Self::Send => 1,
            Self::Receive => 2,
        }
    }

    /// What the sender of this byte calls its direction, seen from here.
    fn from_peer(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Both),
            1 => Some(Self::Receive),
            2 => Some(Self::Send),
            _ => None,
        }
    }
}

/// What a received frame means to the stream's reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A control message, with what it cost.
    Control(Bytes),
    /// Data.
    Data(Bytes),
    /// The peer sends no more.
    End,
    /// The peer has forgotten the stream.
    Reset,
}

impl Received {
    /// What the reader gives back by [`Mux::consumed`] once it has dealt with this.
    pub fn cost(&self) -> u32 {
        match self {
            Self::Control(bytes) | Self::Data(bytes) => cost(bytes.len()),
            Self::End | Self::Reset => 0,
        }
    }
}

/// The result of one frame from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The peer opened a stream; the direction is this side's.
    Opened(u32, Direction),
    /// Something for the reader of a stream.
    Deliver(u32, Received),
    /// Nothing for a reader: credit arrived, or a frame for a stream that is closed here.
    Nothing,
}

/// What a well-behaved peer never does. The connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A frame on a stream that this side never opened.
    #[error("frame on stream {0}, which was never opened")]
    NeverOpened(u32),
    /// More than the credit it had.
    #[error("peer sent more on stream {0} than it had credit for")]
    Overdrawn(u32),
    /// A frame after the end.
    #[error("peer sent on stream {0} after its end")]
    AfterEnd(u32),
    /// A stream opened by the side that may not, opened twice, or with an unknown direction.
    #[error("stream {0} may not be opened like this")]
    BadOpen(u32),
    /// Too many streams at once.
    #[error("peer opened more than {STREAMS_MAX} streams")]
    TooManyStreams,
    /// Credit beyond what was used.
    #[error("peer gave more credit on stream {0} than was used")]
    TooMuchCredit(u32),
}

#[derive(Debug)]
enum Item {
    Control(Bytes),
    Data(Bytes),
    End,
}

#[derive(Debug)]
struct Stream {
    send_credit: u32,
    receive_credit: u32,
    consumed: u32,
    queue: VecDeque<Item>,
    sent_end: bool,
    received_end: bool,
}

impl Stream {
    fn new(direction: Direction) -> Self {
        Self {
            send_credit: WINDOW_UNITS,
            receive_credit: WINDOW_UNITS,
            consumed: 0,
            queue: VecDeque::new(),
            sent_end: direction == Direction::Receive,
            received_end: direction == Direction::Send,
        }
    }

    fn closed(&self) -> bool {
        self.sent_end && self.received_end
    }

    fn sendable(&self) -> Option<&Item> {
        self.queue.front().filter(|item| match item {
            Item::Control(bytes) | Item::Data(bytes) => cost(bytes.len()) <= self.send_credit,
            Item::End => true,
        })
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    streams: BTreeMap<u32, Stream>,
    /// Streams up to here have been opened, now or earlier.
    newest: u32,
    /// The stream that sent last, so that the next turn is another's.
    turn: u32,
    /// Credit and resets: they cost nothing and go first.
    urgent: VecDeque<Frame>,
}

fn cost(payload_bytes: usize) -> u32 {
    payload_bytes as u32 + FRAME_COST_UNITS
}

impl Mux {
    /// A fresh connection. Stream 0 is open.
    pub fn new(side: Side) -> Self {
        let streams = BTreeMap::from([(0, Stream::new(Direction::Both))]);
        Self { side, streams, newest: 0, turn: 0, urgent: VecDeque::new() }
    }

    /// Opens a stream and tells the peer. `None` when [`STREAMS_MAX`] are open, or on the agent's side.
    pub fn open(&mut self, direction: Direction) -> Option<u32> {
        if self.side == Side::Agent || self.streams.len() >= STREAMS_MAX {
            return None;
        }
        self.newest += 1;
        self.streams.insert(self.newest, Stream::new(direction));
        let payload = Bytes::copy_from_slice(&[direction.to_byte()]);
        self.urgent.push_back(Frame { stream: self.newest, kind: Kind::Open, payload });
        Some(self.newest)
    }

    /// Queues a control message. `false` when the stream is closed for sending.
    pub fn send_control(&mut self, id: u32, message: Bytes) -> bool {
        self.enqueue(id, Item::Control(message))
    }

    /// Queues data of at most one frame. `false` when the stream is closed for sending.
    pub fn send_data(&mut self, id: u32, data: Bytes) -> bool {
        self.enqueue(id, Item::Data(data))
    }

    /// Queues the end. `false` when the stream is closed for sending.
    pub fn send_end(&mut self, id: u32) -> bool {
        self.enqueue(id, Item::End)
    }

    fn enqueue(&mut self, id: u32, item: Item) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        if stream.sent_end || matches!(stream.queue.back(), Some(Item::End)) {
            return false;
        }
        stream.queue.push_back(item);
        true
    }

    /// Forgets a stream and tells the peer.
    pub fn reset(&mut self, id: u32) {
        if id != 0 && self.streams.remove(&id).is_some() {
            self.urgent.push_back(Frame { stream: id, kind: Kind::Reset, payload: Bytes::new() });
        }
    }

    /// The reader has dealt with what cost this much; the peer gets its credit back, half a window at a time.
    pub fn consumed(&mut self, id: u32, units: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.consumed += units;
        if stream.consumed < WINDOW_UNITS / 2 || stream.received_end {
            return;
        }
        let credit = std::mem::take(&mut stream.consumed);
        stream.receive_credit += credit;
        let payload = Bytes::copy_from_slice(&credit.to_le_bytes());
        self.urgent.push_back(Frame { stream: id, kind: Kind::Credit, payload });
    }

    /// Takes one frame from the peer.
    pub fn receive(&mut self, frame: Frame) -> Result<Step, Violation> {
        let id = frame.stream;
        if frame.kind == Kind::Open {
            return self.opened(id, &frame.payload);
        }
        if id > self.newest {
            return Err(Violation::NeverOpened(id));
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(Step::Nothing) };
        let received = match frame.kind {
            Kind::Credit => {
                let more = frame.payload.clone().try_get_u32_le().unwrap_or(0);
                stream.send_credit = stream
                    .send_credit
                    .checked_add(more)
                    .filter(|credit| *credit <= WINDOW_UNITS)
                    .ok_or(Violation::TooMuchCredit(id))?;
                return Ok(Step::Nothing);
            }
            Kind::Reset if id == 0 => return Err(Violation::BadOpen(0)),
            Kind::Reset | Kind::Open => {
                self.streams.remove(&id);
                return Ok(Step::Deliver(id, Received::Reset));
            }
            Kind::Control => Received::Control(frame.payload),
            Kind::Data => Received::Data(frame.payload),
            Kind::End => Received::End,
        };
        if stream.received_end {
            return Err(Violation::AfterEnd(id));
        }
        stream.receive_credit =
            stream.receive_credit.checked_sub(received.cost()).ok_or(Violation::Overdrawn(id))?;
        stream.received_end = received == Received::End;
        self.forget_if_closed(id);
        Ok(Step::Deliver(id, received))
    }

    fn opened(&mut self, id: u32, payload: &[u8]) -> Result<Step, Violation> {
        let direction = payload.first().copied().and_then(Direction::from_peer);
        let (Side::Agent, Some(direction), true) = (self.side, direction, id > self.newest) else {
            return Err(Violation::BadOpen(id));
        };
        if self.streams.len() >= STREAMS_MAX {
            return Err(Violation::TooManyStreams);
        }
        self.newest = id;
        self.streams.insert(id, Stream::new(direction));
        Ok(Step::Opened(id, direction))
    }

    /// The next frame to put on the wire, if credit allows one.
    pub fn transmit(&mut self) -> Option<Frame> {
        if let Some(frame) = self.urgent.pop_front() {
            return Some(frame);
        }
        let id = self.pick(|item| !matches!(item, Item::Data(_))).or_else(|| self.pick(|_| true))?;
        let stream = self.streams.get_mut(&id)?;
        let item = stream.queue.pop_front()?;
        let (kind, payload) = match item {
            Item::Control(bytes) => (Kind::Control, bytes),
            Item::Data(bytes) => (Kind::Data, bytes),
            Item::End => (Kind::End, Bytes::new()),
        };
        match kind {
            Kind::End => stream.sent_end = true,
            _ => stream.send_credit -= cost(payload.len()),
        }
        if kind == Kind::Data {
            self.turn = id;
        }
        self.forget_if_closed(id);
        Some(Frame { stream: id, kind, payload })
    }

    fn pick(&self, wanted: impl Fn(&Item) -> bool) -> Option<u32> {
        let ready =
            |(id, stream): (&u32, &Stream)| stream.sendable().filter(|item| wanted(item)).map(|_| *id);
        let after = self.streams.range(self.turn.saturating_add(1)..).find_map(ready);
        after.or_else(|| self.streams.range(..=self.turn).find_map(ready))
    }

    /// Whether the stream is open in at least one direction.
    pub fn known(&self, id: u32) -> bool {
        self.streams.contains_key(&id)
    }

    /// Whether the peer may still send on the stream.
    pub fn receiving(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| !stream.received_end)
    }

    fn forget_if_closed(&mut self, id: u32) {
        if id != 0 && self.streams.get(&id).is_some_and(Stream::closed) {
            self.streams.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::DATA_CHUNK_BYTES;

    fn carry(from: &mut Mux, to: &mut Mux) -> Vec<Step> {
        std::iter::from_fn(|| from.transmit()).map(|frame| to.receive(frame).expect("well-behaved")).collect()
    }

    #[test]
    fn data_stops_at_the_window_and_goes_on_when_it_was_consumed() {
        let (mut host, mut agent) = (Mux::new(Side::Host), Mux::new(Side::Agent));
        let id = host.open(Direction::Both).unwrap();
        let chunk = Bytes::from(vec![0; DATA_CHUNK_BYTES]);
        for _ in 0..40 {
            assert!(host.send_data(id, chunk.clone()));
        }
        let first = carry(&mut host, &mut agent);
        let per_window = (WINDOW_UNITS / cost(DATA_CHUNK_BYTES)) as usize;
        assert_eq!(first.len(), 1 + per_window, "the open and one window of data");
        agent.consumed(id, WINDOW_UNITS / 2);
        carry(&mut agent, &mut host);
        let left_over = WINDOW_UNITS % cost(DATA_CHUNK_BYTES);
        let more = (WINDOW_UNITS / 2 + left_over) / cost(DATA_CHUNK_BYTES);
        assert_eq!(carry(&mut host, &mut agent).len(), more as usize);
    }

    #[test]
    fn control_on_another_stream_overtakes_queued_data() {
        let mut host = Mux::new(Side::Host);
        let (bulk, urgent) = (host.open(Direction::Both).unwrap(), host.open(Direction::Both).unwrap());
        for _ in 0..10 {
            host.send_data(bulk, Bytes::from_static(b"x"));
        }
        host.send_control(urgent, Bytes::from_static(b"kill"));
        let order: Vec<_> =
            std::iter::from_fn(|| host.transmit()).map(|frame| (frame.stream, frame.kind)).collect();
        assert_eq!(order[2], (urgent, Kind::Control), "right behind the two opens");
    }

    #[test]
    fn one_stream_keeps_its_order() {
        let mut host = Mux::new(Side::Host);
        let id = host.open(Direction::Both).unwrap();
        host.send_data(id, Bytes::from_static(b"a"));
        host.send_control(id, Bytes::from_static(b"b"));
        host.send_end(id);
        let kinds: Vec<_> = std::iter::from_fn(|| host.transmit()).map(|frame| frame.kind).collect();
        assert_eq!(kinds, [Kind::Open, Kind::Data, Kind::Control, Kind::End]);
    }

    #[test]
    fn a_peer_that_overdraws_is_a_violation() {
        let mut agent = Mux::new(Side::Agent);
        agent.receive(Frame { stream: 1, kind: Kind::Open, payload: Bytes::from_static(&[0]) }).unwrap();
        let frame = Frame { stream: 1, kind: Kind::Data, payload: Bytes::from(vec![0; DATA_CHUNK_BYTES]) };
        let outcome = (0..40).try_for_each(|_| agent.receive(frame.clone()).map(drop));
        assert_eq!(outcome, Err(Violation::Overdrawn(1)));
    }

    #[test]
    fn the_host_knows_every_stream_that_may_speak() {
        let mut host = Mux::new(Side::Host);
        let data = |stream| Frame { stream, kind: Kind::Data, payload: Bytes::new() };
        assert_eq!(host.receive(data(1)), Err(Violation::NeverOpened(1)));
        let id = host.open(Direction::Both).unwrap();
        host.reset(id);
        assert_eq!(
            host.receive(data(id)),
            Ok(Step::Nothing),
            "late frames of a forgotten stream are ignored"
        );
        let open = Frame { stream: 9, kind: Kind::Open, payload: Bytes::from_static(&[0]) };
        assert_eq!(host.receive(open), Err(Violation::BadOpen(9)));
    }

    #[test]
    fn a_stream_is_forgotten_when_both_sides_have_ended() {
        let (mut host, mut agent) = (Mux::new(Side::Host), Mux::new(Side::Agent));
        let both = host.open(Direction::Both).unwrap();
        let receive = host.open(Direction::Receive).unwrap();
        host.send_end(both);
        carry(&mut host, &mut agent);
        agent.send_end(both);
        agent.send_end(receive);
        carry(&mut agent, &mut host);
        assert_eq!((host.streams.len(), agent.streams.len()), (1, 1), "only stream 0 is left");
    }

    proptest! {
        #[test]
        fn hostile_frames_never_panic_and_never_exceed_the_window(
            side in prop_oneof![Just(Side::Host), Just(Side::Agent)],
            frames in proptest::collection::vec((0u32..6, 0u8..6, 0usize..70_000), 0..200)
        ) {
            let mut mux = Mux::new(side);
            mux.open(Direction::Both);
            let mut held = BTreeMap::<u32, u64>::new();
            for (stream, kind, len) in frames {
                let kind = [Kind::Control, Kind::Data, Kind::Credit, Kind::End, Kind::Reset, Kind::Open][kind as usize];
                let payload = Bytes::from(vec![1u8; len]);
                let Ok(step) = mux.receive(Frame { stream, kind, payload }) else { break };
                if let Step::Deliver(id, received) = step {
                    *held.entry(id).or_default() += u64::from(received.cost());
                    prop_assert!(held[&id] <= u64::from(WINDOW_UNITS));
                }
            }
        }
    }
}
