//! A picture of what changed: shares of base, incumbent and candidate, as bars.

use std::fmt::Write as _;

use super::Evaluation;

const BAR_HEIGHT: f64 = 12.0;
const GROUP_HEIGHT: f64 = 54.0;
const LABEL_WIDTH: f64 = 300.0;
const BAR_WIDTH: f64 = 360.0;
const BASE: &str = "#d6d6d6";
const BEFORE: &str = "#9a9a9a";
const AFTER: &str = "#1f5fa8";

/// One share of each version, 0 to 1.
struct Group {
    label: &'static str,
    base: f64,
    before: f64,
    after: f64,
}

/// The picture; a line of text where nothing was measured.
pub(super) fn bars(evaluation: &Evaluation) -> String {
    let groups = groups(evaluation);
    if groups.is_empty() {
        return "<p>Nothing was measured.</p>".to_owned();
    }
    let height = GROUP_HEIGHT * groups.len() as f64;
    let width = LABEL_WIDTH + BAR_WIDTH + 60.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{width}\" \
         height=\"{height}\" font-size=\"13\">\
         <title>base (light), incumbent (grey) and candidate</title>"
    );
    for (number, group) in groups.iter().enumerate() {
        let y = GROUP_HEIGHT * number as f64;
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{:.1}\">{}</text>",
            y + 28.0,
            group.label
        );
        let bars = [
            (group.base, BASE),
            (group.before, BEFORE),
            (group.after, AFTER),
        ];
        for (row, (share, colour)) in bars.into_iter().enumerate() {
            let top = y + 4.0 + row as f64 * (BAR_HEIGHT + 2.0);
            let length = BAR_WIDTH * share.clamp(0.0, 1.0);
            let _ = write!(
                svg,
                "<rect x=\"{LABEL_WIDTH}\" y=\"{top:.1}\" width=\"{length:.1}\" \
                 height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{:.1}%</text>",
                LABEL_WIDTH + length + 4.0,
                top + 10.0,
                100.0 * share
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

fn groups(evaluation: &Evaluation) -> Vec<Group> {
    let mut groups = Vec::new();
    if let Some(held_out) = evaluation.held_out.as_ref().filter(|h| h.judged() > 0) {
        groups.push(Group {
            label: "held-out exact match",
            base: held_out.share_base(),
            before: held_out.share_before(),
            after: held_out.share_after(),
        });
    }
    if let Some(preference) = &evaluation.preference {
        groups.push(Group {
            label: "chosen answer more likely per token",
            base: preference.accuracy_base,
            before: preference.accuracy_before,
            after: preference.accuracy_after,
        });
    }
    if let Some(replay) = &evaluation.replay {
        let known = replay.base_right.max(1) as f64;
        groups.push(Group {
            label: "replay: what the base knows",
            base: replay.base_right as f64 / known,
            before: replay.incumbent_right as f64 / known,
            after: replay.candidate_right as f64 / known,
        });
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::super::{HeldOut, Replay};
    use super::*;

    #[test]
    fn each_share_has_a_bar_of_each_version() {
        let mut evaluation = Evaluation {
            held_out: Some(HeldOut {
                prompts: 20,
                exact_base: 2,
                exact_before: 5,
                exact_after: 15,
                ..HeldOut::default()
            }),
            preference: None,
            rated: None,
            replay: Some(Replay {
                base_right: 10,
                incumbent_right: 10,
                candidate_right: 9,
                ..Replay::default()
            }),
            tasks: None,
            foreign_base: None,
            finite: true,
            changed: true,
        };
        let svg = bars(&evaluation);
        assert_eq!(svg.matches("<rect").count(), 6);
        let width = "width=\"270.0\"";
        for text in ["10.0%", "25.0%", "75.0%", "100.0%", "90.0%", width] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        (evaluation.held_out, evaluation.replay) = (None, None);
        assert!(!bars(&evaluation).contains("<svg"));
    }
}
