//! Against llama.cpp and transformers on the same file. How the golden files
//! are made is in `tests/scripts`.

use engine::native::{self, KvFormat};
use model::quant::Precision;
use serde_json::Value;

use crate::support::{golden, model};

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let total: f64 = logits.iter().map(|&l| (f64::from(l) - max).exp()).sum();
    logits
        .iter()
        .map(|&l| f64::from(l) - max - total.ln())
        .collect()
}

/// The most likely token, and how far ahead of `other` it is in nats.
fn top_and_gap(logits: &[f32], other: u32) -> (u32, f32) {
    let top = (0..logits.len())
        .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
        .unwrap();
    (
        u32::try_from(top).unwrap(),
        logits[top] - logits[other as usize],
    )
}

/// Teacher-forced over llama.cpp's greedy answers: the share of positions at
/// which the top token is llama.cpp's. Every other one must be a near-tie.
fn agreement(file: &str) -> f64 {
    let model = model();
    let (mut positions, mut agreed) = (0u32, 0u32);
    for row in golden(file)["rows"].as_array().unwrap() {
        let (prompt, answer) = (ids(&row["prompt_ids"]), ids(&row["answer_ids"]));
        let tokens: Vec<u32> = prompt.iter().chain(&answer).copied().collect();
        let logits = native::logits(&model, None, &tokens, Precision::Int8);
        let rows = logits
            .chunks_exact(model.config.vocab_size)
            .skip(prompt.len() - 1);
        for (expected, logits) in answer.iter().zip(rows) {
            let (top, gap) = top_and_gap(logits, *expected);
            assert!(
                gap < 0.5,
                "{}: {top} is {gap} nats ahead of {expected}",
                row["prompt"]
            );
            positions += 1;
            agreed += u32::from(top == *expected);
        }
    }
    println!("{file}: {agreed} of {positions} positions agree");
    assert!(positions > 500, "{file} has only {positions} positions");
    f64::from(agreed) / f64::from(positions)
}

#[test]
fn answers_to_questions_are_llama_cpps_except_at_near_ties() {
    let share = agreement("llama_cpp_questions.json");
    assert!(share >= 0.97, "{share:.4}");
}

/// Free-form text has more near-ties. The exact f32 forward pass, which has no
/// rounding of ours in it, agrees with llama.cpp here at 96.3%, since
/// llama.cpp's own rounding decides them; so that is not asked to be exceeded.
#[test]
fn free_form_answers_are_llama_cpps_except_at_near_ties() {
    let share = agreement("llama_cpp_greedy.json");
    assert!(share >= 0.955, "{share:.4}");
}

/// As `divergence` in the script: over the stored tokens and the rest.
fn divergence(stored: &Value, logits: &[f32]) -> f64 {
    let ours = log_softmax(logits);
    let top = ids(&stored["top"]);
    let logp = stored["logp"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l.as_f64().unwrap());
    let (mut kl, mut rest_p, mut rest_q) = (0.0, 1.0, 1.0);
    for (token, logp) in top.iter().zip(logp) {
        let q = ours[*token as usize];
        kl += logp.exp() * (logp - q);
        rest_p -= logp.exp();
        rest_q -= q.exp();
    }
    let (rest_p, rest_q) = (rest_p.max(1e-9), rest_q.max(1e-9));
    kl + rest_p * (rest_p / rest_q).ln()
}

/// Our divergence, of logits computed so from tokens, and llama.cpp's.
pub(crate) fn mean_divergence(logits: impl Fn(&[u32]) -> Vec<f32>) -> (f64, f64) {
    let vocab_size = model().config.vocab_size;
    let golden = golden("kl_transformers.json");
    let mut all = Vec::new();
    for row in golden["rows"].as_array().unwrap() {
        let logits = logits(&ids(&row["tokens"]));
        let rows: Vec<&[f32]> = logits.chunks_exact(vocab_size).collect();
        for position in row["positions"].as_array().unwrap() {
            let at = usize::try_from(position["at"].as_u64().unwrap()).unwrap();
            all.push(divergence(position, rows[at]));
        }
    }
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    (mean, golden["llama_cpp_mean_kl"].as_f64().unwrap())
}

#[test]
fn the_divergence_from_transformers_is_no_more_than_llama_cpps() {
    let (ours, llama_cpps) =
        mean_divergence(|tokens| native::logits(&model(), None, tokens, Precision::Int8));
    assert!(ours <= 1.1 * llama_cpps, "{ours} against {llama_cpps}");
}

#[test]
fn in_f32_nothing_but_rounding_differs_from_transformers() {
    let (ours, _) =
        mean_divergence(|tokens| native::logits(&model(), None, tokens, Precision::F32));
    assert!(ours < 1e-5, "{ours}");
}

/// Measured: 0.0027 nats, against 0.0020 with the cache in f32 and llama.cpp's
/// 0.0032 with its own in f16.
#[test]
fn with_the_cache_in_eight_bits_the_divergence_stays_in_bounds() {
    let (model, kv_cache) = (model(), KvFormat::Q8_0);
    let (ours, llama_cpps) = mean_divergence(|tokens| {
        native::logits_with_cache(&model, None, tokens, Precision::Int8, kv_cache)
    });
    println!("{ours:.6} nats, llama.cpp {llama_cpps:.6}");
    assert!(ours <= llama_cpps, "{ours} against {llama_cpps}");
}
