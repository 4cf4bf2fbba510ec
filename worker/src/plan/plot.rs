//! Outcomes as a picture: memory, hits and waits over time.

use std::path::Path;

use hearth_pool::scale::sim::Point;
use plotters::{
    prelude::{ChartBuilder, IntoDrawingArea, LineSeries, PathElement, SVGBackend, SeriesLabelPosition},
    style::{BLACK, Color as _, IntoFont as _, RGBColor, WHITE},
};

use super::scenario::Outcome;

const SIZE: (u32, u32) = (960, 900);
/// One for each outcome, in turn; told apart by those who do not see red and green apart, too.
const COLOURS: [RGBColor; 3] = [RGBColor(0, 90, 181), RGBColor(220, 120, 0), RGBColor(90, 90, 90)];

/// The picture could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the plot: {0}")]
pub struct PlotError(String);

type Panel = (&'static str, fn(&Point) -> Option<f64>);

const PANELS: [Panel; 3] = [
    ("memory of all VMs, MiB", |point| Some(point.memory_mib as f64)),
    ("hit ratio, %", |point| (point.jobs > 0).then(|| 100.0 * f64::from(point.hits) / f64::from(point.jobs))),
    ("longest wait, ms", |point| (point.jobs > 0).then_some(point.wait_max_ms)),
];

/// Writes an SVG.
///
/// # Errors
/// The file cannot be written.
pub fn plot(outcomes: &[Outcome], path: &Path) -> Result<(), PlotError> {
    let mut text = String::new();
    draw(outcomes, &mut text).map_err(PlotError)?;
    std::fs::write(path, text).map_err(|error| PlotError(format!("{}: {error}", path.display())))
}

fn draw(outcomes: &[Outcome], into: &mut String) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let root = SVGBackend::with_string(into, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let ends = outcomes.iter().filter_map(|outcome| outcome.report.points.last()).map(|point| point.at_s);
    let end = ends.fold(1.0, f64::max);
    for (area, (title, value)) in root.split_evenly((PANELS.len(), 1)).iter().zip(PANELS) {
        let points = outcomes.iter().flat_map(|outcome| &outcome.report.points);
        let top = points.filter_map(value).fold(1.0, f64::max) * 1.05;
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 16).into_font())
            .margin(10)
            .x_label_area_size(24)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..end, 0.0..top)
            .map_err(|error| failed(&error))?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc("seconds").draw().map_err(|error| failed(&error))?;
        for (outcome, colour) in outcomes.iter().zip(COLOURS.iter().cycle()) {
            let line = outcome.report.points.iter().filter_map(|point| Some((point.at_s, value(point)?)));
            let series = chart.draw_series(LineSeries::new(line, colour)).map_err(|error| failed(&error))?;
            let key = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], *colour);
            series.label(&outcome.name).legend(key);
        }
        let mut legend = chart.configure_series_labels();
        legend.position(SeriesLabelPosition::UpperRight).background_style(WHITE.mix(0.8)).border_style(BLACK);
        legend.draw().map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}
