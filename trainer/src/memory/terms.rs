//! The sum: what is alive at the peak of a step, part by part.
//!
//! Two ways of computing keep different things of a pack. What `ops` keep is what
//! their backward passes need; `tensors` are differentiated by candle, which keeps the
//! result of every operation. Both were held against measured peaks.

use model::ModelConfig;

use super::{Computed, Demand, Largest, Packs, Term};
use crate::ops::head::CHUNK_ROWS;
use crate::train::Recompute;

/// Bytes of a number in single precision.
const F32: u64 = 4;
/// What a layer was measured to keep in candle's tensors, in percent of what we know
/// that it keeps.
const UNCOUNTED_PERCENT: u64 = 125;

/// What a GPU's pool was measured to hold beside what is alive, freed and not of use for
/// what is asked for next, in percent of the activations and their gradients: where
/// layers are kept, and where each is computed again.
const POOL_PERCENT: u64 = 38;
const POOL_RECOMPUTING_PERCENT: u64 = 100;

/// What is kept of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// Everything that a backward pass needs.
    Graph,
    /// Each layer's input, and the graph of one layer.
    Inputs,
    /// Nothing but what a layer computes with.
    Nothing,
}

/// Bytes that a pack takes.
#[derive(Debug, Clone, Copy)]
struct OfPack {
    activations: u64,
    gradients: u64,
    head: u64,
}

impl OfPack {
    fn sum(&self) -> u64 {
        self.activations + self.gradients + self.head
    }
}

/// The parts of the peak.
pub(super) fn terms(demand: &Demand<'_>, packs: &Packs, recompute: Recompute) -> Vec<Term> {
    let graph = match recompute {
        Recompute::Always => Keeps::Inputs,
        _ => Keeps::Graph,
    };
    let of = |pack: Largest, keeps: Keeps| match demand.computed {
        Computed::Fused => fused(demand.model, pack, keeps),
        Computed::Tensors { number_bytes, .. } => tensors(demand.model, pack, keeps, number_bytes),
    };
    let trained = of(packs.trained, graph);
    let validated = of(packs.validated, Keeps::Nothing);
    let of_pack = match trained.sum() >= validated.sum() {
        true => trained,
        false => validated,
    };
    let parameters = demand.parameters as u64 * F32;
    let mut terms = Vec::new();
    let mut add = |name: &str, bytes: u64| {
        terms.push(Term {
            name: name.to_owned(),
            bytes,
        });
    };
    add("taken", demand.room.taken_bytes);
    add("interleaved weights", demand.to_interleave_bytes);
    // policy, start, sums of gradients and one pass's
    add("factors and gradients", 4 * parameters);
    if demand.computed == Computed::Fused {
        // elsewhere they are another memory's
        add("optimizer", 2 * parameters);
        add("best epoch", parameters);
        // copies of factors, moments and best epoch to be written, when no pack is alive
        let copies = (4 * parameters).saturating_sub(of_pack.sum());
        add("checkpoint beyond a pack", copies);
    }
    add("activations", of_pack.activations);
    add("gradients of activations", of_pack.gradients);
    add("head", of_pack.head);
    if let Computed::Tensors { pooled: true, .. } = demand.computed {
        let percent = match graph {
            Keeps::Inputs => POOL_RECOMPUTING_PERCENT,
            _ => POOL_PERCENT,
        };
        let alive = of_pack.activations + of_pack.gradients;
        add("freed in the pool", alive * percent / 100);
    }
    terms
}

fn fused(c: &ModelConfig, pack: Largest, keeps: Keeps) -> OfPack {
    let (h, f) = (c.hidden_size, c.ffn_size);
    let (q, kv) = (c.head_count * c.head_dim, c.kv_head_count * c.head_dim);
    // what one layer's graph keeps of a row: its input, two norms, the queries,
    // keys and values, the attended, two results, the sum, gate, up and product
    let layer = 7 * h + 2 * q + 2 * kv + 3 * f;
    // its largest gradients that are alive together
    let frontier = 2 * h + 4 * f;
    let by_rows = |numbers: usize| (pack.rows * numbers) as u64 * F32;
    let kept = match keeps {
        Keeps::Graph => c.layer_count * layer,
        Keeps::Inputs => c.layer_count * h + layer,
        Keeps::Nothing => layer,
    };
    let head = CHUNK_ROWS.min(pack.rows) * c.vocab_size + pack.targets * h + 3 * pack.rows * h;
    OfPack {
        activations: by_rows(kept),
        gradients: match keeps {
            Keeps::Nothing => 0,
            _ => by_rows(frontier),
        },
        head: head as u64 * F32,
    }
}

