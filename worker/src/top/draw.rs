//! A view as cells, for a terminal or for plain text.

use hearth_pool::phase::Phase;
use jiff::{Timestamp, tz::TimeZone};
use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table, Widget},
};

use super::view::{Failed, Since, View, Worker};

const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
const BAD: Style = Style::new().fg(Color::Red);
const GOOD: Style = Style::new().fg(Color::Green);
/// Failures in plain text.
const FAILURES_PLAIN: u16 = 10;

/// Draws all that has room.
pub fn draw(view: &View, area: Rect, buffer: &mut Buffer) {
    let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX).saturating_add(2);
    let [head, workers, runtimes, failures] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(rows(view.workers.len())),
        Constraint::Length(rows(view.runtimes.len())),
        Constraint::Fill(1),
    ])
    .areas(area);
    Paragraph::new(summary(view)).render(head, buffer);
    draw_workers(view, workers, buffer);
    draw_runtimes(view, runtimes, buffer);
    draw_failures(&view.failures, failures, buffer);
}

/// The same as lines of at most so many columns, without colours.
pub fn text(view: &View, columns: u16) -> String {
    let failures = view.failures.len().min(usize::from(FAILURES_PLAIN)).max(1);
    let lines = 2 + view.workers.len() + 2 + view.runtimes.len() + 2 + failures + 1;
    let area = Rect::new(0, 0, columns.max(1), u16::try_from(lines).unwrap_or(u16::MAX));
    let mut buffer = Buffer::empty(area);
    draw(view, area, &mut buffer);
    let line = |y| {
        let cells: String =
            (0..area.width).filter_map(|x| buffer.cell((x, y))).map(|cell| cell.symbol()).collect();
        cells.trim_end().to_owned()
    };
    let lines: Vec<String> = (0..area.height).map(line).collect();
    lines.join("\n").trim_end().to_owned() + "\n"
}

fn summary(view: &View) -> Line<'static> {
    let over = match view.since {
        Since::Start => "since each worker's start".to_owned(),
        Since::Seconds(seconds) => format!("over {seconds:.1} s"),
    };
    let ready = view.workers.iter().filter(|worker| worker.is_ready()).count();
    let mut spans = vec![
        Span::styled("hearth top", HEAD),
        Span::raw(format!("  {ready} of {} workers ready, {over}", view.workers.len())),
    ];
    for (status, rate) in view.results_per_s.iter().filter(|(_, rate)| **rate > 0.0) {
        let style = if status == "infra_error" { BAD } else { Style::new() };
        spans.push(Span::styled(format!("  {status} {rate:.1}/s"), style));
    }
    Line::from(spans)
}

fn draw_workers(view: &View, area: Rect, buffer: &mut Buffer) {
    let head = Row::new(["worker", "at", "up", "jobs", "warm", "state"]).style(HEAD);
    let row = |worker: &Worker| {
        let (state, style) = worker.state();
        let name = worker.status.as_ref().map_or("-", |status| &status.worker).to_owned();
        let up = worker.status.as_ref().map_or("-".to_owned(), |status| uptime(status.uptime_s));
        let (ready, target) = worker.warm;
        let (jobs, warm) = match worker.unreachable {
            Some(_) => ("-".to_owned(), "-".to_owned()),
            None => (count(worker.jobs), format!("{}/{}", count(ready), count(target))),
        };
        Row::new(
            [name, worker.address.clone(), up, jobs, warm]
                .map(Cell::from)
                .into_iter()
                .chain([Cell::from(state).style(style)]),
        )
    };
    let widths = [
        Constraint::Max(24),
        Constraint::Max(24),
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Length(7),
        Constraint::Fill(1),
    ];
    Widget::render(Table::new(view.workers.iter().map(row), widths).header(head), area, buffer);
}

impl Worker {
    fn is_ready(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.ready)
    }

    fn state(&self) -> (String, Style) {
        match (&self.unreachable, &self.status) {
            (Some(why), _) => (format!("unreachable: {why}"), BAD),
            (None, Some(status)) if !status.ready => {
                (format!("not ready: {}", status.reasons.join("; ")), BAD)
            }
            _ => ("ready".to_owned(), GOOD),
        }
    }
}

