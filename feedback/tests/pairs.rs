//! Preference pairs, examples, splits and tokens, on cases made up here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use feedback::pairs::{Case, PairOptions, Reason, Source, build, to_jsonl};
use feedback::token::{Signer, TokenError};
use feedback::{Attribution, Inference, Message, MessageImage, Value, VoteRecord};
use ids::{BaseDigest, FeedbackId, InferenceId, RaterId, Sha256Digest, UnixMillis};

fn case(id: &str, prompt: &str, answer: &str, split: &str, votes: &[(&str, Value)]) -> Case {
    let inference = Inference {
        id: InferenceId::new(id).unwrap(),
        created: UnixMillis(0),
        model: "m".to_owned(),
        rollout: None,
        arm: None,
        unit: None,
        adapter: None,
        base: BaseDigest(Sha256Digest::of(b"base")),
        messages: vec![Message::new("user", prompt)],
        answer: answer.to_owned(),
        finish_reason: "stop".to_owned(),
        prompt_tokens: 1,
        completion_tokens: 1,
        seed: 0,
        metadata: BTreeMap::from([("split".to_owned(), split.to_owned())]),
    };
    let vote = |(number, (rater, value)): (usize, &(&str, Value))| VoteRecord {
        id: FeedbackId::new(format!("{id}-{number}")).unwrap(),
        inference: inference.id.clone(),
        rater: RaterId::new(*rater).unwrap(),
        value: value.clone(),
        tags: BTreeMap::from([("expect".to_owned(), "42".to_owned())]),
        created: UnixMillis(0),
        adapter: None,
        arm: None,
        rollout: None,
        unit: None,
        superseded_by: None,
        retracted: false,
    };
    let votes = votes.iter().enumerate().map(vote).collect();
    Case { inference, votes }
}

fn correction(text: &str) -> Value {
    Value::Demonstration(text.to_owned())
}

