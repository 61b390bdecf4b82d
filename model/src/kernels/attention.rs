//! Causal attention with grouped queries over a paged key-value cache.
//!
//! A page holds [`PAGE_TOKENS`] positions of every layer, laid out as panels so
//! that scores and sums are the f32 micro-kernel's products. A position's
//! result depends on its own query and the keys before it, in a fixed order,
//! and not on how its sequence was cut into chunks.

use std::cell::RefCell;

use super::gemm::{self, PanelRow, Rows};
use super::math;
use super::parallel::{self, SharedOutput};
use crate::quant::GROUP;

/// Positions of a page.
pub const PAGE_TOKENS: usize = 2 * GROUP;
/// Query positions that one task computes.
const QUERIES_AT_ONCE: usize = 24;

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The sizes that fix a page's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    /// Decoder layers.
    pub layers: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Query heads; a multiple of the key heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl KvLayout {
    /// Panel rows of one head's keys in a page.
    fn key_rows(&self) -> usize {
        2 * self.head_dim
    }

    /// Panel rows of one head's values in a page: pairs of panels.
    fn value_rows(&self) -> usize {
        self.head_dim.div_ceil(2 * GROUP) * 2 * PAGE_TOKENS
    }

    /// Panel rows of one head in a page.
    fn head_rows(&self) -> usize {
        self.key_rows() + self.value_rows()
    }

    /// Bytes of a page.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.head_rows() * size_of::<PanelRow>()
    }

    fn head_start(&self, layer: usize, kv_head: usize) -> usize {
        (layer * self.kv_heads + kv_head) * self.head_rows()
    }
}

/// Keys and values of [`PAGE_TOKENS`] positions in every layer.
pub struct KvPage {
    layout: KvLayout,
    /// For each layer and head: keys `[2][head_dim][16 positions]`, then values
    /// `[head_dim / 16, even][32 positions][16]`.
    rows: Box<[PanelRow]>,
}

impl KvPage {
    /// An empty page.
    #[must_use]
    pub fn new(layout: KvLayout) -> Self {
        let rows = layout.layers * layout.kv_heads * layout.head_rows();
        Self {
            layout,
            rows: vec![PanelRow([0.0; GROUP]); rows].into(),
        }
    }

    /// Stores a position's keys and values of one layer, `[kv_heads · head_dim]` each.
    ///
    /// # Panics
    /// If the slot, the layer or a length is out of range.
    pub fn write(&mut self, layer: usize, slot: usize, keys: &[f32], values: &[f32]) {
        let (dim, layout) = (self.layout.head_dim, self.layout);
        assert!(slot < PAGE_TOKENS && layer < layout.layers);
        assert!(keys.len() == layout.kv_heads * dim && values.len() == keys.len());
        let heads = keys
            .chunks_exact(dim)
            .zip(values.chunks_exact(dim))
            .enumerate();
        for (head, (keys, values)) in heads {
            let start = layout.head_start(layer, head);
            let (key_rows, value_rows) =
                self.rows[start..start + layout.head_rows()].split_at_mut(layout.key_rows());
            let key_panel = &mut key_rows[slot / GROUP * dim..][..dim];
            for (row, key) in key_panel.iter_mut().zip(keys) {
                row.0[slot % GROUP] = *key;
            }
            for (panel, values) in value_rows
                .chunks_exact_mut(PAGE_TOKENS)
                .zip(values.chunks(GROUP))
            {
                panel[slot].0[..values.len()].copy_from_slice(values);
            }
        }
    }

    fn key_panels(&self, layer: usize, kv_head: usize) -> (&[PanelRow], &[PanelRow]) {
        let start = self.layout.head_start(layer, kv_head);
        self.rows[start..start + self.layout.key_rows()].split_at(self.layout.head_dim)
    }

    /// The panels of 32 value elements from `dim`, first `positions` positions.
    fn value_panels(
        &self,
        layer: usize,
        kv_head: usize,
        dim: usize,
        positions: usize,
    ) -> (&[PanelRow], &[PanelRow]) {
        let start = self.layout.head_start(layer, kv_head)
            + self.layout.key_rows()
            + dim / GROUP * PAGE_TOKENS;
        let (first, second) = self.rows[start..start + 2 * PAGE_TOKENS].split_at(PAGE_TOKENS);
        (&first[..positions], &second[..positions])
    }
}

/// New query positions of one sequence, with its pages.
pub struct Query<'a> {
    /// The first one's row in the batch.
    pub first_row: usize,
    /// How many there are.
    pub count: usize,
    /// The first one's position in the sequence.
    pub first_position: usize,
    /// How many of the last positions each sees, itself included; at least 1.
    pub window: usize,
    /// Pages that hold all positions up to the last query's.
    pub pages: Vec<&'a KvPage>,
}

