use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;
use ids::{AdapterDigest, Sha256Digest};
use model::BaseModel;
use model::kernels::KvFormat;
use model::lora::{LoraAdapter, LoraConfig};

use super::cache::{Cache, Slots};
use super::*;
use crate::native::backend::Placement;
use crate::native::blocks::PageId;
use crate::native::forward::Chunk;
use crate::native::lora::DeviceAdapter;

const PAGES: usize = 40;

fn model(name: &str) -> Arc<BaseModel> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
        .join("model.gguf");
    Arc::new(BaseModel::open(&path).unwrap())
}

/// Candle's CPU device, or that of `FLYWHEEL_TEST_DEVICE`.
fn exact() -> Placement {
    let name = std::env::var("FLYWHEEL_TEST_DEVICE");
    let device = name.as_deref().unwrap_or("candle").parse().unwrap();
    Placement::open(device, Precision::F32, KvFormat::F32).unwrap()
}

fn adapter(model: &BaseModel, seed: u64) -> DeviceAdapter {
    let config = LoraConfig::uniform(3, 16.0);
    let mut adapter = LoraAdapter::new_random(&model.config, &config, seed).unwrap();
    for pair in adapter.modules.values_mut() {
        let values = pair.b.iter_mut().enumerate();
        values.for_each(|(i, b)| *b = ((i as f32 + seed as f32) * 0.7).sin() * 0.3);
    }
    let digest = AdapterDigest(Sha256Digest::of(&seed.to_le_bytes()));
    exact().lay_out(digest, &adapter, &model.config).unwrap()
}

fn chunk<'a>(tokens: &'a [u32], first_position: usize, pages: &'a [PageId]) -> Chunk<'a> {
    Chunk {
        tokens,
        first_position,
        pages,
        adapter: None,
        logits: 1,
    }
}

fn tokens(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 7 + seed * 13) % 90).collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

/// Prompts, continuations, different adapters and lengths in one batch, in an
/// order that attention has to change, against each sequence alone.
fn mixed_batches_are_their_sequences(name: &str) {
    let model = model(name);
    let vocab = model.config.vocab_size;
    let [one, other] = [adapter(&model, 1), adapter(&model, 2)];
    let adapters = [None, Some(&one), Some(&one), Some(&other), None];
    // tokens before the last step, and in it
    let lengths = [(3, 1), (70, 1), (0, 40), (33, 1), (20, 11)];
    let sequences: Vec<Vec<u32>> = (0..)
        .zip(lengths)
        .map(|(seed, (before, new))| tokens(seed, before + new))
        .collect();
    let pages: Vec<Vec<PageId>> = (0..sequences.len())
        .map(|i| {
            (0..4)
                .map(|page| PageId(i + page * sequences.len()))
                .collect()
        })
        .collect();
    let mut backend = exact().backend(&model, 128, PAGES).unwrap();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (i, (before, _)) in lengths.into_iter().enumerate() {
        let (head, tail) = sequences[i].split_at(before);
        let mut early = chunk(head, 0, &pages[i]);
        let mut late = chunk(tail, before, &pages[i]);
        (early.adapter, early.logits) = (adapters[i], 0);
        late.adapter = adapters[i];
        if !head.is_empty() {
            first.push(early);
        }
        second.push(late);
    }
    assert!(backend.run(&first).unwrap().is_empty());
    let together = backend.run(&second).unwrap();
    for (i, logits) in together.chunks_exact(vocab).enumerate() {
        let mut alone = exact().backend(&model, 128, PAGES).unwrap();
        let all: Vec<PageId> = (0..4).map(PageId).collect();
        let mut whole = chunk(&sequences[i], 0, &all);
        whole.adapter = adapters[i];
        let alone = alone.run(&[whole]).unwrap();
        let difference = largest_difference(logits, &alone);
        assert!(difference < 1e-3, "sequence {i} of {name}: {difference}");
    }
    let mut without = second;
    without.iter_mut().for_each(|chunk| chunk.adapter = None);
    let without = backend.run(&without).unwrap();
    assert!(largest_difference(&together, &without) > 0.1);
}

#[test]
fn a_batch_of_all_kinds_is_its_sequences_alone() {
    mixed_batches_are_their_sequences("tiny_llama");
}

#[test]
fn so_it_is_with_a_window() {
    for name in ["architectures/gemma3", "architectures/phi3"] {
        mixed_batches_are_their_sequences(name);
    }
}

#[test]
fn what_a_pages_last_user_left_behind_is_not_seen() {
    let model = model("tiny_llama");
    let place = match exact() {
        Placement::Candle(place) => place,
        // has a cache of its own
        Placement::Cpu { .. } => Place::on_cpu(false, Precision::F32),
    };
    let cache = Cache::new(&place, &model.config, 2).unwrap();
    let shape = (32, model.config.kv_head_count, model.config.head_dim);
    let rows = |value: f32, rows: usize| {
        Tensor::full(value, (rows, shape.1, shape.2), &place.device).unwrap()
    };
    let page = [PageId(1)];
    let write = |tokens: &[u32], first, value| {
        let slots = Slots::new(&place, &model.config, &[chunk(tokens, first, &page)]).unwrap();
        let rows = rows(value, tokens.len());
        cache.write(0, &slots, &rows, &rows).unwrap();
    };
    let read = || {
        let ids = Tensor::from_slice(&[1u32, 2], 2, &place.device).unwrap();
        let (keys, values) = cache.read(0, &ids, 1).unwrap();
        let [keys, values] = [keys, values].map(|t| t.narrow(2, 0, 1).unwrap());
        let all = [keys, values].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let [keys, values] = [&all[0], &all[1]].map(|all| all.iter().map(|v| v.to_bits()));
        assert!(keys.eq(values));
        all.into_iter().next().unwrap()[..64].to_vec()
    };
    write(&[0; 32], 0, f32::NAN);
    assert!(read()[..32].iter().all(|value| value.is_nan()));
    write(&[0; 3], 0, 1.0);
    write(&[0; 2], 3, 2.0);
    let mut expected = vec![0.0; 64];
    expected[..3].fill(1.0);
    expected[3..5].fill(2.0);
    assert_eq!(read(), expected);
}

#[test]
fn single_tokens_are_read_together_as_far_as_the_bound_allows() {
    let pages: Vec<PageId> = (0..700).map(PageId).collect();
    let at = |position: usize| chunk(&[1], position, &pages);
    let long = [1, 2, 3];
    let few = [at(5), chunk(&long, 0, &pages), at(600 * 32)];
    assert_eq!(plan::together(&few), [vec![1], vec![0], vec![2]]);
    let short = [at(5), at(100), at(7)];
    assert_eq!(plan::together(&short), [vec![0, 1, 2]]);
    let mixed = [at(600 * 32), at(5), at(601 * 32), at(7)];
    let together = plan::together(&mixed);
    assert_eq!(together, [vec![1, 3], vec![0], vec![2]]);
}

#[test]
fn a_page_costs_what_is_said() {
    let model = model("tiny_llama");
    for bf16 in [false, true] {
        let place = Place::on_cpu(bf16, Precision::Int8);
        let backend = Placement::Candle(place.clone()).backend(&model, 64, 3);
        let bytes = backend.unwrap().kv_byte_len();
        assert_eq!(bytes, 3 * place.page_bytes(&model.config));
    }
}
