//! Causal grouped-query attention over a packed prefix tree, rotary
//! embedding included.
//!
//! Rows are the nodes of a trie in depth-first order; a row sees its ancestors
//! and itself. Runs of nodes without a branch are segments, so the keys of a
//! segment are a few contiguous ranges and no `[rows, rows]` mask exists.
//! Scores are recomputed in the backward pass, never kept.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use model::ModelConfig;
use rayon::prelude::*;

use super::gemm::{Extent, Threads, multiply, plain, transposed};
use super::rope::{RopeTable, Turn};
use super::{output, tensor, values, with_values};
use crate::pack::{Segment, Tree};

/// Rows that one rayon task copies at least.
const ROWS_MIN: usize = 64;

/// Heads of the model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) query: usize,
    pub(crate) key_value: usize,
    pub(crate) dim: usize,
}

/// Attention; the input holds all queries `[rows, query·dim]`, then all keys
/// and then all values, `[rows, key_value·dim]` each.
pub(crate) struct TreeAttention {
    pub(crate) heads: Heads,
    pub(crate) rope: Arc<RopeTable>,
    pub(crate) tree: Arc<Tree>,
}

/// Queries, keys and values by key-value head: `[group, rows, width]`, where a
/// row of `q` holds the group's query heads one after another.
struct ByGroup {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// What one (group, segment) gives to the gradient.
struct Gradients {
    dq: Vec<f32>,
    dk_path: Vec<f32>,
    dv_path: Vec<f32>,
}

impl Heads {
    pub(crate) fn of(config: &ModelConfig) -> Self {
        Self {
            query: config.head_count,
            key_value: config.kv_head_count,
            dim: config.head_dim,
        }
    }
}

impl TreeAttention {
    fn rows(&self) -> usize {
        self.tree.positions.len()
    }

    /// Query heads of each key-value head.
    fn repeat(&self) -> usize {
        self.heads.query / self.heads.key_value
    }

    fn split<'a>(&self, qkv: &'a [f32]) -> (&'a [f32], &'a [f32], &'a [f32]) {
        let (q, kv) = qkv.split_at(self.rows() * self.heads.query * self.heads.dim);
        let (k, v) = kv.split_at(kv.len() / 2);
        (q, k, v)
    }

    /// `[rows, groups·width]` to `[groups, rows, width]`, rotated if asked.
    fn by_group(&self, from: &[f32], width: usize, rotate: bool) -> Vec<f32> {
        let (rows, dim) = (self.rows(), self.heads.dim);
        let mut into = vec![0.0; from.len()];
        into.par_chunks_mut(width)
            .with_min_len(ROWS_MIN)
            .enumerate()
            .for_each(|(i, into)| {
                let (group, row) = (i / rows, i % rows);
                let at = (row * self.heads.key_value + group) * width;
                into.copy_from_slice(&from[at..at + width]);
                if rotate {
                    let position = self.tree.positions[row];
                    into.chunks_exact_mut(dim)
                        .for_each(|head| self.rope.rotate(head, position, Turn::Forward));
                }
            });
        into
    }

    fn group_inputs(&self, qkv: &[f32]) -> ByGroup {
        let (q, k, v) = self.split(qkv);
        let dim = self.heads.dim;
        ByGroup {
            q: self.by_group(q, self.repeat() * dim, true),
            k: self.by_group(k, dim, true),
            v: self.by_group(v, dim, false),
        }
    }

    fn tasks(&self) -> Vec<(usize, &Segment)> {
        let segments = &self.tree.segments;
        (0..self.heads.key_value)
            .flat_map(|group| segments.iter().map(move |segment| (group, segment)))
            .collect()
    }