/// Attention of a batch in one layer: `out[row, heads · head_dim]` from `q` of
/// the same shape, which must be scaled already.
///
/// # Panics
/// If a length does not fit.
pub fn attend(layout: KvLayout, layer: usize, queries: &[Query<'_>], q: &[f32], out: &mut [f32]) {
    let width = layout.heads * layout.head_dim;
    assert!(q.len() == out.len());
    let mut tasks = Vec::new();
    for query in queries {
        assert!((query.first_row + query.count) * width <= q.len());
        assert!(query.pages.len() * PAGE_TOKENS >= query.first_position + query.count);
        assert!(query.pages.iter().all(|page| page.layout == layout));
        for kv_head in 0..layout.kv_heads {
            for first in (0..query.count).step_by(QUERIES_AT_ONCE) {
                tasks.push(Task {
                    layout,
                    layer,
                    query,
                    kv_head,
                    first,
                });
            }
        }
    }
    // the last chunks see the most positions: they come first
    tasks.reverse();
    let out = SharedOutput::new(out, layout.head_dim);
    parallel::run(tasks.len(), |i| tasks[i].run(q, &out));
}

struct Task<'a> {
    layout: KvLayout,
    layer: usize,
    query: &'a Query<'a>,
    kv_head: usize,
    first: usize,
}

