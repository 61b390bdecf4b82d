//! Causal attention with grouped queries over a paged key-value cache.
//!
//! A page holds [`PAGE_TOKENS`] positions of every layer, laid out as panels so
//! that scores and sums are the f32 micro-kernel's products. A position's
//! result depends on its own query and the keys before it, in a fixed order,
//! and not on how its sequence was cut into chunks.

use std::cell::RefCell;
use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::gemm::{self, Onto, PanelRow, Rows};
use super::kv_quant::{self, QuantPage};
use super::math;
use super::memory::{Arena, Slice};
use super::parallel::{self, SharedOutput};
use crate::quant::GROUP;

/// Positions of a page.
pub const PAGE_TOKENS: usize = 2 * GROUP;
/// Rows that one task computes: a position of a group of heads after the other, until
/// there are so many. Keys and values are read once for all of them.
const ROWS_AT_ONCE: usize = 24;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// Panels of one page that is kept in eight bits.
    static PANELS: RefCell<Vec<PanelRow>> = const { RefCell::new(Vec::new()) };
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum KvFormat {
    /// As they are computed.
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// Eight bits and a scale for 32 of them: little more than a quarter of the
    /// memory.
    #[serde(rename = "q8_0")]
    Q8_0,
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
    /// How they are kept.
    pub format: KvFormat,
}

impl KvLayout {
    /// Panel rows of one head's keys in a page.
    pub(super) fn key_rows(&self) -> usize {
        2 * self.head_dim
    }

    /// Panel rows of one head's values in a page: pairs of panels.
    fn value_rows(&self) -> usize {
        self.head_dim.div_ceil(2 * GROUP) * 2 * PAGE_TOKENS
    }

    /// Panel rows of one head in a page.
    pub(super) fn head_rows(&self) -> usize {
        self.key_rows() + self.value_rows()
    }

    /// Bytes of a page.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        match self.format {
            KvFormat::F32 => self.layers * self.kv_heads * self.head_rows() * size_of::<PanelRow>(),
            KvFormat::Q8_0 => kv_quant::page_bytes(self),
        }
    }

    /// Query heads that share keys and values.
    fn heads_per_kv(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn head_start(&self, layer: usize, kv_head: usize) -> usize {
        (layer * self.kv_heads + kv_head) * self.head_rows()
    }
}

/// Keys and values of [`PAGE_TOKENS`] positions in every layer.
pub struct KvPage {
    layout: KvLayout,
    store: Store,
}

enum Store {
    /// For each layer and head: keys `[2][head_dim][16 positions]`, then values
    /// `[head_dim / 16, even][32 positions][16]`.
    F32(Slice<PanelRow>),
    Q8_0(QuantPage),
}

impl KvPage {
    /// An empty page, in an arena.
    #[must_use]
    pub fn new(layout: KvLayout, arena: &mut Arena) -> Self {
        let rows = layout.layers * layout.kv_heads * layout.head_rows();
        let store = match layout.format {
            KvFormat::F32 => Store::F32(arena.zeroed(rows)),
            KvFormat::Q8_0 => Store::Q8_0(QuantPage::new(&layout, arena)),
        };
        Self { layout, store }
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
            match &mut self.store {
                Store::F32(rows) => {
                    let start = layout.head_start(layer, head);
                    let rows = &mut rows[start..start + layout.head_rows()];
                    write_rows(&layout, rows, slot, keys, values);
                }
                Store::Q8_0(page) => {
                    let head = layer * layout.kv_heads + head;
                    page.write(&layout, (head, slot), keys, values);
                }
            }
        }
    }

    /// Hands over the panels of a head's keys.
    fn with_keys(&self, layer: usize, kv_head: usize, f: impl FnOnce((&[PanelRow], &[PanelRow]))) {
        let layout = &self.layout;
        match &self.store {
            Store::F32(rows) => {
                let start = layout.head_start(layer, kv_head);
                f(rows[start..start + layout.key_rows()].split_at(layout.head_dim));
            }
            Store::Q8_0(page) => with_panels(layout.key_rows(), |panels| {
                page.expand_keys(layout, layer * layout.kv_heads + kv_head, panels);
                f(panels.split_at(layout.head_dim));
            }),
        }
    }

    /// Hands over the panels of 32 value elements from `dim`, first `positions`
    /// positions.
    fn with_values(
        &self,
        (layer, kv_head, dim): (usize, usize, usize),
        positions: usize,
        f: impl FnOnce((&[PanelRow], &[PanelRow])),
    ) {
        let layout = &self.layout;
        let halves = |rows: &[PanelRow]| {
            let (first, second) = rows.split_at(PAGE_TOKENS);
            f((&first[..positions], &second[..positions]));
        };
        match &self.store {
            Store::F32(rows) => {
                let start = layout.head_start(layer, kv_head)
                    + layout.key_rows()
                    + dim / GROUP * PAGE_TOKENS;
                halves(&rows[start..start + 2 * PAGE_TOKENS]);
            }
            Store::Q8_0(page) => with_panels(2 * PAGE_TOKENS, |panels| {
                let head = layer * layout.kv_heads + kv_head;
                page.expand_values(layout, (head, dim), positions, panels);
                halves(panels);
            }),
        }
    }
}