    /// The queries of a segment, `[segment·repeat, dim]`.
    fn queries<'a>(&self, inputs: &'a ByGroup, group: usize, segment: &Segment) -> &'a [f32] {
        let width = self.repeat() * self.heads.dim;
        let base = group * self.rows();
        &inputs.q[(base + segment.rows.start) * width..(base + segment.rows.end) * width]
    }

    /// The keys or values on a segment's path, `[path, dim]`.
    fn gather(&self, from: &[f32], group: usize, segment: &Segment) -> Vec<f32> {
        let (dim, base) = (self.heads.dim, group * self.rows());
        let mut path = Vec::with_capacity(segment.path_len() * dim);
        for range in segment.path() {
            path.extend_from_slice(&from[(base + range.start) * dim..(base + range.end) * dim]);
        }
        path
    }

    /// Attention weights `[segment·repeat, path]`.
    fn probabilities(&self, q: &[f32], k_path: &[f32], segment: &Segment) -> Vec<f32> {
        let (dim, path) = (self.heads.dim, segment.path_len());
        let before = path - segment.rows.len();
        let m = q.len() / dim;
        let mut scores = vec![0.0; m * path];
        let scale = 1.0 / (dim as f32).sqrt();
        let extent = Extent { m, n: path, k: dim };
        let (q, k) = (plain(q), transposed(k_path));
        multiply(extent, q, k, (0.0, scale), &mut scores, Threads::Caller);
        for (i, row) in scores.chunks_exact_mut(path).enumerate() {
            let (seen, unseen) = row.split_at_mut(before + i / self.repeat() + 1);
            unseen.fill(0.0);
            softmax(seen);
        }
        scores
    }

    fn forward(&self, qkv: &[f32]) -> Vec<f32> {
        let inputs = self.group_inputs(qkv);
        let dim = self.heads.dim;
        let tasks = self.tasks();
        let outputs: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|&(group, segment)| {
                let q = self.queries(&inputs, group, segment);
                let k_path = self.gather(&inputs.k, group, segment);
                let v_path = self.gather(&inputs.v, group, segment);
                let p = self.probabilities(q, &k_path, segment);
                let extent = Extent {
                    m: q.len() / dim,
                    n: dim,
                    k: segment.path_len(),
                };
                let mut out = vec![0.0; q.len()];
                multiply(
                    extent,
                    plain(&p),
                    plain(&v_path),
                    (0.0, 1.0),
                    &mut out,
                    Threads::Caller,
                );
                out
            })
            .collect();
        let width = self.repeat() * dim;
        let mut y = vec![0.0; self.rows() * self.heads.query * dim];
        for ((group, segment), out) in tasks.iter().zip(&outputs) {
            for (row, out) in segment.rows.clone().zip(out.chunks_exact(width)) {
                let at = (row * self.heads.key_value + group) * width;
                y[at..at + width].copy_from_slice(out);
            }
        }
        y
    }

    /// The gradients of one (group, segment), still rotated.
    fn segment_backward(
        &self,
        inputs: &ByGroup,
        dy: &[f32],
        group: usize,
        segment: &Segment,
    ) -> Gradients {
        let (dim, path) = (self.heads.dim, segment.path_len());
        let q = self.queries(inputs, group, segment);
        let k_path = self.gather(&inputs.k, group, segment);
        let v_path = self.gather(&inputs.v, group, segment);
        let p = self.probabilities(q, &k_path, segment);
        let width = self.repeat() * dim;
        let mut d_out = Vec::with_capacity(q.len());
        for row in segment.rows.clone() {
            let at = (row * self.heads.key_value + group) * width;
            d_out.extend_from_slice(&dy[at..at + width]);
        }
        let m = q.len() / dim;
        let caller = Threads::Caller;
        let mut dv_path = vec![0.0; path * dim];
        let extent = Extent {
            m: path,
            n: dim,
            k: m,
        };
        multiply(
            extent,
            transposed(&p),
            plain(&d_out),
            (0.0, 1.0),
            &mut dv_path,
            caller,
        );
        let mut ds = vec![0.0; m * path];
        let extent = Extent { m, n: path, k: dim };
        multiply(
            extent,
            plain(&d_out),
            transposed(&v_path),
            (0.0, 1.0),
            &mut ds,
            caller,
        );
        // The gradient of a softmax: p∘(dp − Σ p∘dp).
        for (ds, p) in ds.chunks_exact_mut(path).zip(p.chunks_exact(path)) {
            let products = ds
                .iter()
                .zip(p)
                .map(|(&ds, &p)| f64::from(ds) * f64::from(p));
            let dot: f64 = products.sum();
            ds.iter_mut()
                .zip(p)
                .for_each(|(ds, &p)| *ds = p * (f64::from(*ds) - dot) as f32);
        }
        let scale = 1.0 / (dim as f32).sqrt();
        let mut dq = vec![0.0; q.len()];
        let extent = Extent { m, n: dim, k: path };
        multiply(
            extent,
            plain(&ds),
            plain(&k_path),
            (0.0, scale),
            &mut dq,
            caller,
        );
        let mut dk_path = vec![0.0; path * dim];
        let extent = Extent {
            m: path,
            n: dim,
            k: m,
        };
        multiply(
            extent,
            transposed(&ds),
            plain(q),
            (0.0, scale),
            &mut dk_path,
            caller,
        );
        Gradients {
            dq,
            dk_path,
            dv_path,
        }
    }

    fn backward(&self, qkv: &[f32], dy: &[f32]) -> Vec<f32> {
        let inputs = self.group_inputs(qkv);
        let (dim, groups) = (self.heads.dim, self.heads.key_value);
        let tasks = self.tasks();
        let gradients: Vec<Gradients> = tasks
            .par_iter()
            .map(|&(group, segment)| self.segment_backward(&inputs, dy, group, segment))
            .collect();
        let mut d_qkv = vec![0.0; qkv.len()];
        let (dq, d_kv) = d_qkv.split_at_mut(self.rows() * self.heads.query * dim);
        let (dk, dv) = d_kv.split_at_mut(self.rows() * groups * dim);
        let width = self.repeat() * dim;
        for (&(group, segment), from) in tasks.iter().zip(&gradients) {
            for (row, from) in segment.rows.clone().zip(from.dq.chunks_exact(width)) {
                let at = (row * groups + group) * width;
                dq[at..at + width].copy_from_slice(from);
            }
            // In the tasks' order, so that sums do not depend on the threads.
            let rows = segment.path().flatten();
            let from = from
                .dk_path
                .chunks_exact(dim)
                .zip(from.dv_path.chunks_exact(dim));
            for (row, (from_k, from_v)) in rows.zip(from) {
                let at = (row * groups + group) * dim;
                dk[at..at + dim]
                    .iter_mut()
                    .zip(from_k)
                    .for_each(|(a, b)| *a += b);
                dv[at..at + dim]
                    .iter_mut()
                    .zip(from_v)
                    .for_each(|(a, b)| *a += b);
            }
        }
        self.rotate_back(dq, self.heads.query);
        self.rotate_back(dk, groups);
        d_qkv
    }

    /// Turns `[rows, heads·dim]` back by the rows' positions.
    fn rotate_back(&self, gradient: &mut [f32], heads: usize) {
        let dim = self.heads.dim;
        gradient
            .par_chunks_mut(heads * dim)
            .with_min_len(ROWS_MIN)
            .enumerate()
            .for_each(|(row, heads)| {
                let position = self.tree.positions[row];
                heads
                    .chunks_exact_mut(dim)
                    .for_each(|head| self.rope.rotate(head, position, Turn::Backward));
            });
    }
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f32;
    for value in row.iter_mut() {
        *value = (*value - max).exp();
        sum += *value;
    }
    let inverse = 1.0 / sum;
    row.iter_mut().for_each(|value| *value *= inverse);
}