impl Task<'_> {
    /// Computes all heads of the group; `out` has a row for each token and head.
    fn run(&self, q: &[f32], out: &SharedOutput<'_>) {
        let heads_per_kv = self.layout.heads / self.layout.kv_heads;
        let first_head = self.kv_head * heads_per_kv;
        let count = (self.query.count - self.first).min(QUERIES_AT_ONCE);
        let row = self.query.first_row + self.first;
        let position = self.query.first_position + self.first;
        let dim = self.layout.head_dim;
        let start = (row * self.layout.heads + first_head) * dim;
        if count == 1 {
            // one position: the heads of the group are the rows
            let x = Rows {
                x: &q[start..],
                n: heads_per_kv,
                stride: dim,
                offset: 0,
            };
            let out = out.window(start, dim, dim);
            self.attend_rows(x, |_| position, position, &out);
            return;
        }
        let stride = self.layout.heads * dim;
        for head in first_head..first_head + heads_per_kv {
            let x = Rows {
                x: &q[row * stride..],
                n: count,
                stride,
                offset: head * dim,
            };
            let out = out.window(row * stride + head * dim, stride, dim);
            self.attend_rows(x, |i| position + i, position + count - 1, &out);
        }
    }

    /// Scores, softmax and the weighted sum for rows that see the positions up
    /// to `position_of(row)`, none beyond `last`.
    fn attend_rows(
        &self,
        x: Rows<'_>,
        position_of: impl Fn(usize) -> usize,
        last: usize,
        out: &SharedOutput<'_>,
    ) {
        let stride = (last / PAGE_TOKENS + 1) * PAGE_TOKENS;
        let mut scores = SCORES.take();
        scores.resize(scores.len().max(x.n * stride), 0.0);
        let used = &mut scores[..x.n * stride];
        self.score(x, stride, used);
        for (i, row) in used.chunks_exact_mut(stride).enumerate() {
            let (seen, hidden) = row.split_at_mut(position_of(i) + 1);
            let (past, seen) = seen.split_at_mut(seen.len().saturating_sub(self.query.window));
            math::softmax(seen);
            past.fill(0.0);
            hidden.fill(0.0);
        }
        self.sum_values(used, x.n, stride, last, out);
        SCORES.replace(scores);
    }

    fn score(&self, x: Rows<'_>, stride: usize, scores: &mut [f32]) {
        let scores = SharedOutput::new(scores, stride);
        for (p, page) in self.query.pages[..stride / PAGE_TOKENS].iter().enumerate() {
            let panels = page.key_panels(self.layer, self.kv_head);
            // SAFETY: the scores are this task's.
            unsafe { gemm::panel_product(x, panels, &scores, p * PAGE_TOKENS, false) };
        }
    }

    fn sum_values(
        &self,
        probabilities: &[f32],
        n: usize,
        stride: usize,
        last: usize,
        out: &SharedOutput<'_>,
    ) {
        for (p, page) in self.query.pages[..stride / PAGE_TOKENS].iter().enumerate() {
            let offset = p * PAGE_TOKENS;
            let positions = (last + 1 - offset).min(PAGE_TOKENS);
            let x = Rows {
                x: probabilities,
                n,
                stride,
                offset,
            };
            for dim in (0..self.layout.head_dim).step_by(2 * GROUP) {
                let panels = page.value_panels(self.layer, self.kv_head, dim, positions);
                // SAFETY: each task has heads or rows of its own.
                unsafe { gemm::panel_product(x, panels, out, dim, p > 0) };
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const LAYOUT: KvLayout = KvLayout {
        layers: 2,
        kv_heads: 2,
        heads: 6,
        head_dim: 32,
    };

    fn noise(seed: u32, len: usize) -> Vec<f32> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .take(len)
        .collect()
    }

    fn pages(keys: &[f32], values: &[f32], count: usize) -> Vec<KvPage> {
        let mut pages: Vec<_> = (0..count.div_ceil(PAGE_TOKENS))
            .map(|_| KvPage::new(LAYOUT))
            .collect();
        for i in 0..count {
            let (k, v) = (&keys[i * 64..(i + 1) * 64], &values[i * 64..(i + 1) * 64]);
            pages[i / PAGE_TOKENS].write(1, i % PAGE_TOKENS, k, v);
        }
        pages
    }

    fn exact(q: &[f32], keys: &[f32], values: &[f32], row: usize, head: usize) -> Vec<f64> {
        let q = &q[(row * 6 + head) * 32..][..32];
        let at = |x: &[f32], i: usize, d: usize| f64::from(x[i * 64 + head / 3 * 32 + d]);
        let weights: Vec<f64> = (0..=row)
            .map(|i| {
                (0..32)
                    .map(|d| f64::from(q[d]) * at(keys, i, d))
                    .sum::<f64>()
                    .exp()
            })
            .collect();
        let total: f64 = weights.iter().sum();
        (0..32)
            .map(|d| {
                weights
                    .iter()
                    .enumerate()
                    .map(|(i, w)| w / total * at(values, i, d))
                    .sum()
            })
            .collect()
    }

    #[test]
    fn attention_equals_its_definition_however_it_is_cut() {
        let count = 71;
        let (q, keys, values) = (
            noise(1, count * 192),
            noise(2, count * 64),
            noise(3, count * 64),
        );
        let pages = pages(&keys, &values, count);
        let mut whole = vec![f32::NAN; q.len()];
        let query = |first: usize, count: usize| Query {
            first_row: first,
            count,
            first_position: first,
            window: usize::MAX,
            pages: pages.iter().collect(),
        };
        attend(LAYOUT, 1, &[query(0, count)], &q, &mut whole);
        for row in 0..count {
            for head in 0..6 {
                let found = &whole[(row * 6 + head) * 32..][..32];
                for (a, b) in found.iter().zip(exact(&q, &keys, &values, row, head)) {
                    assert!((f64::from(*a) - b).abs() < 1e-4);
                }
            }
        }
        let mut cut = vec![f32::NAN; q.len()];
        let queries = [query(0, 1), query(1, 30), query(31, 1), query(32, 39)];
        attend(LAYOUT, 1, &queries, &q, &mut cut);
        assert_eq!(whole, cut);
    }

    #[test]
    fn in_a_window_the_last_positions_alone_count() {
        let (count, window) = (71, 33);
        let (q, keys, values) = (
            noise(1, count * 192),
            noise(2, count * 64),
            noise(3, count * 64),
        );
        let run = |first: usize, end: usize, window: usize, start: usize| {
            let pages = pages(&keys[start * 64..], &values[start * 64..], count - start);
            let query = Query {
                first_row: 0,
                count: end - first,
                first_position: first - start,
                window,
                pages: pages.iter().collect(),
            };
            let mut out = vec![f32::NAN; (end - first) * 192];
            attend(LAYOUT, 1, &[query], &q[first * 192..end * 192], &mut out);
            out
        };
        let all = run(0, count, window, 0);
        assert_eq!(all[..window * 192], run(0, window, usize::MAX, 0));
        for row in window..count {
            let alone = run(row, row + 1, usize::MAX, row + 1 - window);
            let found = &all[row * 192..(row + 1) * 192];
            for (a, b) in found.iter().zip(&alone) {
                assert!((a - b).abs() < 1e-5, "{row}: {a} against {b}");
            }
            assert_eq!(found, run(row, row + 1, window, 0), "cut at {row}");
        }
    }

    #[test]
    fn what_another_sequence_left_in_a_page_is_not_seen() {
        let (q, keys, values) = (noise(1, 5 * 192), noise(2, 5 * 64), noise(3, 5 * 64));
        let clean = pages(&keys, &values, 5);
        let mut dirty = pages(&keys, &values, 5);
        for slot in 5..PAGE_TOKENS {
            dirty[0].write(1, slot, &[f32::NAN; 64], &[f32::INFINITY; 64]);
        }
        let run = |pages: &[KvPage]| {
            let mut out = vec![0.0; q.len()];
            let pages = pages.iter().collect();
            let query = Query {
                first_row: 0,
                count: 5,
                first_position: 0,
                window: usize::MAX,
                pages,
            };
            attend(LAYOUT, 1, &[query], &q, &mut out);
            out
        };
        assert_eq!(run(&clean), run(&dirty));
    }
}
