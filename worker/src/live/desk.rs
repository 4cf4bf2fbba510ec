//! Puts what a job does and what it prints into one order, however late its output comes. Pure.
//!
//! Output that comes over a connection of its own may be behind what the worker knows already. So the end of a stage, and
//! all that follows it, waits here until that stage's output is there, or is known not to come.

use std::{collections::VecDeque, sync::Arc};

use hearth_schemas::{
    backlog::{Backlog, Item, Lost},
    event::{Chunk, Dropped, LiveBy, OutputStream, State, What},
    limits::{LIVE_CHUNK_BYTES, LIVE_HOST_BACKLOG_BYTES},
    result::{Cause, Payload, Verdict},
};

/// Where output comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    stage: Arc<str>,
    case: Option<Arc<str>>,
    stream: OutputStream,
}

/// How a stage, or one of its cases, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageEnd {
    /// What it did.
    pub verdict: Verdict,
    /// More about that.
    pub cause: Option<Cause>,
    /// Bytes that it wrote to standard output.
    pub stdout_bytes: u64,
    /// Bytes that it wrote to standard error.
    pub stderr_bytes: u64,
}

/// What the worker does, in its order.
#[derive(Clone, Debug)]
enum Step {
    State(State),
    Begin { live: u32, stage: Arc<str>, case: Option<Arc<str>> },
    End(StageEnd),
}

/// The stage, or the case, whose output may come now.
#[derive(Clone, Debug)]
struct Current {
    /// Its number on the live connection; 0 when its output does not come that way.
    live: u32,
    stage: Arc<str>,
    case: Option<Arc<str>>,
    stdout: Seen,
    stderr: Seen,
}

/// What came of one stream.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Bytes that came or were marked.
    bytes: u64,
    /// Nothing more comes over the live connection.
    ended: bool,
}

impl Current {
    fn new(live: u32, stage: Arc<str>, case: Option<Arc<str>>) -> Self {
        Self { live, stage, case, stdout: Seen::default(), stderr: Seen::default() }
    }

    fn source(&self, stream: OutputStream) -> Source {
        Source { stage: self.stage.clone(), case: self.case.clone(), stream }
    }

