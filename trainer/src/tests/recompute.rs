//! Recomputed layers give the gradients of a kept graph, dropout included.

use super::{frozen, sequence, tiny, tiny_adapter};
use crate::ops::dropout::Dropout;
use crate::pack::plan;
use crate::parameters::Parameters;

fn gradients(recompute: bool, dropout: Option<Dropout>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let model = frozen(tiny());
    let parameters = Parameters::from_adapter(&tiny_adapter()).unwrap();
    let (chosen, rejected) = (
        sequence(&[1, 108, 45, 261, 9, 31, 2], 3),
        sequence(&[1, 108, 45, 261, 17, 18, 19, 20, 2], 3),
    );
    let packs = plan(&[vec![&chosen, &rejected]], 64);
    let mut sums: Vec<Vec<f32>> = parameters.lengths().map(|n| vec![0.0; n]).collect();
    let mut seen = Vec::new();
    let mut slopes = |log_probs: &[f32]| -> Result<Vec<f32>, crate::TrainerError> {
        seen = log_probs.to_vec();
        Ok((0..log_probs.len()).map(|i| i as f32 * 0.1 - 0.3).collect())
    };
    let pass = crate::forward::Pass {
        pack: &packs[0],
        parameters: &parameters,
        dropout,
        recompute,
    };
    model.add_gradients(&pass, &mut slopes, &mut sums).unwrap();
    (seen, sums)
}

#[test]
fn recomputed_is_kept_to_the_bit() {
    for dropout in [None, Dropout::new(0.3, [1, 2, 3, 4])] {
        let (kept, recomputed) = (gradients(false, dropout), gradients(true, dropout));
        assert_eq!(kept, recomputed);
        assert!(kept.1.iter().flatten().all(|g| g.is_finite()));
        assert!(kept.1.iter().all(|sum| sum.iter().any(|&g| g != 0.0)));
    }
}

#[test]
fn dropout_changes_what_is_computed_and_its_key_how() {
    let pass = |pass| gradients(false, Dropout::new(0.3, pass)).0;
    let none = gradients(false, None).0;
    assert_ne!(pass([1, 1, 0, 0]), none);
    assert_ne!(pass([1, 1, 0, 0]), pass([1, 2, 0, 0]));
    assert_eq!(pass([1, 1, 0, 0]), pass([1, 1, 0, 0]));
}
