//! What an operator should hear of, though it may be published.

use serde_json::{Value, json};

use super::Evaluation;

/// The event's name.
const DISPLACEMENT: &str = "displacement";

/// The name and the detail of the event where held-out chosen answers lost
/// likelihood: the margin may rise while both answers of a pair become rarer.
#[must_use]
pub fn alarm(evaluation: &Evaluation) -> Option<(&'static str, Value)> {
    let scores = evaluation.preference.as_ref()?;
    let detail = json!({
        "pairs": scores.pairs,
        "chosen_shift_per_token": scores.chosen_shift_per_token,
        "interval": scores.chosen_shift_interval,
    });
    scores.displaced.then_some((DISPLACEMENT, detail))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::PreferenceScores;
    use super::*;

    #[test]
    fn only_displacement_is_an_alarm() {
        let of = |preference| Evaluation {
            held_out: None,
            preference,
            rated: None,
            replay: None,
            tasks: None,
            foreign_base: None,
            finite: true,
            changed: true,
        };
        assert!(alarm(&of(None)).is_none());
        let mut scores = PreferenceScores {
            pairs: 4,
            chosen_shift_per_token: -0.25,
            displaced: true,
            ..PreferenceScores::default()
        };
        let (event, detail) = alarm(&of(Some(scores.clone()))).unwrap();
        assert_eq!(event, "displacement");
        assert_eq!(detail["pairs"], 4);
        assert_eq!(detail["chosen_shift_per_token"], -0.25);
        scores.displaced = false;
        assert!(alarm(&of(Some(scores))).is_none());
    }
}
