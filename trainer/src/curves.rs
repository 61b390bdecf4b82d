//! Loss curves as a picture: loss and reward margin over the epochs, of training
//! and of what is held out. The same numbers are in `steps.jsonl` and
//! `epochs.jsonl`; the picture is `curve.svg` beside them.

use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::{
    BLACK, ChartBuilder, DrawingArea, DrawingBackend, IntoDrawingArea as _, LineSeries,
    PathElement, RGBColor, SVGBackend, WHITE,
};
use serde_json::Value;

use crate::train::{Curve, EpochMetrics, StepMetrics};

/// The picture's name in a stage's folder.
pub(crate) const FILE_NAME: &str = "curve.svg";
/// The longest picture that a report takes in.
const PICTURE_BYTES_MAX: u64 = 4 << 20;
/// Points of one line; more are averaged.
const POINTS_MAX: usize = 1000;
/// What is drawn; a run that fell apart may have more.
const VALUE_MAX: f64 = 1e9;
const SIZE: (u32, u32) = (760, 640);
const TRAINED: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const HELD_OUT: RGBColor = RGBColor(0xb8, 0x4a, 0x12);

type Points = Vec<(f64, f64)>;

/// What was reported so far, by epoch.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Curves {
    loss: Points,
    margin: Points,
    held_out_loss: Points,
    held_out_margin: Points,
}

impl Curves {
    /// The lines of a run that goes on.
    pub(crate) fn of(curve: &Curve) -> Self {
        let mut curves = Self::default();
        let values = |lines: &str| -> Vec<Value> {
            let lines = lines.lines();
            lines
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect()
        };
        let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_f64);
        for step in values(&curve.steps) {
            if let Some(epoch) = number(&step, "epoch") {
                curves
                    .loss
                    .extend(number(&step, "loss").map(|y| (epoch, y)));
                let margin = number(&step, "rewards/margins");
                curves.margin.extend(margin.map(|y| (epoch, y)));
            }
        }
        for line in values(&curve.epochs) {
            if let Some(epoch) = number(&line, "epoch") {
                let (loss, margin) = (
                    number(&line, "eval/loss"),
                    number(&line, "eval/rewards/margins"),
                );
                curves.held_out_loss.extend(loss.map(|y| (epoch, y)));
                curves.held_out_margin.extend(margin.map(|y| (epoch, y)));
            }
        }
        curves
    }

    pub(crate) fn step(&mut self, step: &StepMetrics) {
        self.loss.push((step.epoch, step.loss));
        self.margin.push((step.epoch, step.rewards_margins));
    }

    pub(crate) fn epoch(&mut self, epoch: &EpochMetrics) {
        let x = epoch.epoch as f64;
        self.held_out_loss.push((x, epoch.loss));
        self.held_out_margin.push((x, epoch.margin));
    }

    /// The picture; none where there is nothing to draw.
    pub(crate) fn svg(&self) -> Option<String> {
        let mut svg = String::new();
        let panels = [
            ("loss", &self.loss, &self.held_out_loss),
            ("reward margin", &self.margin, &self.held_out_margin),
        ];
        let mut panels = panels.map(|(name, trained, held_out)| Panel {
            name,
            trained: thinned(trained),
            held_out: thinned(held_out),
        });
        if panels.iter().all(Panel::is_empty) {
            return None;
        }
        // what is imitated has no margin
        panels.sort_by_key(Panel::is_empty);
        let count = panels.iter().filter(|panel| !panel.is_empty()).count();
        match draw(&panels[..count], &mut svg) {
            Ok(()) => Some(svg),
            Err(error) => {
                tracing::warn!(%error, "the curve was not drawn");
                None
            }
        }
    }
}

/// The pictures of a run's stages, with their names; what cannot be read is
/// left out.
pub(crate) fn of_run(folder: &Path, stages: usize) -> Vec<(String, String)> {
    let one = [("Training".to_owned(), folder.join(FILE_NAME))];
    let many = (1..=stages).map(|stage| {
        let folder = folder.join(format!("stage-{stage}"));
        (format!("Training, stage {stage}"), folder.join(FILE_NAME))
    });
    let read = |path: &Path| -> Option<String> {
        let file = std::fs::File::open(path).ok()?;
        let mut text = String::new();
        file.take(PICTURE_BYTES_MAX)
            .read_to_string(&mut text)
            .ok()?;
        text.ends_with("</svg>\n").then_some(text)
    };
    one.into_iter()
        .chain(many)
        .filter_map(|(name, path)| Some((name, read(&path)?)))
        .collect()
}

struct Panel {
    name: &'static str,
    trained: Points,
    held_out: Points,
}

impl Panel {
    fn is_empty(&self) -> bool {
        let points = || self.trained.iter().chain(&self.held_out);
        // margins of a stage without any are all zero
        points().next().is_none() || (self.name != "loss" && points().all(|point| point.1 == 0.0))
    }