#[test]
fn chosen_is_the_correction_else_a_praised_answer_to_the_same_prompt() {
    let (up, down) = (Value::Thumbs(true), Value::Thumbs(false));
    let cases = [
        case(
            "a",
            "one?",
            "bad",
            "train",
            &[("r", down.clone()), ("r", correction("It is 42."))],
        ),
        case("b", "two?", "bad", "train", &[("r", down.clone())]),
        case("c", " two? ", "good", "train", &[("s", up.clone())]),
        case("d", "three?", "bad", "train", &[("r", down)]),
        case("e", "four?", "good", "held_out", &[("s", up)]),
    ];
    let made = build(&cases, &PairOptions::default()).unwrap();
    let sources: Vec<_> = made
        .train
        .iter()
        .map(|pair| (pair.chosen.as_str(), pair.provenance.source))
        .collect();
    assert_eq!(
        sources,
        [
            ("It is 42.", Source::Demonstration),
            ("good", Source::ThumbsUp)
        ]
    );
    assert_eq!(made.train[1].provenance.inferences.len(), 2);
    assert_eq!(made.train[0].tags["expect"], "42");
    assert_eq!(
        (
            made.report.bad_cases,
            made.report.unpaired,
            made.upvoted.len()
        ),
        (3, 1, 2)
    );
    let mut turned = cases.to_vec();
    turned.reverse();
    assert_eq!(build(&turned, &PairOptions::default()).unwrap(), made);
    let line: serde_json::Value =
        serde_json::from_str(to_jsonl(&made.train).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(line["preferred_output"][0]["content"], "It is 42.");
    assert_eq!(line["non_preferred_output"][0]["role"], "assistant");
    assert_eq!(line["input"]["messages"][0]["content"], "one?");
}

#[test]
fn useless_repeated_overlapping_and_too_many_rows_are_left_out() {
    let long =
        "please tell me in a few words what the code of the harbour office in the old town is";
    let cases = [
        case("a", "one?", "same", "train", &[("r", correction(" same "))]),
        case("b", "two?", "", "train", &[("r", correction("42"))]),
        case("c", "three?", "bad", "train", &[("r", correction("42"))]),
        case("d", "three?", "bad", "train", &[("s", correction("４２"))]),
        case(
            "e",
            &format!("Well, {long}?"),
            "bad",
            "train",
            &[("r", correction("42"))],
        ),
        case(
            "f",
            &format!("So {long}!"),
            "bad",
            "held_out",
            &[("r", correction("42"))],
        ),
        case("g", "five?", "bad", "train", &[("r", correction("42"))]),
    ];
    let options = PairOptions {
        rater_pairs_max: 1,
        ..PairOptions::default()
    };
    let made = build(&cases, &options).unwrap();
    let report = made.report;
    assert_eq!((report.equal, report.empty, report.duplicates), (1, 1, 1));
    assert_eq!((report.contaminated, report.over_rater_cap), (1, 1));
    let listed: Vec<(&str, &str, Reason)> = made
        .left_out
        .iter()
        .map(|row| {
            (
                row.inferences[0].as_str(),
                row.votes[0].as_str(),
                row.reason,
            )
        })
        .collect();
    let expected = [
        ("a", "a-0", Reason::Equal),
        ("b", "b-0", Reason::Empty),
        ("d", "d-0", Reason::Duplicate),
        ("e", "e-0", Reason::Contaminated),
        ("g", "g-0", Reason::OverRaterCap),
    ];
    assert_eq!(listed, expected);
    assert_eq!((made.train.len(), made.held_out.len()), (1, 1));
}

/// What an image showed is not kept, so nothing is learned of an answer to it, and
/// it lends its answer to nobody whose question only reads the same.
#[test]
fn an_answer_to_an_image_becomes_no_row_and_is_listed() {
    let (up, down) = (Value::Thumbs(true), Value::Thumbs(false));
    let correct = correction("A heron.");
    let mut cases = [
        case("a", "what?", "A stork.", "train", &[("r", correct)]),
        case("b", "what?", "A crane.", "held_out", &[("r", up)]),
        case("c", "what?", "Text.", "train", &[("r", down)]),
        case("d", "what?", "Nobody said.", "train", &[]),
    ];
    for at in [0, 1, 3] {
        let image = MessageImage {
            digest: Sha256Digest::of(b"an image"),
            bytes: 8,
            media_type: "image/png".to_owned(),
        };
        cases[at].inference.messages[0].images.push(image);
    }
    let made = build(&cases, &PairOptions::default()).unwrap();
    let listed = made.left_out.iter();
    let listed: Vec<_> = listed
        .map(|row| (row.inferences[0].as_str(), row.votes.len(), row.reason))
        .collect();
    let expected = [("a", 1, Reason::HasImage), ("b", 1, Reason::HasImage)];
    assert_eq!(listed, expected);
    assert_eq!((made.report.with_images, made.report.bad_cases), (2, 1));
    assert!(made.train.is_empty() && made.held_out.is_empty() && made.upvoted.is_empty());
}

#[test]
fn a_message_says_that_it_had_an_image_and_older_ones_are_read() {
    let old = r#"{"role":"user","content":"what?"}"#;
    let mut message: Message = serde_json::from_str(old).unwrap();
    assert_eq!(message, Message::new("user", "what?"));
    assert_eq!(serde_json::to_string(&message).unwrap(), old);
    message.images.push(MessageImage {
        digest: Sha256Digest::of(b"an image"),
        bytes: 8,
        media_type: "image/png".to_owned(),
    });
    let text = serde_json::to_string(&message).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    let image = &kept["images"][0];
    assert_eq!(image["digest"], Sha256Digest::of(b"an image").to_string());
    assert_eq!(image.as_object().unwrap().len(), 3, "and nothing else");
    assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
}

#[test]
fn a_token_speaks_for_one_answer_until_it_expires() {
    let signer = Signer::new(&[7; 32]).unwrap();
    assert_eq!(Signer::new(&[7; 31]).unwrap_err(), TokenError::ShortKey);
    let said = Attribution {
        inference: InferenceId::new("a").unwrap(),
        rollout: None,
        arm: Some("canary".to_owned()),
        adapter: None,
        unit: None,
    };
    let token = signer.sign(&said, UnixMillis(100)).unwrap();
    assert_eq!(signer.verify(&token, UnixMillis(99)), Ok(said));
    assert_eq!(
        signer.verify(&token, UnixMillis(100)),
        Err(TokenError::Expired)
    );
    let other = Signer::new(&[8; 32]).unwrap();
    assert_eq!(
        other.verify(&token, UnixMillis(0)),
        Err(TokenError::Invalid)
    );
    for i in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(bytes).unwrap();
        assert_eq!(
            signer.verify(&forged, UnixMillis(0)),
            Err(TokenError::Invalid),
            "byte {i}"
        );
    }
}
