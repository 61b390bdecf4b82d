//! How many operations a step's matrix products are.

use model::{ModelConfig, Projection};

use crate::pack::{Pack, Segment};

/// Products of attention's forward and backward pass: scores and values; the
/// scores again, and the gradients of values, weights, queries and keys.
const ATTENTION_FORWARD: usize = 2;
const ATTENTION_BACKWARD: usize = 5;

/// 10⁹ operations (two for each multiplication with its addition) of a forward
/// and backward pass over the packs, the reference not included.
pub(super) fn step_gflop(
    config: &ModelConfig,
    packs: &[Pack],
    rank: usize,
    recompute: bool,
) -> f64 {
    let products: usize = packs
        .iter()
        .map(|pack| of_pack(config, pack, rank, recompute))
        .sum();
    2e-9 * products as f64
}

fn of_pack(c: &ModelConfig, pack: &Pack, rank: usize, recompute: bool) -> usize {
    let rows = pack.tree.tokens.len();
    let shapes = Projection::ALL.map(|p| c.projection_shape(p));
    let frozen: usize = shapes.iter().map(|(out, input)| out * input).sum();
    let low_rank: usize = shapes.iter().map(|(out, input)| rank * (out + input)).sum();
    let inner: usize = shapes.iter().map(|(_, input)| rank * input).sum();
    let seen = |segment: &Segment| {
        let len = segment.rows.len();
        len * segment.path_len()
    };
    let pairs: usize = pack.tree.segments.iter().map(seen).sum();
    let attention = |products: usize| products * pairs * c.head_count * c.head_dim;
    let forward = rows * (frozen + low_rank) + attention(ATTENTION_FORWARD);
    let backward = rows * (frozen + 2 * low_rank + inner) + attention(ATTENTION_BACKWARD);
    let forwards = if recompute { 2 } else { 1 };
    let mut predicting: Vec<usize> = pack.targets.iter().map(|target| target.row).collect();
    predicting.sort_unstable();
    predicting.dedup();
    c.layer_count * (forwards * forward + backward)
        + 2 * predicting.len() * c.vocab_size * c.hidden_size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{Sequence, plan};
    use crate::tests::tiny;

    #[test]
    fn a_shared_prompt_is_counted_once_and_recomputation_adds_a_forward_pass() {
        let config = &tiny().config;
        let sequence = |end: u32| Sequence {
            tokens: (0..20).chain([end, end, end]).collect(),
            completion_start: 20,
        };
        let (one, other) = (sequence(30), sequence(31));
        let of = |groups: &[Vec<&Sequence>], recompute| {
            step_gflop(config, &plan(groups, 64), 4, recompute)
        };
        let (single, both) = (of(&[vec![&one]], false), of(&[vec![&one, &other]], false));
        assert!(single < both && both < 1.5 * single, "{single} {both}");
        let again = of(&[vec![&one]], true);
        assert!(
            again > 1.2 * single && again < 1.5 * single,
            "{single} {again}"
        );
    }
}
