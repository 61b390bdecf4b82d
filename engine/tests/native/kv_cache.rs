//! Keys and values in eight bits on the real model: how far the answers are
//! from those with the cache as it is computed, and what it saves.

use engine::Engine as _;
use engine::native::{self, KvFormat, NativeEngine, NativeOptions};
use model::quant::Precision;

use crate::support::{ask, golden, model, request, tiny};

/// Kullback-Leibler divergence of `other` from `logits`, in nats, and whether
/// the most likely token is the same.
fn compare(logits: &[f32], other: &[f32]) -> (f64, bool) {
    let log_softmax = |logits: &[f32]| {
        let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        let total: f64 = logits.iter().map(|&l| (f64::from(l) - max).exp()).sum();
        let each = logits.iter().map(|&l| f64::from(l) - max - total.ln());
        each.collect::<Vec<f64>>()
    };
    let (p, q) = (log_softmax(logits), log_softmax(other));
    let kl = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
    let top = |logits: &[f32]| (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    (kl, top(logits) == top(other))
}

/// Rows of the golden whose answers are compared.
const ROWS: usize = 12;

/// Over some of the golden's answers: the mean divergence of a cache in eight
/// bits from one in f32, and the share of positions with the same top token.
fn change(precision: Precision) -> (f64, f64) {
    let model = model();
    let (mut kl, mut agreed, mut positions) = (0.0, 0u32, 0u32);
    let golden = golden("llama_cpp_greedy.json");
    for row in golden["rows"].as_array().unwrap().iter().take(ROWS) {
        let ids = |key: &str| {
            let ids = row[key].as_array().unwrap().iter();
            ids.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
                .collect::<Vec<u32>>()
        };
        let tokens = [ids("prompt_ids"), ids("answer_ids")].concat();
        let with = |kv_cache| native::logits_with_cache(&model, None, &tokens, precision, kv_cache);
        let (exact, eight) = (with(KvFormat::F32), with(KvFormat::Q8_0));
        assert_ne!(exact, eight, "it is not in use");
        let vocab = model.config.vocab_size;
        for (a, b) in exact.chunks_exact(vocab).zip(eight.chunks_exact(vocab)) {
            let (divergence, agrees) = compare(a, b);
            kl += divergence;
            agreed += u32::from(agrees);
            positions += 1;
        }
    }
    let positions = f64::from(positions);
    let (kl, share) = (kl / positions, f64::from(agreed) / positions);
    println!("{precision:?}: {positions} positions, {kl:.6} nats, {share:.4} agree");
    assert!(positions > 500.0);
    (kl, share)
}

#[test]
fn eight_bits_alone_change_the_real_models_answers_little() {
    let (kl, share) = change(Precision::F32);
    assert!(kl < 0.002, "{kl} nats");
    assert!(share > 0.97, "{share}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_counts_what_is_kept() {
    let start = |kv_cache, kv_bytes_max| {
        let options = NativeOptions {
            threads: 1,
            kv_tokens_max: u32::MAX / 2,
            kv_bytes_max: Some(kv_bytes_max),
            kv_cache,
            ..NativeOptions::default()
        };
        NativeEngine::start(tiny(), options).unwrap()
    };
    let bytes = 1 << 20;
    let (plain, eight) = (start(KvFormat::F32, bytes), start(KvFormat::Q8_0, bytes));
    let (a, b) = (plain.capacity(), eight.capacity());
    let ratio = b.kv_tokens_max as f64 / a.kv_tokens_max as f64;
    assert!((3.0..4.0).contains(&ratio), "{a:?} {b:?}");
    assert!(b.kv_bytes_max <= bytes && b.kv_bytes_max > bytes * 9 / 10);
    ask(&eight, request("hello there", 40)).await.unwrap();
    let capacity = eight.capacity();
    assert!(
        capacity.kv_bytes > 0 && capacity.kv_bytes <= bytes,
        "{capacity:?}"
    );
}