    fn seen(&mut self, stream: OutputStream) -> &mut Seen {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    fn count(&mut self, stream: OutputStream, bytes: u64) {
        let seen = self.seen(stream);
        seen.bytes = seen.bytes.saturating_add(bytes);
    }

    /// Whether more of its output is on its way.
    fn waits(&self) -> bool {
        self.live != 0 && !(self.stdout.ended && self.stderr.ended)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Desk {
    backlog: Backlog<Source, State>,
    steps: VecDeque<Step>,
    current: Option<Current>,
    /// Whether there is a live connection.
    live: bool,
    /// Stages and cases that were begun and may print.
    begun: u32,
}

impl Default for Desk {
    fn default() -> Self {
        let backlog = Backlog::new(LIVE_HOST_BACKLOG_BYTES, LIVE_CHUNK_BYTES);
        Self { backlog, steps: VecDeque::new(), current: None, live: false, begun: 0 }
    }
}

impl Desk {
    /// The job has come to a state.
    pub fn state(&mut self, state: State) {
        self.step(Step::State(state));
    }

    /// It has a VM, with or without a live connection.
    pub fn claimed(&mut self, live: LiveBy) {
        self.live = live == LiveBy::Connection;
        self.state(State::Claimed { live });
    }

    /// A stage begins, or one of its cases whose output is live; its number on the live connection, or 0.
    pub fn begin(&mut self, stage: &str, case: Option<&str>) -> u32 {
        self.begun += 1;
        let live = if self.live { self.begun } else { 0 };
        self.step(Step::Begin { live, stage: stage.into(), case: case.map(Into::into) });
        live
    }

    /// What was begun last has ended.
    pub fn end(&mut self, end: StageEnd) {
        self.step(Step::End(end));
    }

    /// A piece of the current stage's output, from the copy that its result is made of.
    pub fn data(&mut self, stream: OutputStream, data: &[u8]) {
        self.piece(0, stream, data);
    }

    /// The same, over the live connection. What belongs to no current stage is nothing.
    pub fn live_data(&mut self, live: u32, stream: OutputStream, data: &[u8]) {
        if live != 0 {
            self.piece(live, stream, data);
        }
    }

    fn piece(&mut self, live: u32, stream: OutputStream, data: &[u8]) {
        let Some(current) = self.current.as_mut().filter(|current| current.live == live) else { return };
        current.count(stream, data.len() as u64);
        let source = current.source(stream);
        data.chunks(LIVE_CHUNK_BYTES).for_each(|piece| self.backlog.data(&source, piece));
    }

    /// The agent could not send this much.
    pub fn live_lost(&mut self, live: u32, stream: OutputStream, lost: Lost) {
        let Some(current) = self.of_live(live) else { return };
        current.count(stream, lost.bytes);
        let source = current.source(stream);
        self.backlog.lost(&source, lost);
    }

    /// A stream's output is all there.
    pub fn live_end(&mut self, live: u32, stream: OutputStream) {
        if let Some(current) = self.of_live(live) {
            current.seen(stream).ended = true;
        }
        self.advance();
    }

    /// Nothing more comes over the live connection.
    pub fn live_over(&mut self) {
        self.live = false;
        self.advance();
    }

    /// What the next event says.
    pub fn take(&mut self) -> Option<What> {
        Some(match self.backlog.take()? {
            Item::Entry(state) => What::State(state),
            Item::Data(Source { stage, case, stream }, data) => {
                let (stage, case) = (stage.to_string(), case.map(|case| case.to_string()));
                let chunk = Chunk { stage, case, content: Payload::from(data) };
                match stream {
                    OutputStream::Stdout => What::Stdout(chunk),
                    OutputStream::Stderr => What::Stderr(chunk),
                }
            }
            Item::Lost(Source { stage, case, stream }, Lost { bytes, chunks }) => {
                let (stage, case) = (stage.to_string(), case.map(|case| case.to_string()));
                What::Dropped(Dropped { stage, case, stream, bytes, chunks })
            }
        })
    }

    /// Whether a piece of any allowed size would be kept.
    pub fn has_room(&self) -> bool {
        self.backlog.has_room_for(LIVE_CHUNK_BYTES)
    }

    /// Whether nothing waits for output.
    pub fn is_calm(&self) -> bool {
        self.steps.is_empty()
    }

    fn of_live(&mut self, live: u32) -> Option<&mut Current> {
        self.current.as_mut().filter(|current| live != 0 && current.live == live)
    }

    fn step(&mut self, step: Step) {
        self.steps.push_back(step);
        self.advance();
    }

    fn advance(&mut self) {
        let waits = |desk: &Self| desk.live && desk.current.as_ref().is_some_and(Current::waits);
        while let Some(step) = self.steps.pop_front() {
            match step {
                Step::End(_) if waits(self) => {
                    self.steps.push_front(step);
                    return;
                }
                Step::State(state) => self.backlog.put(state),
                Step::Begin { live, stage, case } => {
                    let name = stage.to_string();
                    self.backlog.put(match &case {
                        None => State::StageStarted { stage: name },
                        Some(case) => State::CaseStarted { stage: name, case: case.to_string() },
                    });
                    self.current = Some(Current::new(live, stage, case));
                }
                Step::End(end) => self.ended(end),
            }
        }
    }

    fn ended(&mut self, end: StageEnd) {
        let Some(mut current) = self.current.take() else { return };
        for (stream, bytes) in
            [(OutputStream::Stdout, end.stdout_bytes), (OutputStream::Stderr, end.stderr_bytes)]
        {
            let missing = bytes.saturating_sub(current.seen(stream).bytes);
            if missing > 0 {
                self.backlog.lost(&current.source(stream), Lost { bytes: missing, chunks: 0 });
            }
        }
        let StageEnd { verdict, cause, .. } = end;
        let stage = current.stage.to_string();
        self.backlog.put(match current.case {
            None => State::StageEnded { stage, verdict, cause },
            Some(case) => State::CaseEnded { stage, case: case.to_string(), verdict, cause },
        });
    }
}

#[cfg(test)]
mod tests {
    use OutputStream::{Stderr, Stdout};

    use super::*;

    fn end(stdout_bytes: u64, stderr_bytes: u64) -> StageEnd {
        StageEnd { verdict: Verdict::Accepted, cause: None, stdout_bytes, stderr_bytes }
    }

    /// Everything that is there, a word for each.
    fn words(desk: &mut Desk) -> Vec<String> {
        let word = |what| match what {
            What::State(State::StageStarted { stage }) => format!("+{stage}"),
            What::State(State::StageEnded { stage, .. }) => format!("-{stage}"),
            What::State(State::CaseStarted { case, .. }) => format!("+{case}"),
            What::State(State::CaseEnded { case, .. }) => format!("-{case}"),
            What::State(state) => format!("{state:?}"),
            What::Stdout(chunk) => String::from_utf8(chunk.content.decode().unwrap()).unwrap(),
            What::Stderr(chunk) => {
                format!("!{}", String::from_utf8(chunk.content.decode().unwrap()).unwrap())
            }
            What::Dropped(Dropped { stage, case, stream, bytes, chunks }) => {
                format!("{} {stream:?} {bytes}/{chunks}", case.unwrap_or(stage))
            }
        };
        std::iter::from_fn(|| desk.take()).map(word).collect()
    }

    /// One with a live connection.
    fn live() -> Desk {
        let mut desk = Desk::default();
        desk.claimed(LiveBy::Connection);
        assert_eq!(words(&mut desk).len(), 1);
        desk
    }

    #[test]
    fn output_of_the_result_is_told_as_it_comes_and_what_was_cut_is_marked() {
        let mut desk = Desk::default();
        desk.begin("a", None);
        desk.data(Stdout, b"one");
        desk.data(Stderr, b"two");
        desk.live_data(1, Stdout, b"nobody's");
        desk.live_end(0, Stdout);
        assert_eq!(words(&mut desk), ["+a", "one", "!two"]);
        desk.end(end(5, 3));
        desk.data(Stdout, b"late");
        assert_eq!(words(&mut desk), ["a Stdout 2/0", "-a"]);
    }

    #[test]
    fn the_end_of_a_stage_and_all_that_follows_waits_for_its_live_output() {
        let mut desk = live();
        assert_eq!(desk.begin("a", None), 1);
        desk.live_data(1, Stdout, b"1");
        desk.end(end(4, 9));
        assert_eq!(desk.begin("b", None), 2);
        desk.state(State::Downloading);
        assert_eq!(words(&mut desk), ["+a", "1"]);
        desk.live_data(2, Stdout, b"not its turn");
        desk.live_data(1, Stdout, b"2");
        desk.live_lost(1, Stdout, Lost { bytes: 2, chunks: 1 });
        desk.live_end(1, Stdout);
        assert_eq!(words(&mut desk), ["2", "a Stdout 2/1"]);
        desk.live_end(1, Stderr);
        assert_eq!(words(&mut desk), ["a Stderr 9/0", "-a", "+b", "Downloading"]);
    }

    #[test]
    fn a_live_connection_that_ends_leaves_marks_and_holds_nothing_up() {
        let mut desk = live();
        assert_eq!(desk.begin("a", None), 1);
        desk.live_data(1, Stdout, b"12");
        desk.end(end(10, 0));
        desk.live_over();
        assert_eq!(desk.begin("b", None), 0, "from here on as without one");
        desk.end(end(3, 0));
        assert_eq!(words(&mut desk), ["+a", "12", "a Stdout 8/0", "-a", "+b", "b Stdout 3/0", "-b"]);
    }

    #[test]
    fn each_case_has_its_own_output_and_its_own_marks() {
        let mut desk = live();
        desk.state(State::StageStarted { stage: "run".into() });
        assert_eq!(desk.begin("run", Some("1")), 1);
        desk.end(end(2, 0));
        assert_eq!(desk.begin("run", Some("2")), 2);
        desk.live_data(1, Stdout, b"1");
        [Stdout, Stderr].into_iter().for_each(|stream| desk.live_end(1, stream));
        desk.live_data(2, Stderr, b"2");
        [Stdout, Stderr].into_iter().for_each(|stream| desk.live_end(2, stream));
        desk.end(end(0, 1));
        assert_eq!(words(&mut desk), ["+run", "+1", "1", "1 Stdout 1/0", "-1", "+2", "!2", "-2"]);
    }

    #[test]
    fn a_watcher_that_takes_nothing_costs_a_bounded_backlog_and_every_byte_is_accounted_for() {
        let mut desk = Desk::default();
        desk.begin("a", None);
        let piece = vec![b'y'; 200_000];
        for _ in 0..100 {
            desk.data(Stdout, &piece);
        }
        assert!(!desk.has_room());
        desk.end(end(20_000_000, 0));
        let (mut shown, mut dropped) = (0, 0);
        while let Some(what) = desk.take() {
            match what {
                What::Stdout(chunk) => shown += chunk.content.decode().unwrap().len() as u64,
                What::Dropped(mark) => dropped += mark.bytes,
                _ => {}
            }
        }
        assert!(shown <= LIVE_HOST_BACKLOG_BYTES as u64 && dropped > 0, "{shown} {dropped}");
        assert_eq!(shown + dropped, 20_000_000);
    }
}
