//! The trainer's forward pass against the serving engine's, on the real model.

use std::sync::Arc;

use model::TemplateMessage;
use model::lora::{LoraAdapter, LoraConfig};
use model::quant::Precision;

use super::{frozen, real, tiny, tiny_adapter};
use crate::pack::{Sequence, plan};
use crate::parameters::Parameters;
use crate::train::parameter_report;

/// Log-probabilities of all tokens but the first, by the trainer and by the
/// engine on its f32 path.
fn largest_difference(base: &Arc<model::BaseModel>, adapter: &LoraAdapter, tokens: &[u32]) -> f32 {
    let parameters = Parameters::from_adapter(adapter).unwrap();
    let sequence = Sequence {
        tokens: tokens.to_vec(),
        completion_start: 1,
    };
    let packs = plan(&[vec![&sequence]], 1024);
    let model = frozen(base);
    let ours = model
        .log_probs(&packs[0], &parameters.view(false), false)
        .unwrap();
    let ours = ours.to_vec1::<f32>().unwrap();
    let engine = engine::native::score(base, Some(adapter), tokens, 1, Precision::F32);
    assert_eq!(ours.len(), engine.len());
    let pairs = ours.iter().zip(&engine);
    pairs
        .map(|(a, b)| (a - b.logprob).abs())
        .fold(0.0, f32::max)
}

/// A fresh adapter with B filled in, so that it does something.
fn moving_adapter(base: &model::BaseModel) -> LoraAdapter {
    let lora = LoraConfig::uniform(8, 16.0);
    let mut adapter = LoraAdapter::new_random(&base.config, &lora, 3).unwrap();
    let mut x = 1u32;
    for pair in adapter.modules.values_mut() {
        for b in &mut pair.b {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *b = ((x >> 8) as f32 / (1u32 << 24) as f32 - 0.5) * 0.02;
        }
    }
    adapter
}

#[test]
fn engine_and_trainer_agree_with_the_same_adapter() {
    let base = real();
    let adapter = moving_adapter(&base);
    let messages = [TemplateMessage {
        role: "user",
        content: "Where does the river Rhine rise?",
    }];
    let encoded = base
        .encode_completion(&messages, "It rises in the Swiss Alps.")
        .unwrap();
    let tokens: Vec<u32> = encoded
        .prompt
        .into_iter()
        .chain(encoded.completion)
        .collect();
    let difference = largest_difference(&base, &adapter, &tokens);
    assert!(difference <= 1e-3, "{difference}");
    let bare = LoraAdapter::new_random(&base.config, &LoraConfig::uniform(1, 1.0), 0).unwrap();
    let model = frozen(&base);
    let score = |adapter: &LoraAdapter| {
        let parameters = Parameters::from_adapter(adapter).unwrap();
        let sequence = Sequence {
            tokens: tokens.clone(),
            completion_start: 1,
        };
        let pack = &plan(&[vec![&sequence]], 1024)[0];
        model
            .log_probs(pack, &parameters.view(false), false)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    let moved = score(&bare)
        .iter()
        .zip(&score(&adapter))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(
        moved > 0.1,
        "the adapter does nothing, so nothing was shown: {moved}"
    );
}

#[test]
fn the_report_line_is_pefts() {
    let base = real();
    let lora = LoraConfig::uniform(16, 32.0);
    let adapter = LoraAdapter::new_random(&base.config, &lora, 0).unwrap();
    let parameters = Parameters::from_adapter(&adapter).unwrap();
    assert_eq!(
        parameter_report(&frozen(&base), &parameters),
        "trainable params: 4,884,480 || all params: 139,399,488 || trainable%: 3.5039"
    );
    // An untied head counts too.
    let tiny_parameters = Parameters::from_adapter(&tiny_adapter()).unwrap();
    let text = parameter_report(&frozen(tiny()), &tiny_parameters);
    assert!(text.starts_with("trainable params: 4,096 ||"), "{text}");
}
