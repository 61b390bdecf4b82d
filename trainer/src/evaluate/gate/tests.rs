//! Each reason to refuse, alone.

use super::super::{Comparison, HeldOut, PreferenceScores, RatedScores, Replay, Row};
use super::*;

fn good() -> Evaluation {
    Evaluation {
        held_out: Some(HeldOut {
            prompts: 20,
            exact_before: 0,
            exact_after: 15,
            ..HeldOut::default()
        }),
        preference: Some(PreferenceScores {
            pairs: 20,
            reward_accuracy: 1.0,
            ..PreferenceScores::default()
        }),
        replay: Some(Replay {
            prompts: 120,
            base_right: 100,
            incumbent_right: 100,
            candidate_right: 98,
            ..Replay::default()
        }),
        rated: None,
        tasks: None,
        foreign_base: None,
        finite: true,
        changed: true,
    }
}

type Spoil = fn(&mut Evaluation);

/// Each of these alone is refused, by a sentence with the word.
fn each_is_refused(spoils: &[(Spoil, &str)]) {
    for (spoil, word) in spoils {
        let mut evaluation = good();
        spoil(&mut evaluation);
        let refusals = verdict(&evaluation, &GateConfig::default());
        assert_eq!(refusals.len(), 1, "{word}: {refusals:?}");
        assert!(refusals[0].to_string().contains(word), "{}", refusals[0]);
    }
}

#[test]
fn after_thumbs_alone_bad_answers_must_fall_and_good_ones_not() {
    let gate = GateConfig::default();
    let of = |ups, downs, good_shift_per_token, bad_shift_per_token| {
        let rated = Some(RatedScores {
            good: ups,
            bad: downs,
            good_shift_per_token,
            bad_shift_per_token,
            accuracy: 1.0,
            ..RatedScores::default()
        });
        let evaluation = Evaluation {
            held_out: None,
            preference: None,
            rated,
            ..good()
        };
        verdict(&evaluation, &gate)
    };
    assert_eq!(of(5, 5, 0.1, -0.1), []);
    assert_eq!(of(5, 5, 0.0, -0.1), []);
    assert_eq!(of(0, 5, 0.0, -0.1), []);
    assert_eq!(of(5, 0, 0.1, 0.0), []);
    for bad in [
        of(5, 5, -0.01, -0.1),
        of(5, 5, 0.1, 0.0),
        of(5, 0, 0.0, 0.0),
        of(5, 5, f64::NAN, -0.1),
        of(5, 5, 0.1, f64::NAN),
    ] {
        assert!(matches!(bad[..], [Refusal::Thumbs { .. }]), "{bad:?}");
    }
    assert!(matches!(
        of(0, 0, 0.0, 0.0)[..],
        [Refusal::TooLittleHeldOut { .. }]
    ));
}

#[test]
fn a_good_candidate_passes_and_each_fault_is_named() {
    assert_eq!(verdict(&good(), &GateConfig::default()), []);
    let spoils: [(Spoil, &str); 6] = [
        (|e| e.finite = false, "finite"),
        (|e| e.changed = false, "changes nothing"),
        (
            |e| {
                e.held_out = Some(HeldOut {
                    prompts: 20,
                    ..HeldOut::default()
                })
            },
            "exact match",
        ),
        (
            |e| {
                let scores = PreferenceScores {
                    pairs: 9,
                    ..PreferenceScores::default()
                };
                e.preference = Some(scores);
            },
            "preference",
        ),
        (
            |e| {
                e.replay = Some(Replay {
                    base_right: 50,
                    candidate_right: 40,
                    ..Replay::default()
                })
            },
            "replay",
        ),
        (
            |e| {
                let answers = HeldOut {
                    prompts: 20,
                    exact_after: 15,
                    degenerate: 5,
                    ..HeldOut::default()
                };
                e.held_out = Some(answers);
            },
            "repeat",
        ),
    ];
    each_is_refused(&spoils);
}

