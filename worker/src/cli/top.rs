//! `hearth top`: workers, live.

use std::{
    io::{IsTerminal as _, stdout},
    panic,
    time::Duration,
};

use clap::Args;
use crossterm::{
    cursor::Show,
    event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    execute,
};
use futures_util::StreamExt as _;
use hearth_worker::top::{Address, Answer, View, ask_all, draw, text};
use ratatui::DefaultTerminal;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use super::{
    exit::{Exit, Failure},
    interrupt::Interrupted,
    output::{self, Style},
};

/// Columns of plain text.
const PLAIN_COLUMNS: u16 = 160;

/// Watch workers: runtimes, slots by phase, waits, rates, what went wrong lately
///
/// Asks each worker's admin address for /status and /metrics. Several workers stand side by side, and their runtimes are summed
/// up; one that does not answer is shown as such. Rates, hits and waits are over the time between two looks, with --once since
/// each worker's start. q, Esc or Ctrl-C ends it.
#[derive(Debug, Args)]
#[command(
    after_help = "Columns: dormant: hypervisors without a guest; coming: being leased, restored or greeted; going: being destroyed; failing: the last try failed, and it is\n\
        tried again soon; quarant.: could not be destroyed; p50, p95: how long claims waited; refill: half of the VMs took no\n\
        longer from an empty slot to ready.\n\n\
        Examples:\n  \
        hearth top                                 the worker at 127.0.0.1:9102\n  \
        hearth top worker-1:9102 worker-2:9102     several\n  \
        hearth top --once --json | jq .runtimes    for scripts"
)]
pub struct Arguments {
    /// Where workers say how they are: their `worker.admin`
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:9102", env = "HEARTH_TOP")]
    #[arg(value_delimiter = ',')]
    addresses: Vec<Address>,
    /// Seconds between two looks, from 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,
    /// Look once, print it, and end. Exit code 69 when no worker answers
    #[arg(long)]
    once: bool,
    /// Print one look after the other instead of taking over the terminal; so it is where stdout is none
    #[arg(long)]
    plain: bool,
    /// Print JSON, one look a line
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    let allowed = (0.1..=3600.0).contains(&seconds);
    allowed.then(|| Duration::from_secs_f64(seconds)).ok_or_else(|| "allowed is 0.1 to 3600".to_owned())
}

/// Watches until told to stop.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    if !arguments.once && !arguments.plain && !arguments.json && stdout().is_terminal() {
        return super::block_on(live(arguments));
    }
    super::block_on(plain(arguments))
}

async fn plain(arguments: &Arguments) -> Result<Exit, Failure> {
    let mut interrupted = Interrupted::listen()?;
    let (give, mut looks) = mpsc::channel(1);
    tokio::spawn(look(arguments.addresses.clone(), arguments.interval, give));
    loop {
        let (view, answers) = tokio::select! {
            interrupted = interrupted.wait() => return Err(interrupted),
            look = looks.recv() => look.ok_or_else(nobody_asks)?,
        };
        match arguments.json {
            true => output::json(&view, Style::Compact)?,
            false if arguments.once => output::line(&text(&view, PLAIN_COLUMNS))?,
            false => output::line(&(text(&view, PLAIN_COLUMNS) + "\n"))?,
        }
        if arguments.once {
            return Ok(if answers > 0 { Exit::Accepted } else { Exit::Unavailable });
        }
    }
}

/// Looks again and again for as long as somebody wants it: a view, and how many workers answered.
async fn look(addresses: Vec<Address>, interval: Duration, give: mpsc::Sender<(View, usize)>) {
    let names: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let mut before: Option<(Vec<Result<Answer, String>>, Instant)> = None;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let at = Instant::now();
        let now = ask_all(&addresses).await;
        let earlier = before.as_ref().map(|(answers, then)| (answers.as_slice(), at - *then));
        let view = View::new(&names, earlier, &now);
        let answered = now.iter().filter(|answer| answer.is_ok()).count();
        if give.send((view, answered)).await.is_err() {
            return;
        }
        before = Some((now, at));
    }
}

async fn live(arguments: &Arguments) -> Result<Exit, Failure> {
    let mut interrupted = Interrupted::listen()?;
    // It also makes a panic give the terminal back, but for the cursor.
    let mut terminal = ratatui::try_init().map_err(|error| {
        Failure::new(Exit::Output, format!("the terminal: {error}")).remedy("--plain needs none")
    })?;
    let given_back = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let _ = execute!(stdout(), Show);
        given_back(info);
    }));
    let ended = watch(arguments, &mut terminal, &mut interrupted).await;
    ratatui::restore();
    ended
}

async fn watch(
    arguments: &Arguments,
    terminal: &mut DefaultTerminal,
    interrupted: &mut Interrupted,
) -> Result<Exit, Failure> {
    let (give, mut looks) = mpsc::channel(1);
    tokio::spawn(look(arguments.addresses.clone(), arguments.interval, give));
    let mut events = EventStream::new();
    let mut view = None;
    loop {
        fail::fail_point!("top::draws");
        let drawn = terminal.draw(|frame| match &view {
            Some(view) => draw(view, frame.area(), frame.buffer_mut()),
            None => frame.render_widget("asking the workers", frame.area()),
        });
        drawn.map_err(|error| Failure::new(Exit::Output, format!("the terminal: {error}")))?;
        tokio::select! {
            interrupted = interrupted.wait() => return Err(interrupted),
            look = looks.recv() => view = Some(look.ok_or_else(nobody_asks)?.0),
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) if ends(key) => return Ok(Exit::Accepted),
                // A new size is drawn anew, and other keys do nothing.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Failure::new(Exit::Output, format!("the terminal: {error}"))),
                None => return Ok(Exit::Accepted),
            },
        }
    }
}

fn nobody_asks() -> Failure {
    Failure::new(Exit::Internal, "the task that asks the workers has ended")
}

fn ends(key: KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}
