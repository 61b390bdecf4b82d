//! The repetition detector on answers of every kind.

use rollout::is_degenerate;

/// Ordinary answers, separated by lines of `%%%`.
const GOOD: &str = include_str!("answers_good.txt");
/// Broken ones.
const BAD: &str = include_str!("answers_bad.txt");

fn samples(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n%%%\n").map(str::trim)
}

#[test]
fn ordinary_answers_are_let_pass() {
    assert!(samples(GOOD).count() >= 20);
    for answer in samples(GOOD) {
        assert!(!is_degenerate(answer), "flagged: {answer}");
    }
}

#[test]
fn ordinary_answers_are_let_pass_wherever_they_are_cut() {
    for answer in samples(GOOD) {
        let chars: Vec<char> = answer.chars().collect();
        for end in (1..=chars.len()).step_by(7) {
            let cut: String = chars[..end].iter().collect();
            assert!(!is_degenerate(&cut), "flagged: {cut}");
        }
    }
}

#[test]
fn broken_answers_are_found() {
    assert!(samples(BAD).count() >= 10);
    for answer in samples(BAD) {
        assert!(is_degenerate(answer), "not flagged: {answer}");
    }
}

#[test]
fn a_loop_after_an_ordinary_beginning_is_found_in_every_answer() {
    for good in samples(GOOD) {
        for part in [
            "the ",
            "ja ja nein ",
            "我不知道。",
            "I am sorry, I do not know that. ",
        ] {
            let broken = format!("{good}\n{}", part.repeat(200 / part.chars().count() + 1));
            assert!(is_degenerate(&broken), "not flagged: {broken}");
        }
    }
}

#[test]
fn a_loop_with_a_counter_is_found() {
    let line = |i| format!("{i}. The train leaves from the main station at the usual time.\n");
    let broken: String = (1..40).map(line).collect();
    assert!(is_degenerate(&broken), "{broken}");
}

#[test]
fn all_ordinary_answers_in_a_row_are_no_loop() {
    assert!(!is_degenerate(GOOD));
}
