//! Live events as they come: for a person on stderr, as lines of JSON on stdout.
//!
//! Printing has a thread of its own, since whoever reads may be slow; the job does not wait for it.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use hearth_schemas::{
    event::{Chunk, Dropped, Event, LiveBy, OutputStream, State, What},
    job,
    result::Cause,
};
use hearth_worker::live::Outlet;
use tokio::{runtime::Handle, sync::watch};

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Output as it is and a line for each state, on stderr: stdout is the result's.
    Text {
        /// Only output.
        quiet: bool,
    },
    /// Each event as a line of JSON, on stdout.
    Json,
}

/// The request with `stream` set. What is no request stays as it is, to be refused as such.
pub fn asking(body: Bytes) -> Bytes {
    let Ok(mut request) = job::parse(&body) else { return body };
    request.stream = true;
    serde_json::to_vec(&request).map_or(body, Bytes::from)
}

/// Prints events. One writer at a time.
#[derive(Debug)]
pub struct Printer {
    form: Form,
    terminal: bool,
    /// The last output did not end its line.
    in_line: bool,
}

impl Printer {
    /// Nothing is printed yet.
    pub fn new(form: Form) -> Self {
        Self { form, terminal: io::stderr().is_terminal(), in_line: false }
    }

    /// Prints one. Blocks while nobody reads.
    ///
    /// # Errors
    /// Nobody will read any more.
    pub fn print(&mut self, event: &Event) -> io::Result<()> {
        match self.form {
            Form::Json => {
                let mut line = serde_json::to_vec(event)?;
                line.push(b'\n');
                let mut stdout = io::stdout().lock();
                stdout.write_all(&line)?;
                stdout.flush()
            }
            Form::Text { quiet } => io::stderr().lock().write_all(&self.text(event, quiet)),
        }
    }

    /// A sentence for a person, on a line of its own.
    pub fn note(&mut self, sentence: &str) {
        if self.form == (Form::Text { quiet: false }) {
            // Where nobody reads, nobody misses it.
            let _ = io::stderr().lock().write_all(&self.line(sentence));
        }
    }

    fn text(&mut self, event: &Event, quiet: bool) -> Vec<u8> {
        match &event.what {
            What::Stdout(Chunk { content, .. }) | What::Stderr(Chunk { content, .. }) => {
                let output = content.decode().unwrap_or_default();
                self.in_line = output.last().is_some_and(|byte| *byte != b'\n');
                if self.terminal { harmless(&output).into_owned().into_bytes() } else { output }
            }
            // Its end says which one it was.
            What::State(State::CaseStarted { .. }) => Vec::new(),
            _ if quiet => Vec::new(),
            What::State(state) => self.line(&sentence(state, event.attempt)),
            What::Dropped(Dropped { stage, case, stream, bytes, .. }) => {
                let stream = match stream {
                    OutputStream::Stdout => "stdout",
                    OutputStream::Stderr => "stderr",
                };
                let whose = case.as_ref().map_or_else(|| stage.clone(), |case| format!("case {case}"));
                self.line(&format!("{bytes} bytes of {whose}'s {stream} are left out here"))
            }
        }
    }

    fn line(&mut self, sentence: &str) -> Vec<u8> {
        let before = if std::mem::take(&mut self.in_line) { "\n" } else { "" };
        format!("{before}[hearth] {sentence}\n").into_bytes()
    }
}

fn sentence(state: &State, attempt: u32) -> String {
    let why = |word: &str, more: Option<&str>| more.map_or(word.to_owned(), |more| format!("{word}, {more}"));
    match state {
        State::Queued => "waits for a free VM".to_owned(),
        State::Started { worker } => format!("attempt {attempt}, worker {worker}"),
        State::Claimed { live: LiveBy::Connection } => "has a VM".to_owned(),
        State::Claimed { live: LiveBy::Result } => "has a VM, without a live connection".to_owned(),
        State::Uploading => "uploading".to_owned(),
        State::StageStarted { stage } => format!("stage {stage}"),
        State::StageEnded { stage, verdict, cause } => {
            format!("stage {stage}: {}", why(verdict.as_str(), cause.map(word).as_deref()))
        }
        State::CaseStarted { case, .. } => format!("case {case}"),
        State::CaseEnded { case, verdict, cause, .. } => {
            format!("case {case}: {}", why(verdict.as_str(), cause.map(word).as_deref()))
        }
        State::Downloading => "downloading".to_owned(),
        State::AttemptFailed { message } => {
            format!("attempt {attempt} failed, by no fault of the job: {message}")
        }
        State::Finished { status, verdict } => why(status.as_str(), verdict.map(|verdict| verdict.as_str())),
    }
}