fn tensors(c: &ModelConfig, pack: Largest, keeps: Keeps, number_bytes: u64) -> OfPack {
    let (h, f) = (c.hidden_size as u64, c.ffn_size as u64);
    let (q, kv) = (
        (c.head_count * c.head_dim) as u64,
        (c.kv_head_count * c.head_dim) as u64,
    );
    let rows = pack.rows as u64;
    // a number that enters or leaves a product, and its copy in single precision
    // where that is another
    let cast = if number_bytes == F32 { 0 } else { F32 };
    let product = number_bytes + cast;
    // two norms, each squared, divided and weighted; two sums
    let norms = (2 * 3 + 2) * h * F32;
    // the frozen product and the low-rank one, which is scaled and added; several
    // parts are laid one after the other
    let projected = |out: u64, parts: u64| out * (2 * product + (1 + parts.min(2)) * F32);
    let linear = projected(q + 2 * kv, 3) + projected(h, 1) + projected(2 * f, 2) + projected(h, 1);
    // queries and keys turned in halves, which are put together; all three by head;
    // what was found
    let turned = (6 * q + 5 * kv) * F32 + (q + 2 * kv) * product;
    let found = 3 * q * number_bytes + q * cast + 5 * kv * number_bytes;
    let gated = 2 * f * F32;
    // scores, masked, less their largest, as powers, as shares
    let scores = pack.seen as u64 * c.head_count as u64;
    let counted =
        rows * (norms + linear + turned + found + gated) + scores * (2 * product + 3 * F32);
    let layer = counted / 100 * UNCOUNTED_PERCENT;
    let inputs = c.layer_count as u64 * rows * h * F32;
    let (vocab, chunk) = (c.vocab_size as u64, CHUNK_ROWS.min(pack.rows) as u64);
    // the table as numbers, logits and what they become, directions
    let head = vocab * h * product
        + chunk * vocab * (product + 3 * F32)
        + pack.targets as u64 * h * 5 * F32;
    let gradients = rows * (2 * h + 4 * f) * F32 + 2 * scores * F32;
    // the head is done before gradients flow; where layers are computed again, before
    // any of them is
    match keeps {
        Keeps::Graph => OfPack {
            activations: c.layer_count as u64 * layer,
            gradients,
            head: head.saturating_sub(gradients),
        },
        Keeps::Inputs => OfPack {
            activations: inputs + layer,
            gradients,
            head: head.saturating_sub(layer + gradients),
        },
        Keeps::Nothing => OfPack {
            activations: layer,
            gradients: 0,
            head: head.saturating_sub(layer),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Room;
    use super::*;

    /// The predicted peak by the measured one, of a step on the real model.
    fn ratio(demand: &Demand<'_>, pack: Largest, recompute: Recompute, peak_mib: u64) -> f64 {
        let packs = Packs {
            trained: pack,
            ..Packs::default()
        };
        let terms = terms(demand, &packs, recompute);
        let sum: u64 = terms.iter().map(|term| term.bytes).sum();
        (sum >> 20) as f64 / peak_mib as f64
    }

    #[test]
    fn the_sum_of_tensors_is_near_what_was_measured_on_the_real_model() {
        // `flywheel-trainer bench --device candle`, or candle-bf16, and `--device cuda:0`
        // with and without `--bf16` on an H200: pairs of so many tokens. The same twice is
        // after five steps and after two.
        let model = crate::tests::real();
        for (tokens, number_bytes, pooled, recompute, peak_mib) in [
            (512, 4, false, Recompute::Never, 6960u64),
            (512, 4, false, Recompute::Always, 621),
            (512, 2, false, Recompute::Always, 643),
            (512, 4, true, Recompute::Never, 11_184),
            (512, 4, true, Recompute::Never, 9584),
            (512, 2, true, Recompute::Never, 11_566),
            (1024, 4, true, Recompute::Never, 26_160),
            (1024, 2, true, Recompute::Never, 29_200),
            (1024, 2, true, Recompute::Never, 25_232),
            (512, 4, true, Recompute::Always, 1328),
            (1024, 4, true, Recompute::Always, 2416),
            (1024, 2, true, Recompute::Always, 2640),
        ] {
            let half = tokens / 2 - 1;
            let pack = Largest {
                rows: tokens + half - 1,
                targets: tokens,
                seen: half * half + 2 * half * (tokens - 2),
            };
            let taken_mib = if pooled { 690 } else { 225 };
            let demand = Demand {
                model: &model.config,
                parameters: 4_884_480,
                to_interleave_bytes: 0,
                computed: Computed::Tensors {
                    number_bytes,
                    pooled,
                },
                room: Room::new(taken_mib << 20, u64::MAX, None),
            };
            let ratio = ratio(&demand, pack, recompute, peak_mib);
            assert!(
                (0.85..=1.15).contains(&ratio),
                "{tokens} {number_bytes} {pooled} {recompute:?}: {ratio}"
            );
        }
    }

    #[test]
    fn the_sum_is_near_what_was_measured_on_the_real_model() {
        // `flywheel-trainer bench`: pairs of 512 tokens, half of them the prompt,
        // with kept layers; pairs of 1024 kept and recomputed. What was resident
        // and to be interleaved, and the peak, in MiB.
        let model = crate::tests::real();
        for (tokens, recompute, peak_mib) in [
            (512usize, Recompute::Never, 1277u64),
            (1024, Recompute::Never, 2201),
            (1024, Recompute::Always, 649),
        ] {
            let pack = Largest {
                rows: tokens - 1 + tokens / 2 - 1,
                targets: tokens,
                seen: 0,
            };
            let demand = Demand {
                model: &model.config,
                parameters: 4_884_480,
                to_interleave_bytes: 90 << 20,
                computed: Computed::Fused,
                room: Room::new(131 << 20, u64::MAX, None),
            };
            let ratio = ratio(&demand, pack, recompute, peak_mib);
            assert!(
                (0.85..=1.15).contains(&ratio),
                "{tokens} {recompute:?}: {ratio}"
            );
        }
    }
}