    fn range(&self, of: fn(&(f64, f64)) -> f64) -> Range<f64> {
        let values = || self.trained.iter().chain(&self.held_out).map(of);
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(f64::NEG_INFINITY, f64::max);
        let room = ((high - low) * 0.05).max(0.01);
        low - room..high + room
    }
}

type DrawError = DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>;

fn draw(panels: &[Panel], svg: &mut String) -> Result<(), DrawError> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, area) in panels.iter().zip(root.split_evenly((panels.len(), 1))) {
        draw_panel(panel, &area)?;
    }
    root.present()
}

fn draw_panel(panel: &Panel, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), DrawError> {
    let mut chart = ChartBuilder::on(area)
        .caption(panel.name, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(panel.range(|point| point.0), panel.range(|point| point.1))?;
    chart.configure_mesh().x_desc("epoch").draw()?;
    let lines = [
        ("trained", &panel.trained, TRAINED, 0),
        ("held out", &panel.held_out, HELD_OUT, 3),
    ];
    for (name, points, colour, dots) in lines {
        if points.is_empty() {
            continue;
        }
        let line = LineSeries::new(points.iter().copied(), colour).point_size(dots);
        chart
            .draw_series(line)?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()
}

/// The points that can be drawn, at most [`POINTS_MAX`]: means of runs of them.
fn thinned(points: &Points) -> Points {
    let fits = |v: f64| v.abs() <= VALUE_MAX;
    let points: Points = points
        .iter()
        .copied()
        .filter(|(x, y)| fits(*x) && fits(*y))
        .collect();
    let run = points.len().div_ceil(POINTS_MAX).max(1);
    let mean = |run: &[(f64, f64)]| {
        let share = 1.0 / run.len() as f64;
        let sum = run
            .iter()
            .fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
        (sum.0 * share, sum.1 * share)
    };
    points.chunks(run).map(mean).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn step(epoch: f64, loss: f64, margin: f64) -> StepMetrics {
        StepMetrics {
            epoch,
            loss,
            rewards_margins: margin,
            ..StepMetrics::default()
        }
    }

    fn epoch(epoch: usize, loss: f64) -> EpochMetrics {
        EpochMetrics {
            epoch,
            loss,
            ..EpochMetrics::default()
        }
    }

    #[test]
    fn both_lines_of_both_panels_are_drawn() {
        let mut curves = Curves::default();
        assert_eq!(curves.svg(), None);
        for i in 1..=8 {
            let x = f64::from(i) / 4.0;
            curves.step(&step(x, 1.0 / x, x));
        }
        curves.epoch(&epoch(1, 0.7));
        curves.epoch(&epoch(2, 0.6));
        let svg = curves.svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        for text in ["loss", "reward margin", "epoch", "trained", "held out"] {
            assert!(svg.contains(text), "no {text:?}");
        }
        assert!(svg.contains("#1F5FA8") && svg.contains("#B84A12"), "{svg}");
        // what only imitates has no margin to show
        let mut plain = Curves::default();
        plain.step(&step(1.0, 2.0, 0.0));
        assert!(!plain.svg().unwrap().contains("reward margin"));
    }

    #[test]
    fn a_run_that_goes_on_has_the_lines_of_before() {
        let mut curves = Curves::default();
        let mut curve = Curve::default();
        for i in 1..=4 {
            let step = step(f64::from(i) / 2.0, 1.0, 0.5);
            curve.steps += &format!("{}\n", serde_json::to_string(&step).unwrap());
            curves.step(&step);
        }
        curve.epochs += &format!("{}\n", serde_json::to_string(&epoch(1, 0.7)).unwrap());
        curves.epoch(&epoch(1, 0.7));
        assert_eq!(Curves::of(&curve), curves);
    }

    #[test]
    fn many_points_and_points_out_of_this_world_make_a_small_picture() {
        let mut curves = Curves::default();
        for i in 0..100_000 {
            let x = f64::from(i) / 1000.0;
            curves.step(&step(x, if i % 1000 == 0 { f64::NAN } else { x }, 1e300));
        }
        let drawn = thinned(&curves.loss).len();
        assert!((900..=POINTS_MAX).contains(&drawn), "{drawn}");
        assert!(thinned(&curves.margin).is_empty());
        assert!(curves.svg().unwrap().len() < 100_000);
    }

    #[test]
    fn only_whole_pictures_are_taken_into_a_report() {
        let folder = tempfile::tempdir().unwrap();
        let mut curves = Curves::default();
        curves.step(&step(1.0, 2.0, 0.0));
        let svg = curves.svg().unwrap();
        std::fs::create_dir(folder.path().join("stage-1")).unwrap();
        std::fs::create_dir(folder.path().join("stage-2")).unwrap();
        std::fs::write(folder.path().join("stage-1").join(FILE_NAME), &svg).unwrap();
        std::fs::write(folder.path().join("stage-2").join(FILE_NAME), &svg[..99]).unwrap();
        let found = of_run(folder.path(), 3);
        assert_eq!(found, [("Training, stage 1".to_owned(), svg)]);
    }
}
