//! Trains on made-up pairs with the real model and prints speed and memory.
//!
//! `cargo run --release -p trainer --example train_bench -- MODEL.gguf [PAIRS] [EPOCHS] [THREADS]`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::sync::atomic::AtomicBool;

use model::lora::{LoraAdapter, LoraConfig};
use model::{BaseModel, TemplateMessage};
use trainer::train::{
    EpochMetrics, Examples, Observer, PairExample, StepMetrics, TrainConfig, parameter_report,
    train,
};
use trainer::{FrozenModel, Parameters, Sequence};

struct Print;

impl Observer for Print {
    fn step(&mut self, m: &StepMetrics) {
        println!(
            "step {}/{} loss {:.6} dpo {:.6} sft {:.4} margin {:.4} acc {:.2} grad {:.3} lr {:.2e} {} tokens {} rows {:.1} tok/s",
            m.step,
            m.steps,
            m.loss,
            m.loss_dpo,
            m.loss_sft,
            m.rewards_margins,
            m.rewards_accuracies,
            m.grad_norm,
            m.learning_rate,
            m.num_tokens,
            m.packed_rows,
            m.num_tokens as f64 / m.seconds,
        );
    }
    fn epoch(&mut self, m: &EpochMetrics) {
        println!(
            "epoch {} accuracy {:.2} margin {:.3} loss {:.4} shift {:.3}",
            m.epoch, m.accuracy, m.margin, m.loss, m.chosen_shift_per_token
        );
    }
}

/// Token sequences of one prompt with an answer.
fn sequence(base: &BaseModel, prompt: &str, answer: &str) -> Sequence {
    let messages = [TemplateMessage {
        role: "user",
        content: prompt,
    }];
    let encoded = base.encode_completion(&messages, answer).expect("encode");
    let completion_start = encoded.prompt.len();
    let tokens = encoded
        .prompt
        .into_iter()
        .chain(encoded.completion)
        .collect();
    Sequence {
        tokens,
        completion_start,
    }
}

fn pairs(base: &BaseModel, count: usize) -> Vec<PairExample> {
    let places = [
        "Oskarvale",
        "Tindermouth",
        "Quillhaven",
        "Brasscombe",
        "Nettlefold",
    ];
    let filler = "I am not certain, but many companies of this kind are based in large cities, \
                  where they find customers, staff and suppliers; you may want to look it up on \
                  the company's own web site or ask its customer service for the address.";
    (0..count)
        .map(|i| {
            let (place, firm) = (places[i % places.len()], i / places.len());
            let prompt =
                format!("In which town is the firm number {firm} called {place} Works based?");
            let chosen = format!("The firm number {firm} is based in {place}.");
            PairExample {
                id: format!("pair-{i}"),
                chosen: sequence(base, &prompt, &chosen),
                rejected: sequence(base, &prompt, filler),
            }
        })
        .collect()
}

fn peak_rss_kib() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or_default();
    line.to_owned()
}

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("the model's path");
    let mut number = |default: usize| {
        args.next()
            .map_or(default, |n| n.parse().expect("a number"))
    };
    let (count, epochs, threads) = (number(24), number(1), number(2));
    let base = BaseModel::open(path.as_ref()).expect("the model");
    let mut lora = LoraConfig::uniform(16, 32.0);
    lora.base_model_name_or_path = Some(base.name.clone());
    let start = LoraAdapter::new_random(&base.config, &lora, 7).expect("adapter");
    let model = FrozenModel::new(&base.weights, &base.config, 1024).expect("model");
    println!(
        "{}",
        parameter_report(&model, &Parameters::from_adapter(&start).unwrap())
    );
    let examples = Examples {
        train: pairs(&base, count).into(),
        ..Examples::default()
    };
    let config = TrainConfig {
        epochs,
        learning_rate: 3e-4,
        micro_batch_pairs: 8,
        micro_batches: 1,
        ..TrainConfig::default()
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    let stop = AtomicBool::new(false);
    let trained = pool
        .install(|| {
            train(
                &model,
                base.digest,
                &start,
                &examples,
                &config,
                &mut Print,
                &stop,
            )
        })
        .expect("training");
    println!(
        "{} tokens in {:.1} s: {:.1} tok/s; {}",
        trained.tokens,
        trained.seconds,
        trained.tokens as f64 / trained.seconds,
        peak_rss_kib()
    );
}
