//! Log-probabilities of held-out pairs, without a graph.

use serde::Serialize;

use super::batch::PairExample;
use super::reference::sum;
use crate::TrainerError;
use crate::forward::FrozenModel;
use crate::pack::{Sequence, plan};
use crate::parameters::Parameters;

/// Sums of log-probabilities of one pair's answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PairScore {
    /// log π(chosen).
    pub chosen: f64,
    /// log π(rejected).
    pub rejected: f64,
    /// Tokens of the chosen answer.
    pub chosen_tokens: usize,
    /// Tokens of the rejected answer.
    pub rejected_tokens: usize,
}

/// The scores of a list of pairs, in its order.
pub type Scores = Vec<PairScore>;

/// Scores every pair under the base with `parameters`, or under the bare base.
///
/// # Errors
/// When a tensor operation fails.
pub fn score(
    model: &FrozenModel,
    parameters: Option<&Parameters>,
    pairs: &[PairExample],
    pack_rows_max: usize,
) -> Result<Scores, TrainerError> {
    let view = parameters.map(|p| p.view(false)).unwrap_or_default();
    let groups: Vec<Vec<&Sequence>> = pairs
        .iter()
        .map(|pair| vec![&pair.chosen, &pair.rejected])
        .collect();
    let mut scores = vec![PairScore::default(); pairs.len()];
    for pack in plan(&groups, pack_rows_max) {
        let log_probs = model.log_probs(&pack, &view, false)?.to_vec1::<f32>()?;
        for group in &pack.groups {
            let [chosen, rejected] = &group.targets[..] else {
                continue;
            };
            scores[group.index] = PairScore {
                chosen: sum(&log_probs[chosen.clone()]),
                rejected: sum(&log_probs[rejected.clone()]),
                chosen_tokens: chosen.len(),
                rejected_tokens: rejected.len(),
            };
        }
    }
    Ok(scores)
}