impl CustomOp1 for TreeAttention {
    fn name(&self) -> &'static str {
        "tree-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(values(storage, layout)?);
        output(y, (self.rows(), self.heads.query * self.heads.dim))
    }

    fn bwd(&self, qkv: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let d_qkv = with_values(qkv, |qkv| with_values(&dy, |dy| Ok(self.backward(qkv, dy))))?;
        tensor(d_qkv, qkv.shape().clone()).map(Some)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use model::RopeOrder;

    use super::*;
    use crate::ops::check::{finite_differences, random};
    use crate::pack::Trie;

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let mut trie = Trie::default();
        for sequence in [&[1, 2, 3][..], &[1, 2, 4, 5], &[1, 6], &[7, 8]] {
            trie.insert(sequence);
        }
        let (tree, _) = trie.finish();
        let rows = tree.positions.len();
        let (tree, heads) = (
            Arc::new(tree),
            Heads {
                query: 4,
                key_value: 2,
                dim: 4,
            },
        );
        for layout in [RopeOrder::Interleaved, RopeOrder::Halves] {
            let rope = Arc::new(RopeTable::new(layout, 4, 100.0, 8));
            let qkv = tensor(random(7, rows * 32), rows * 32).unwrap();
            finite_differences(&[qkv], |x| {
                let (rope, tree) = (rope.clone(), tree.clone());
                x[0].apply_op1(TreeAttention { heads, rope, tree })
            });
        }
    }
}
