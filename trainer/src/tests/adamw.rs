//! Our AdamW against torch's, step by step.

use serde::Deserialize;

use super::golden;
use crate::train::{AdamW, AdamWConfig};

#[derive(Deserialize)]
struct Facts {
    lr: f64,
    weight_decay: f64,
    start: Vec<f32>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    gradient: Vec<f32>,
    parameter: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

fn close(what: &str, ours: &[f32], torch: &[f32]) {
    assert_eq!(ours.len(), torch.len());
    for (a, b) in ours.iter().zip(torch) {
        assert!(
            (a - b).abs() <= 1e-6 * (1.0 + b.abs()),
            "{what}: {a} is not {b}"
        );
    }
}

#[test]
fn steps_and_moments_are_torchs() {
    let text = std::fs::read(golden("training/adamw.json")).unwrap();
    let facts: Facts = serde_json::from_slice(&text).unwrap();
    let config = AdamWConfig {
        weight_decay: facts.weight_decay,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(config, [facts.start.len()]);
    let mut parameters = facts.start;
    for step in &facts.steps {
        optimizer.begin_step();
        optimizer.update(0, &mut parameters, &step.gradient, 1.0, facts.lr);
        close("parameter", &parameters, &step.parameter);
        close("first moment", &optimizer.moments[0].first, &step.first);
        close("second moment", &optimizer.moments[0].second, &step.second);
    }
}