#[test]
fn held_out_pairs_may_not_be_ranked_worse_than_by_the_incumbent() {
    let default = GateConfig::default();
    let of = |accuracy_after: f64, margin_after: f64, gate: &GateConfig| {
        let scores = PreferenceScores {
            pairs: 50,
            accuracy_before: 0.5,
            accuracy_after,
            reward_accuracy: 0.7,
            margin_before: -5.1,
            margin_after,
            ..PreferenceScores::default()
        };
        let evaluation = Evaluation {
            preference: Some(scores),
            ..good()
        };
        verdict(&evaluation, gate)
    };
    assert_eq!(of(0.7, -0.03, &default), []);
    assert_eq!(of(0.5, -5.1, &default), []);
    // one of 50 pairs is two points, however they are rounded
    assert_eq!(of(0.48, -5.1, &default), []);
    let lost = of(0.46, -0.03, &default);
    assert!(matches!(lost[..], [Refusal::Lost { .. }]), "{lost:?}");
    let text = lost[0].to_string();
    assert!(text.contains("held-out pairs") && text.contains("4.0 points"));
    let fell = of(0.7, -5.2, &default);
    assert!(matches!(fell[..], [Refusal::Margin { .. }]), "{fell:?}");
    assert!(fell[0].to_string().contains("0.100 nat below"), "{fell:?}");
    assert_eq!(of(0.4, -6.0, &default).len(), 2);
    let unmeasured = of(0.7, f64::NAN, &default);
    assert!(matches!(unmeasured[..], [Refusal::NotMeasured]));
    let lenient = GateConfig {
        points_lost_max: 10.5,
        margin_lost_max: 1.0,
        ..default
    };
    assert_eq!(of(0.4, -6.0, &lenient), []);
}

#[test]
fn margins_of_evaluation_files_may_fall_a_little() {
    let of = |difference| {
        let margin = Row {
            metric: Metric::PreferenceMargin,
            ..row("other", difference)
        };
        let evaluation = with_tasks(vec![row("goal", 0.1), margin]);
        verdict(&evaluation, &GateConfig::default())
    };
    assert_eq!(of(0.5), []);
    assert_eq!(of(-0.09), []);
    assert!(matches!(of(-0.11)[..], [Refusal::Margin { .. }]));
}

#[test]
fn nothing_held_out_is_refused() {
    let empty = Evaluation {
        held_out: None,
        preference: None,
        rated: None,
        replay: None,
        tasks: None,
        foreign_base: None,
        finite: true,
        changed: true,
    };
    assert_eq!(verdict(&empty, &GateConfig::default()).len(), 1);
}

fn row(set: &str, difference: f64) -> Row {
    Row {
        set: set.to_owned(),
        metric: Metric::ExactMatch,
        tasks: 50,
        base: 0.5,
        incumbent: 0.5,
        candidate: 0.5 + difference,
        difference,
        low: difference,
        high: difference,
    }
}

fn with_tasks(rows: Vec<Row>) -> Evaluation {
    Evaluation {
        tasks: Some(Comparison {
            rows,
            ..Comparison::default()
        }),
        ..good()
    }
}

#[test]
fn the_goal_must_rise_and_nothing_else_fall() {
    let gate = GateConfig::default();
    let of = |goal, other| verdict(&with_tasks(vec![row("goal", goal), row("a", other)]), &gate);
    assert_eq!(of(0.1, 0.0), []);
    assert_eq!(of(0.1, -0.019), []);
    assert!(matches!(of(0.0, 0.0)[..], [Refusal::Goal { .. }]));
    assert!(matches!(of(0.1, -0.03)[..], [Refusal::Lost { .. }]));
    assert!(matches!(of(f64::NAN, 0.0)[0], Refusal::NotMeasured));
}

#[test]
fn strange_answers_and_foreign_adapters_do_not_get_out() {
    let spoils: [(Spoil, &str); 6] = [
        (
            |e| e.foreign_base = Some(BaseDigest(ids::Sha256Digest::of(b"another"))),
            "another base",
        ),
        (
            |e| e.replay.iter_mut().for_each(|r| r.length_ratio = 3.1),
            "as long",
        ),
        (
            |e| e.replay.iter_mut().for_each(|r| r.length_ratio = 0.32),
            "as long",
        ),
        (
            |e| e.held_out.iter_mut().for_each(|h| h.declined = 3),
            "decline",
        ),
        (
            |e| e.replay.iter_mut().for_each(|r| r.declined = 13),
            "decline",
        ),
        (
            |e| e.replay.iter_mut().for_each(|r| r.degenerate = 7),
            "repeat",
        ),
    ];
    each_is_refused(&spoils);
}