/// Stores one head of a position in its rows of a page.
fn write_rows(layout: &KvLayout, rows: &mut [PanelRow], slot: usize, keys: &[f32], values: &[f32]) {
    let dim = layout.head_dim;
    let (key_rows, value_rows) = rows.split_at_mut(layout.key_rows());
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

/// Calls `f` with `count` rows of this thread, whatever is in them.
fn with_panels(count: usize, f: impl FnOnce(&mut [PanelRow])) {
    let mut panels = PANELS.take();
    panels.resize(panels.len().max(count), PanelRow([0.0; GROUP]));
    f(&mut panels[..count]);
    PANELS.replace(panels);
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
        let at_once = ROWS_AT_ONCE.div_ceil(layout.heads_per_kv());
        for kv_head in 0..layout.kv_heads {
            for first in (0..query.count).step_by(at_once) {
                tasks.push(Task {
                    layout,
                    layer,
                    query,
                    kv_head,
                    first,
                    count: at_once.min(query.count - first),
                });
            }
        }
    }
    // the largest come first, so that threads end together
    tasks.sort_by_key(|task| Reverse(task.count * task.seen()));
    let out = SharedOutput::new(out, width);
    parallel::run(tasks.len(), |i| tasks[i].run(q, &out));
}

/// Some query positions of a sequence with the heads of one group.
struct Task<'a> {
    layout: KvLayout,
    layer: usize,
    query: &'a Query<'a>,
    kv_head: usize,
    /// The first one of the query's positions.
    first: usize,
    count: usize,
}

/// What a task writes, kept by its thread for the next one.
#[derive(Default)]
struct Scratch {
    /// `[rows, head_dim]`
    q: Vec<f32>,
    /// `[rows, positions]`
    scores: Vec<f32>,
    /// `[rows, head_dim]`
    out: Vec<f32>,
}

impl Task<'_> {
    /// How many positions the last of its queries sees, if there is no window.
    fn seen(&self) -> usize {
        self.query.first_position + self.first + self.count
    }

    /// Computes its rows: for each position the heads of the group, which are
    /// neighbours in `q` and `out`.
    fn run(&self, q: &[f32], out: &SharedOutput<'_>) {
        let heads = self.layout.heads_per_kv();
        let part = heads * self.layout.head_dim;
        let width = self.layout.heads * self.layout.head_dim;
        let col = self.kv_head * part;
        let first_row = self.query.first_row + self.first;
        let mut scratch = SCRATCH.take();
        scratch.q.clear();
        for row in first_row..first_row + self.count {
            let start = row * width + col;
            scratch.q.extend_from_slice(&q[start..start + part]);
        }
        scratch.out.resize(self.count * part, 0.0);
        self.attend_rows(&mut scratch);
        let rows = scratch.out.chunks_exact(part);
        for (row, found) in (first_row..).zip(rows) {
            // SAFETY: each task has rows or heads of its own.
            unsafe { out.part(row, col, part) }.copy_from_slice(found);
        }
        SCRATCH.replace(scratch);
    }

    /// Scores, softmax and the weighted sum.
    fn attend_rows(&self, scratch: &mut Scratch) {
        let (dim, heads) = (self.layout.head_dim, self.layout.heads_per_kv());
        let (n, seen) = (self.count * heads, self.seen());
        let stride = seen.next_multiple_of(PAGE_TOKENS);
        let x = Rows {
            x: &scratch.q,
            n,
            stride: dim,
            offset: 0,
        };
        let scores = &mut scratch.scores;
        scores.resize(scores.len().max(n * stride), 0.0);
        let scores = &mut scores[..n * stride];
        self.score(x, stride, scores);
        for (i, row) in scores.chunks_exact_mut(stride).enumerate() {
            let (seen, hidden) = row.split_at_mut(seen - self.count + 1 + i / heads);
            let (past, seen) = seen.split_at_mut(seen.len().saturating_sub(self.query.window));
            math::softmax(seen);
            past.fill(0.0);
            hidden.fill(0.0);
        }
        let out = SharedOutput::new(&mut scratch.out, dim);
        self.sum_values(scores, n, stride, &out);
    }

    fn score(&self, x: Rows<'_>, stride: usize, scores: &mut [f32]) {
        let scores = SharedOutput::new(scores, stride);
        for (p, page) in self.query.pages[..stride / PAGE_TOKENS].iter().enumerate() {
            page.with_keys(self.layer, self.kv_head, |panels| {
                // SAFETY: the scores are this task's.
                unsafe { gemm::panel_product(x, panels, &scores, p * PAGE_TOKENS, Onto::Replaces) };
            });
        }
    }

    fn sum_values(&self, probabilities: &[f32], n: usize, stride: usize, out: &SharedOutput<'_>) {
        for (p, page) in self.query.pages[..stride / PAGE_TOKENS].iter().enumerate() {
            let offset = p * PAGE_TOKENS;
            let positions = (self.seen() - offset).min(PAGE_TOKENS);
            let x = Rows {
                x: probabilities,
                n,
                stride,
                offset,
            };
            for dim in (0..self.layout.head_dim).step_by(2 * GROUP) {
                let place = (self.layer, self.kv_head, dim);
                let onto = match p {
                    0 => Onto::Replaces,
                    _ => Onto::Continues,
                };
                page.with_values(place, positions, |panels| {
                    // SAFETY: the output is this task's.
                    unsafe { gemm::panel_product(x, panels, out, dim, onto) };
                });
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
