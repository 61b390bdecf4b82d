//! A report as one page that needs nothing but itself: tables, and a picture
//! of each difference with its interval.

use std::fmt::Write as _;

use super::bars::bars;
use super::compare::{Comparison, Row};
use crate::report::Report;

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
    table{border-collapse:collapse;width:100%}td,th{padding:.25rem .6rem;text-align:right;\
    border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}\
    .published{color:#176b34}.refused{color:#a32020}pre{background:#f5f5f5;padding:1rem;overflow:auto}";
/// Size of a picture's parts, in pixels.
const ROW_HEIGHT: f64 = 26.0;
const LABEL_WIDTH: f64 = 300.0;
const PLOT_WIDTH: f64 = 420.0;

/// The page, with pictures of the training that are SVG elements already.
#[must_use]
pub fn page(report: &Report, curves: &[(String, String)]) -> String {
    let decision = report.decision.as_str();
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{run}</title>\
         <style>{STYLE}</style><h1>{run}: <span class=\"{decision}\">{decision}</span></h1>",
        run = escape(&report.run_id)
    );
    if !report.reasons.is_empty() {
        html.push_str("<h2>Refused because</h2><ul>");
        for reason in &report.reasons {
            let _ = write!(html, "<li>{}</li>", escape(reason));
        }
        html.push_str("</ul>");
    }
    html.push_str("<h2>Base, before and after</h2>");
    html.push_str(&bars(&report.evaluation));
    if let Some(tasks) = &report.evaluation.tasks {
        html.push_str("<h2>Tasks</h2>");
        html.push_str(&picture(tasks));
        html.push_str(&table(tasks));
    }
    for (name, svg) in curves {
        let _ = write!(html, "<h2>{}</h2>{svg}", escape(name));
    }
    let _ = writeln!(
        html,
        "<h2>The report</h2><pre>{}</pre></html>",
        escape(&report.text())
    );
    html
}

fn label(row: &Row) -> String {
    let metric = serde_json::to_value(row.metric).unwrap_or_default();
    let metric = metric.as_str().unwrap_or_default().replace('_', " ");
    escape(&format!("{}: {metric}", row.set))
}

fn table(tasks: &Comparison) -> String {
    let mut html = "<table><tr><th>set and metric</th><th>tasks</th><th>base</th>\
                    <th>incumbent</th><th>candidate</th><th>difference</th><th>95% interval</th></tr>"
        .to_owned();
    for row in &tasks.rows {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td>\
             <td>{:+.3}</td><td>{:+.3} to {:+.3}</td></tr>",
            label(row),
            row.tasks,
            row.base,
            row.incumbent,
            row.candidate,
            row.difference,
            row.low,
            row.high
        );
    }
    let [base, incumbent, candidate] = tasks.latency_seconds_median;
    let _ = write!(
        html,
        "<tr><td>seconds an answer</td><td></td><td>{base:.2}</td><td>{incumbent:.2}</td>\
         <td>{candidate:.2}</td><td>{:+.2}</td><td></td></tr></table>",
        candidate - incumbent
    );
    html
}

/// Each difference as a dot on its interval, around a line at no difference.
fn picture(tasks: &Comparison) -> String {
    let reach = tasks
        .rows
        .iter()
        .flat_map(|row| [row.low.abs(), row.high.abs(), row.difference.abs()])
        .filter(|value| value.is_finite())
        .fold(0.05, f64::max);
    let x = |value: f64| {
        let value = if value.is_finite() { value } else { 0.0 };
        LABEL_WIDTH + PLOT_WIDTH * (0.5 + 0.48 * value / reach)
    };
    let height = ROW_HEIGHT * (tasks.rows.len() as f64 + 1.0);
    let width = LABEL_WIDTH + PLOT_WIDTH;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{width}\" \
         height=\"{height}\" font-size=\"13\"><title>candidate less incumbent</title>\
         <line x1=\"{zero}\" x2=\"{zero}\" y1=\"0\" y2=\"{height}\" stroke=\"#999\"/>",
        zero = x(0.0)
    );
    for (number, row) in tasks.rows.iter().enumerate() {
        let y = ROW_HEIGHT * (number as f64 + 0.7);
        let colour = match row {
            row if row.low > 0.0 => "#176b34",
            row if row.high < 0.0 => "#a32020",
            _ => "#555",
        };
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{text}\">{label}</text>\
             <line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" \
             stroke=\"{colour}\" stroke-width=\"3\"/>\
             <circle cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\"/>",
            text = y + 4.0,
            label = label(row),
            low = x(row.low),
            high = x(row.high),
            at = x(row.difference),
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">±{reach:.2}</text></svg>",
        width - 2.0,
        height - 6.0
    );
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::compare::Metric;
    use super::*;

    #[test]
    fn what_comes_from_a_file_is_text_on_the_page() {
        let row = Row {
            set: "<script>alert(1)</script>".to_owned(),
            metric: Metric::ExactMatch,
            tasks: 4,
            base: 0.25,
            incumbent: 0.5,
            candidate: 0.75,
            difference: 0.25,
            low: 0.1,
            high: 0.4,
        };
        let tasks = Comparison {
            rows: vec![row],
            ..Comparison::default()
        };
        for html in [picture(&tasks), table(&tasks)] {
            assert!(!html.contains("<script"), "{html}");
            assert!(html.contains("&lt;script&gt;") && html.contains("exact match"));
        }
        assert!(picture(&tasks).contains("#176b34"), "a gain is green");
    }
}