/// As JSON has it.
fn word(cause: Cause) -> String {
    serde_json::to_value(cause).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// What may go to a terminal: a job's output must not move its cursor or change its title.
fn harmless(output: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(output);
    let harms = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(harms) {
        return text;
    }
    text.chars().map(|c| if harms(c) { char::REPLACEMENT_CHARACTER } else { c }).collect::<String>().into()
}

/// Follows a job of this process.
#[derive(Clone, Debug)]
pub struct Follower {
    printer: Arc<Mutex<Printer>>,
    /// Attempts that are not all printed.
    printing: Arc<watch::Sender<usize>>,
}

impl Follower {
    /// Nothing to follow yet.
    pub fn new(form: Form) -> Self {
        Self { printer: Arc::new(Mutex::new(Printer::new(form))), printing: Arc::new(watch::Sender::new(0)) }
    }

    /// Where events go.
    pub fn outlet(&self) -> Outlet {
        let this = self.clone();
        Arc::new(move |mut events| {
            let (printer, printing) = (this.printer.clone(), this.printing.clone());
            let runtime = Handle::current();
            printing.send_modify(|printing| *printing += 1);
            // Not one of the runtime's threads, whose end it waits for: this one may never get rid of what it has.
            std::thread::spawn(move || {
                // One attempt after the other.
                let mut printer = printer.lock().unwrap_or_else(PoisonError::into_inner);
                while let Some(event) = runtime.block_on(events.next()) {
                    if printer.print(&event).is_err() {
                        break;
                    }
                }
                printing.send_modify(|printing| *printing -= 1);
            });
        })
    }

    /// Resolves when everything is printed, or nobody reads any more. The job must be over. Cancel safe.
    pub async fn finish(&self) {
        let _ = self.printing.subscribe().wait_for(|printing| *printing == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::{
        event::EVENT_VERSION,
        result::{Payload, Verdict},
    };

    use super::*;

    #[test]
    fn a_terminal_gets_no_control_characters_of_a_job() {
        assert_eq!(harmless(b"plain\n\ttext \xc3\xa4"), "plain\n\ttext ä");
        assert_eq!(
            harmless(b"\x1b]0;title\x07\xc2\x9b2J\r\xff"),
            "\u{fffd}]0;title\u{fffd}\u{fffd}2J\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn states_have_lines_of_their_own_and_output_is_left_as_it_is() {
        let mut printer = Printer { form: Form::Text { quiet: false }, terminal: false, in_line: false };
        let mut text = |what| {
            let event = Event {
                version: EVENT_VERSION,
                id: "j".into(),
                tenant: "t".into(),
                attempt: 2,
                seq: 1,
                unix_ms: 0,
                what,
            };
            String::from_utf8(printer.text(&event, false)).unwrap()
        };
        let chunk =
            |text: &str| Chunk { stage: "run".into(), case: None, content: Payload::Text(text.into()) };
        let started = State::Started { worker: "w".into() };
        assert_eq!(text(What::State(started)), "[hearth] attempt 2, worker w\n");
        assert_eq!(text(What::Stdout(chunk("a\x1b"))), "a\x1b");
        let of = |case: Option<&str>| Dropped {
            stage: "run".into(),
            case: case.map(Into::into),
            stream: OutputStream::Stdout,
            bytes: 5,
            chunks: 1,
        };
        assert_eq!(text(What::Dropped(of(None))), "\n[hearth] 5 bytes of run's stdout are left out here\n");
        assert_eq!(
            text(What::Dropped(of(Some("7")))),
            "[hearth] 5 bytes of case 7's stdout are left out here\n"
        );
        let (stage, case, cause) = ("run".to_owned(), "7".to_owned(), Some(Cause::Mismatch));
        let begun = State::CaseStarted { stage: stage.clone(), case: case.clone() };
        assert_eq!(text(What::State(begun)), "");
        let ended = State::CaseEnded { stage, case, verdict: Verdict::WrongAnswer, cause };
        assert_eq!(text(What::State(ended)), "[hearth] case 7: wrong_answer, mismatch\n");
        assert_eq!(text(What::State(State::Uploading)), "[hearth] uploading\n");
    }

    #[test]
    fn a_request_asks_for_events_and_nonsense_stays_nonsense() {
        let asked = asking(Bytes::from_static(br#"{"runtime":"python","code":"1"}"#));
        assert!(job::parse(&asked).unwrap().stream);
        assert_eq!(asking(Bytes::from_static(b"nonsense")), "nonsense");
    }
}
