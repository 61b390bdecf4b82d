//! The forward pass in candle's tensors, against the same goldens: on candle's CPU
//! device everything that runs on a GPU but the kernels themselves, and on the GPU
//! that `FLYWHEEL_TEST_DEVICE` names (`make test-cuda`) those too.

use engine::native::{self, Device};
use model::quant::Precision;

use crate::architectures::{adapter, expected, largest_difference, open};
use crate::golden::mean_divergence;
use crate::support::model;

const F32: Device = Device::Candle { bf16: false };
const BF16: Device = Device::Candle { bf16: true };

/// With dequantized weights, by candle's quantized kernels, and in BF16: how far
/// logits may be off. (The adapters move them by more than 1.)
const WAYS: [(Device, Precision, f32); 3] = [
    (F32, Precision::F32, 1e-3),
    (F32, Precision::Int8, 0.5),
    (BF16, Precision::Int8, 0.75),
];

/// The device to be tested instead, which chooses between f32 and BF16 itself.
fn gpu() -> Option<Device> {
    let name = std::env::var("FLYWHEEL_TEST_DEVICE").ok()?;
    Some(name.parse().unwrap())
}

fn ways() -> Vec<(Device, Precision, f32)> {
    let Some(gpu) = gpu() else {
        return WAYS.to_vec();
    };
    let [(_, exact, narrow), _, (_, blocks, wide)] = WAYS;
    vec![(gpu, exact, narrow), (gpu, blocks, wide)]
}

#[test]
fn logits_of_every_architecture_with_and_without_adapters_are_transformers() {
    for name in ["llama_linear", "llama3", "qwen2", "qwen3", "phi3", "gemma3"] {
        let model = open(name);
        let (tokens, base) = expected(name, "base");
        let has_adapter = ["qwen2", "phi3"].contains(&name);
        for (device, precision, tolerance) in ways() {
            let logits =
                |adapter| native::logits_on(device, &model, adapter, &tokens, precision).unwrap();
            let off = largest_difference(&logits(None), &base);
            println!("{name} on {device}, {precision:?}: {off}");
            assert!(off < tolerance, "{name} on {device}, {precision:?}: {off}");
            if has_adapter {
                let (_, adapted) = expected(name, "adapter");
                let found = logits(Some(&adapter(name, &model)));
                let off = largest_difference(&found, &adapted);
                assert!(off < tolerance, "{name}, adapted, on {device}: {off}");
            }
        }
    }
}

/// With dequantized weights, since candle's CPU kernels for the blocks take
/// minutes for as many tokens.
#[test]
#[ignore = "takes half a minute: `make check-features` runs it"]
fn of_the_real_model_nothing_but_rounding_differs() {
    let (ours, _) = mean_divergence(|tokens| {
        let device = gpu().unwrap_or(F32);
        native::logits_on(device, &model(), None, tokens, Precision::F32).unwrap()
    });
    println!("off by {ours} nat");
    assert!(ours < 1e-5, "{ours}");
}