#[test]
fn answers_may_become_somewhat_longer_or_shorter() {
    let gate = GateConfig::default();
    for (ratio, passes) in [
        (0.0, true), // not measured
        (1.0, true),
        (2.9, true),
        (0.35, true),
        (3.1, false),
        (0.33, false),
    ] {
        let mut evaluation = good();
        evaluation
            .replay
            .iter_mut()
            .for_each(|r| r.length_ratio = ratio);
        assert_eq!(verdict(&evaluation, &gate).is_empty(), passes, "{ratio}");
    }
    // what the base does too is no fault of the candidate's
    let mut evaluation = good();
    if let Some(replay) = &mut evaluation.replay {
        (replay.degenerate, replay.degenerate_base) = (60, 60);
        (replay.declined, replay.declined_base) = (60, 60);
    }
    assert_eq!(verdict(&evaluation, &gate), []);
}

#[test]
fn whatever_a_metric_loses_beyond_the_margin_is_refused() {
    // Every loss on a grid, for each share: refused exactly above the margin.
    let gate = GateConfig::default();
    for step in 0..=100 {
        let points = f64::from(step) * 0.5;
        let evaluation = with_tasks(vec![row("goal", 0.2), row("other", -points / 100.0)]);
        let refused = !verdict(&evaluation, &gate).is_empty();
        assert_eq!(refused, points > gate.points_lost_max + 1e-9, "{points}");
    }
}

#[test]
fn without_a_declared_answer_no_gain_in_exact_match_is_asked_for() {
    let gate = GateConfig::default();
    let of = |unknown, whole| {
        let mut evaluation = good();
        evaluation.held_out = Some(HeldOut {
            prompts: 20,
            unknown,
            whole,
            length_ratio: 1.0,
            ..HeldOut::default()
        });
        verdict(&evaluation, &gate)
    };
    assert_eq!(of(0, 20), []);
    assert_eq!(of(20, 0), []);
    assert!(matches!(of(0, 19)[..], [Refusal::ExactMatchGain { .. }]));
    let strict = GateConfig {
        exact_match_min: 0.5,
        ..GateConfig::default()
    };
    let mut evaluation = good();
    evaluation.held_out = Some(HeldOut {
        prompts: 4,
        whole: 4,
        ..HeldOut::default()
    });
    let refusals = verdict(&evaluation, &strict);
    assert!(matches!(refusals[..], [Refusal::ExactMatch { .. }]));
}

#[test]
fn held_out_answers_may_not_grow_out_of_all_proportion() {
    let mut evaluation = good();
    for (ratio, passes) in [(0.0, true), (2.9, true), (3.1, false), (0.3, false)] {
        if let Some(answers) = &mut evaluation.held_out {
            answers.length_ratio = ratio;
        }
        let refusals = verdict(&evaluation, &GateConfig::default());
        assert_eq!(refusals.is_empty(), passes, "{refusals:?}");
        let named = |r: &Refusal| r.to_string().contains("held-out answers are");
        assert!(passes || named(&refusals[0]));
    }
}

#[test]
fn tasks_are_evidence_and_nothing_never_is() {
    let nothing = Evaluation {
        held_out: None,
        preference: None,
        replay: None,
        ..good()
    };
    let gate = GateConfig {
        held_out_min: 0,
        ..GateConfig::default()
    };
    let refusals = verdict(&nothing, &gate);
    assert!(matches!(
        refusals[..],
        [Refusal::TooLittleHeldOut { min: 1, .. }]
    ));
    let row = Row {
        set: super::super::GOAL.to_owned(),
        metric: Metric::ExactMatch,
        tasks: 12,
        base: 0.1,
        incumbent: 0.1,
        candidate: 0.6,
        difference: 0.5,
        low: 0.3,
        high: 0.7,
    };
    let tasks = Comparison {
        rows: vec![row],
        ..Comparison::default()
    };
    let told = Evaluation {
        tasks: Some(tasks),
        ..nothing
    };
    let gate = |held_out_min| GateConfig {
        held_out_min,
        ..GateConfig::default()
    };
    assert_eq!(verdict(&told, &gate(12)), []);
    assert!(!verdict(&told, &gate(13)).is_empty());
}
