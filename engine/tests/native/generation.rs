//! Every parameter of generation, on the real model: what it does is checked
//! against the model's own logits and log-probabilities.

use std::collections::BTreeMap;

use engine::native::{self, NativeEngine, NativeOptions};
use engine::{ChatEvent, ChatRequest, Constraint, Engine, Grammar, SamplingParams, TokenLogprob};
use futures::future::join_all;
use model::TemplateMessage;
use model::quant::Precision;

use crate::support::{Told, ask, golden, model, request};

const QUESTION: &str = "Write a poem about the sea and the sea and the sea.";

fn start() -> NativeEngine {
    NativeEngine::start(model(), NativeOptions::default()).unwrap()
}

fn sampled(params: SamplingParams, tokens: u32) -> ChatRequest {
    ChatRequest {
        sampling: params,
        top_logprobs: Some(20),
        ..request(QUESTION, tokens)
    }
}

async fn tokens(engine: &NativeEngine, request: ChatRequest) -> Vec<TokenLogprob> {
    ask(engine, request).await.unwrap().choices.remove(0).1
}

/// The bytes of a completion's tokens.
fn bytes(tokens: &[TokenLogprob]) -> Vec<Vec<u8>> {
    tokens.iter().map(|token| token.bytes.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_gives_the_same_answer_alone_and_in_a_batch() {
    let engine = start();
    let asked = |seed: u64| {
        sampled(
            SamplingParams {
                temperature: 1.3,
                top_p: 0.95,
                presence_penalty: 0.4,
                seed,
                ..SamplingParams::default()
            },
            24,
        )
    };
    let alone: Vec<TokenLogprob> = tokens(&engine, asked(0)).await;
    let told: Vec<Told> = join_all((0..8).map(|seed| ask(&engine, asked(seed))))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    // to the last bit of the log-probabilities
    assert_eq!(told[0].choices[0].1, alone);
    for other in &told[1..] {
        assert_ne!(other.choices[0].0, told[0].choices[0].0);
    }
    // another choice of the same request draws from a stream of its own
    let several = ChatRequest { n: 3, ..asked(0) };
    let several = ask(&engine, several).await.unwrap();
    assert_eq!(several.choices[0].1, alone);
    assert_ne!(several.choices[1].1, alone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_drawn_is_what_the_cut_offs_leave() {
    let engine = start();
    let hot = SamplingParams {
        temperature: 1.5,
        seed: 4,
        ..SamplingParams::default()
    };
    let greedy = bytes(&tokens(&engine, sampled(SamplingParams::greedy(), 16)).await);
    for only_the_top in [
        SamplingParams {
            top_k: 1,
            ..hot.clone()
        },
        SamplingParams {
            min_p: 1.0,
            ..hot.clone()
        },
        SamplingParams {
            top_p: 1e-6,
            ..hot.clone()
        },
    ] {
        let drawn = tokens(&engine, sampled(only_the_top.clone(), 16)).await;
        assert_eq!(bytes(&drawn), greedy, "{only_the_top:?}");
    }
    // at temperature 1 the shares that count are the ones that are shown
    let warm = SamplingParams {
        temperature: 1.0,
        seed: 4,
        ..SamplingParams::default()
    };
    let place = |token: &TokenLogprob| token.top.iter().position(|t| t.1 == token.bytes);
    let drawn = tokens(
        &engine,
        sampled(
            SamplingParams {
                top_k: 3,
                ..warm.clone()
            },
            60,
        ),
    )
    .await;
    let places: Vec<usize> = drawn.iter().map(|token| place(token).unwrap()).collect();
    assert_eq!(
        places.iter().max(),
        Some(&2),
        "all three are drawn, and no other"
    );
    let drawn = tokens(
        &engine,
        sampled(
            SamplingParams {
                min_p: 0.2,
                ..warm.clone()
            },
            60,
        ),
    )
    .await;
    for token in &drawn {
        assert!(
            token.logprob >= token.top[0].2 + 0.2f32.ln() - 1e-4,
            "{token:?}"
        );
    }
    assert!(
        drawn.iter().any(|token| place(token) != Some(0)),
        "it is no argmax"
    );
    let drawn = tokens(
        &engine,
        sampled(
            SamplingParams {
                top_p: 0.6,
                ..warm.clone()
            },
            60,
        ),
    )
    .await;
    for token in &drawn {
        let before = token.top[..place(token).unwrap_or(20)].iter();
        let mass: f32 = before.map(|t| t.2.exp()).sum();
        assert!(mass < 0.6 + 1e-4, "{token:?}");
    }
    let free = tokens(&engine, sampled(hot, 60)).await;
    assert!(
        free.iter()
            .any(|token| place(token).is_none_or(|at| at > 2)),
        "heat spreads"
    );
}

/// Greedy decoding by hand: the whole sequence anew for each token, with the
/// penalties as OpenAI's documentation and Hugging Face have them.
fn by_hand(params: &SamplingParams, tokens_max: usize) -> Vec<Vec<u8>> {
    let model = model();
    let message = TemplateMessage {
        role: "user",
        content: QUESTION,
    };
    let prompt = model.encode_chat(&[message], true).unwrap();
    let mut answer: Vec<u32> = Vec::new();
    while answer.len() < tokens_max {
        let tokens: Vec<u32> = prompt.iter().chain(&answer).copied().collect();
        let all = native::logits(&model, None, &tokens, Precision::Int8);
        let mut logits = all[all.len() - model.config.vocab_size..].to_vec();
        for (id, logit) in (0u32..).zip(&mut logits) {
            let count = answer.iter().filter(|&&token| token == id).count();
            if count > 0 || prompt.contains(&id) {
                let penalty = params.repetition_penalty;
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
            if count > 0 {
                *logit -= params.presence_penalty + count as f32 * params.frequency_penalty;
            }
            *logit += params.logit_bias.get(&id).copied().unwrap_or(0.0);
        }
        let best = (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
        answer.push(u32::try_from(best.unwrap()).unwrap());
    }
    let bytes = |id: u32| model.tokenizer.token_bytes(id).to_vec();
    answer.into_iter().map(bytes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn penalties_and_biases_are_those_of_openai() {
    let engine = start();
    let free = by_hand(&SamplingParams::greedy(), 14);
    let first = free[0].clone();
    let vocabulary = u32::try_from(model().config.vocab_size).unwrap();
    let first_id = (0..vocabulary).find(|&id| model().tokenizer.token_bytes(id) == first);
    let bias = |value: f32| BTreeMap::from([(first_id.unwrap(), value)]);
    let greedy = SamplingParams::greedy;
    for params in [
        SamplingParams {
            frequency_penalty: 2.0,
            ..greedy()
        },
        SamplingParams {
            presence_penalty: -2.0,
            ..greedy()
        },
        SamplingParams {
            repetition_penalty: 1.4,
            ..greedy()
        },
        SamplingParams {
            logit_bias: bias(-100.0),
            ..greedy()
        },
        SamplingParams {
            logit_bias: bias(6.0),
            frequency_penalty: 0.8,
            ..greedy()
        },
    ] {
        let expected = by_hand(&params, 14);
        assert_ne!(expected, free, "{params:?} changes nothing");
        let found = tokens(&engine, sampled(params.clone(), 14)).await;
        assert_eq!(bytes(&found), expected, "{params:?}");
    }
    let forced = SamplingParams {
        logit_bias: bias(100.0),
        ..SamplingParams::default()
    };
    let found = bytes(&tokens(&engine, sampled(forced, 5)).await);
    assert_eq!(found, vec![first; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_found_wherever_tokens_end() {
    let engine = start();
    let whole = ask(&engine, request(QUESTION, 20))
        .await
        .unwrap()
        .choices
        .remove(0)
        .0;
    let starts: Vec<usize> = whole.char_indices().map(|(i, _)| i).collect();
    for window in starts.windows(6).step_by(5) {
        // five characters: the tokens of this model are shorter and longer
        let stop = whole[window[0]..window[5]].to_owned();
        let stopped = ChatRequest {
            stop: vec!["never said".to_owned(), stop.clone()],
            ..request(QUESTION, 20)
        };
        let told = ask(&engine, stopped).await.unwrap();
        let expected = &whole[..whole.find(&stop).unwrap()];
        assert_eq!(told.choices[0].0, expected, "{stop:?}");
        assert!(told.usage.completion_tokens <= 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_is_passed_over_where_it_is_to_be_ignored() {
    let engine = start();
    let short = |ignore_eos| ChatRequest {
        ignore_eos,
        ..request("Say hello.", 60)
    };
    let ended = ask(&engine, short(false)).await.unwrap();
    let count = ended.usage.completion_tokens;
    assert!(count < 60, "the model ends by itself");
    let told = ask(&engine, short(true)).await.unwrap();
    assert_eq!(told.usage.completion_tokens, 60);
    let text = &told.choices[0].0;
    assert!(text.starts_with(&ended.choices[0].0), "{text}");
    assert!(
        !text.contains("<|im_end|>"),
        "control tokens are no text: {text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_character_of_several_tokens_comes_whole() {
    let engine = start();
    let asked = ChatRequest {
        constraint: Some(Constraint {
            param: "structured_outputs",
            grammar: Grammar::Regex("(🦀|𓂀|鬱){12}".to_owned()),
        }),
        sampling: SamplingParams {
            seed: 2,
            ..SamplingParams::default()
        },
        top_logprobs: Some(0),
        ignore_eos: false,
        ..request("Draw.", 200)
    };
    let mut stream = engine.chat(asked).await.unwrap();
    let (mut text, mut count) = (String::new(), 0);
    while let Some(event) = stream.events.recv().await {
        if let ChatEvent::Delta {
            text: more,
            logprobs,
            ..
        } = event.unwrap()
        {
            assert!(!more.contains(char::REPLACEMENT_CHARACTER), "{more}");
            text.push_str(&more);
            count += logprobs.len();
        }
    }
    assert_eq!(text.chars().count(), 12, "{text}");
    assert!(count > 12, "{count} tokens: no character was split");
}

/// The largest difference from transformers, which is given the same tokens.
async fn farthest(precision: Precision) -> f32 {
    let options = NativeOptions {
        precision,
        ..NativeOptions::default()
    };
    let engine = NativeEngine::start(model(), options).unwrap();
    let golden = golden("logprobs_transformers.json");
    let mut farthest = 0.0f32;
    for row in golden["rows"].as_array().unwrap() {
        let expected = row["tokens"].as_array().unwrap();
        let asked = ChatRequest {
            top_logprobs: Some(5),
            ignore_eos: false,
            ..request(
                row["prompt"].as_str().unwrap(),
                u32::try_from(expected.len()).unwrap(),
            )
        };
        let told = ask(&engine, asked).await.unwrap();
        assert_eq!(row["prompt_tokens"], told.usage.prompt_tokens);
        let bytes_of = |value: &serde_json::Value| -> Vec<u8> {
            serde_json::from_value(value.clone()).unwrap()
        };
        for (token, expected) in told.choices[0].1.iter().zip(expected) {
            if bytes_of(&expected["bytes"]) != token.bytes {
                // a near-tie went the other way: what follows is another text
                assert_ne!(precision, Precision::F32, "{token:?} is not {expected}");
                break;
            }
            let mut differs = |found: f32, expected: &serde_json::Value| {
                let expected = expected.as_f64().unwrap();
                farthest = farthest.max((f64::from(found) - expected).abs() as f32);
            };
            differs(token.logprob, &expected["logprob"]);
            for alternative in expected["top"].as_array().unwrap() {
                let bytes = bytes_of(&alternative[0]);
                match token.top.iter().find(|top| top.1 == bytes) {
                    Some(found) => differs(found.2, &alternative[1]),
                    // rounding may move the last places, never the first
                    None => assert!(precision != Precision::F32, "{alternative}"),
                }
            }
        }
        assert_eq!(told.choices[0].1.len(), expected.len());
    }
    farthest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_probabilities_are_those_of_transformers() {
    let exact = farthest(Precision::F32).await;
    assert!(exact < 2e-3, "{exact}");
    let rounded = farthest(Precision::Int8).await;
    println!("log-probabilities: at most {exact} off in f32, {rounded} as served");
    assert!(rounded < 0.5, "{rounded}");
}