fn draw_runtimes(view: &View, area: Rect, buffer: &mut Buffer) {
    let head = [
        "runtime", "target", "ready", "dormant", "coming", "claimed", "going", "failing", "quarant.",
        "vacant", "claims/s", "hits", "p50", "p95", "refill", "failed/s",
    ];
    let rows = view.runtimes.iter().map(|(name, runtime)| {
        let slots =
            |phases: &[Phase]| phases.iter().filter_map(|phase| runtime.slots.get(phase.name())).sum::<f64>();
        let (failing, quarantined) = (slots(&[Phase::Cooling]), slots(&[Phase::Quarantined]));
        let rates = &runtime.rates;
        let bad = |text: String, is: bool| Cell::from(text).style(if is { BAD } else { Style::new() });
        Row::new([
            Cell::from(name.clone()),
            Cell::from(count(runtime.target)),
            Cell::from(count(slots(&[Phase::Ready]))),
            Cell::from(count(slots(&[Phase::Dormant]))),
            Cell::from(count(slots(&[Phase::Leasing, Phase::Restoring, Phase::Greeting]))),
            Cell::from(count(slots(&[Phase::Claimed]))),
            Cell::from(count(slots(&[Phase::Retiring]))),
            bad(count(failing), failing > 0.0),
            bad(count(quarantined), quarantined > 0.0),
            Cell::from(count(slots(&[Phase::Vacant]))),
            Cell::from(format!("{:.1}", rates.claims_per_s)),
            Cell::from(rates.hit_ratio.map_or("-".to_owned(), |ratio| format!("{:.1}%", ratio * 100.0))),
            Cell::from(seconds(rates.wait_p50_s)),
            Cell::from(seconds(rates.wait_p95_s)),
            Cell::from(seconds(rates.refill_p50_s)),
            bad(format!("{:.1}", rates.failed_per_s), rates.failed_per_s > 0.0),
        ])
    });
    let widths = head.iter().enumerate().map(|(n, title)| match n {
        0 => Constraint::Fill(1),
        _ => Constraint::Length(u16::try_from(title.len()).unwrap_or(8).max(6)),
    });
    Widget::render(Table::new(rows, widths).header(Row::new(head).style(HEAD)), area, buffer);
}

fn draw_failures(failures: &[Failed], area: Rect, buffer: &mut Buffer) {
    let head = Line::styled("what went wrong lately", HEAD);
    let line = |failed: &Failed| {
        let at =
            i64::try_from(failed.failure.unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let at = at.map_or_else(String::new, |at| {
            at.to_zoned(TimeZone::UTC).strftime("%m-%d %H:%M:%SZ").to_string()
        });
        // What a guest or a server said may have anything in it.
        let why = failed.failure.why.replace(char::is_control, " ");
        Line::from(vec![
            Span::raw(format!("{at}  {}  ", failed.worker)),
            Span::raw(format!("{}  ", failed.failure.what)),
            Span::styled(why, BAD),
        ])
    };
    let none = failures.is_empty().then(|| Line::raw("nothing"));
    let lines: Vec<_> = std::iter::once(head).chain(failures.iter().map(line)).chain(none).collect();
    Paragraph::new(lines).render(area, buffer);
}

/// A whole number, and of nothing 0, not -0.
fn count(number: f64) -> String {
    (number.round() as i64).to_string()
}

fn uptime(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 60.0 => format!("{seconds:.0}s"),
        seconds if seconds < 3600.0 => format!("{:.0}m", (seconds / 60.0).floor()),
        seconds if seconds < 86_400.0 => format!("{:.1}h", seconds / 3600.0),
        seconds => format!("{:.1}d", seconds / 86_400.0),
    }
}

fn seconds(time: Option<f64>) -> String {
    match time {
        None => "-".to_owned(),
        Some(time) if time < 0.01 => format!("{:.1}ms", time * 1000.0),
        Some(time) if time < 1.0 => format!("{:.0}ms", time * 1000.0),
        Some(time) => format!("{time:.1}s"),
    }
}
